"""Cached units of work: each appears whole or not at all, is verified before it is trusted, and is made once.

A step's key is the sha256 of everything that can change its output and of its parents' keys. Device, batch size and the
number of processes are never in it.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.files import atomic_dir, folder_lock, make_dir, read_json, write_json
from ovbench._base.fingerprint import file_sha256, fingerprint

log = logging.getLogger(__name__)
MANIFEST = "manifest.json"
_DAMAGED, _WORK = "damaged", "work"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One unit of work, identified by what goes into it."""

    name: str  # `features`, `llava_stage1`, …
    version: int  # of the code: raised when the same inputs would give another output
    inputs: Mapping[str, Any]  # everything that can change the output, JSON-able
    parents: tuple[str, ...] = ()  # keys of the steps that it reads

    @property
    def key(self) -> str:
        """The sha256 that names the step's output."""
        return fingerprint(
            {"step": self.name, "version": self.version, "inputs": self.inputs, "parents": list(self.parents)}
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """Where a step's files are, and what it cost."""

    name: str  # of the step
    path: Path
    key: str
    cached: bool
    seconds: float  # of this call; what a cached step once cost is in `made_in_s`
    made_in_s: float


class StepCache:
    """The folder of finished steps.

    Args:
        root: The cache folder; made when absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = make_dir(root)

    def path(self, step: Step) -> Path:
        """Returns where a step's output is, or will be."""
        return self.root / step.name / step.key

    def find(self, step: Step) -> Path | None:
        """Returns the verified output of a step, or None; a damaged one is reported and set aside."""
        path = self.path(step)
        if not path.is_dir():
            return None
        fault = verify_entry(path)
        if fault is None:
            return path
        aside = make_dir(self.root / _DAMAGED) / f"{step.name}-{step.key[:16]}-{time.time_ns()}"
        path.rename(aside)
        log.warning(
            "cache entry %s/%s is damaged (%s): set aside as %s, computed again", step.name, step.key[:16], fault, aside
        )
        return None

    def obtain(self, step: Step, build: Callable[[Path, Path], None]) -> StepResult:
        """Returns a step's output, building it when it is not there.

        Args:
            step: What is wanted.
            build: Called as `build(out, work)`. What it leaves in `out` becomes the entry; `work` outlives a crash and
                is where checkpoints and partial answers go, so that the next call continues.
        """
        began = time.monotonic()
        if (path := self.find(step)) is not None:
            return self._result(step, path, cached=True, began=began)
        work = make_dir(self.root / _WORK / f"{step.name}-{step.key}")
        with folder_lock(work, wait=True, purpose="process"):
            if (path := self.find(step)) is not None:
                return self._result(step, path, cached=True, began=began)
            path = self.path(step)
            spent = read_json(work / "spent.json")["seconds"] if (work / "spent.json").is_file() else 0.0
            try:
                with atomic_dir(path) as out:
                    build(out, work)
                    write_json(
                        out / MANIFEST,
                        {
                            "files": describe_files(out),
                            "inputs": step.inputs,
                            "key": step.key,
                            "made_in_s": round(spent + time.monotonic() - began, 3),
                            "parents": list(step.parents),
                            "step": step.name,
                            "version": step.version,
                        },
                    )
            except BaseException:
                if work.is_dir() and any(work.iterdir()):
                    write_json(work / "spent.json", {"seconds": spent + time.monotonic() - began})
                raise
            shutil.rmtree(work, ignore_errors=True)
        return self._result(step, path, cached=False, began=began)

    def _result(self, step: Step, path: Path, *, cached: bool, began: float) -> StepResult:
        made = float(read_json(path / MANIFEST)["made_in_s"])
        return StepResult(
            name=step.name,
            path=path,
            key=step.key,
            cached=cached,
            seconds=round(time.monotonic() - began, 3),
            made_in_s=made,
        )


def describe_files(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns size and sha256 of every file below a folder, the manifest left out."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": file_sha256(path), "size_bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }


def verify_entry(path: Path) -> str | None:
    """Returns what is wrong with a cache entry, or None."""
    try:
        expected = read_json(path / MANIFEST)["files"]
    except (DataError, KeyError, TypeError):
        return "no readable manifest"
    found = {item.relative_to(path).as_posix() for item in path.rglob("*") if item.is_file()} - {MANIFEST}
    if missing := sorted(set(expected) - found):
        return f"'{missing[0]}' is missing"
    for name, entry in expected.items():
        if (path / name).stat().st_size != entry["size_bytes"] or file_sha256(path / name) != entry["sha256"]:
            return f"'{name}' does not match its digest"
    return None
