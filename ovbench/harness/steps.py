"""Cached units of work: each appears whole or not at all, is verified before it is trusted, and is made once.

A step's key is the sha256 of everything that can change its output and of its parents' keys. Device, batch size and the
number of processes are never in it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.files import atomic_dir, folder_lock, make_dir, read_json, write_json
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench.harness.use_marks import UseMark, mark_in_use

log = logging.getLogger(__name__)
MANIFEST, _SPENT = "manifest.json", "spent.json"
DAMAGED, WORK, LOCKS = "damaged", "work", "locks"  # folders beside those of steps


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
    made_in_s: float | None  # None: not known any more


class StepCache:
    """The folder of finished steps.

    Args:
        root: The cache folder; made when absent.
    """

    def __init__(self, root: Path) -> None:
        self.root = make_dir(root)
        # Verified by this object, so that large entries are hashed once a run; the marks keep `ovbench cache gc` away.
        self._trusted: dict[Path, UseMark] = {}

    def path(self, step: Step) -> Path:
        """Returns where a step's output is, or will be."""
        return self.root / step.name / step.key

    def find(self, step: Step) -> Path | None:
        """Returns the verified output of a step; None when it is absent or damaged. Changes nothing."""
        path = self.path(step)
        if path in self._trusted and path.is_dir():
            return path
        if (mark := mark_in_use(path / MANIFEST)) is not None and verify_entry(path) is None:
            self._trusted[path] = mark
            return path
        return None

    def obtain(self, step: Step, build: Callable[[Path, Path], None]) -> StepResult:
        """Returns a step's output, building it when it is not there; a damaged one is reported and set aside.

        Args:
            step: What is wanted.
            build: Called as `build(out, work)`. What it leaves in `out` becomes the entry; `work` outlives a crash and
                is where checkpoints and partial answers go, so that the next call continues.
        """
        asked = time.monotonic()
        if (path := self.find(step)) is not None:
            return self._result(step, path, cached=True, began=asked)
        # The lock lies outside the work folder, which is removed while others may be waiting.
        with self.building(step.name, step.key, wait=True):
            began = time.monotonic()
            if (path := self.find(step)) is not None:
                return self._result(step, path, cached=True, began=began)
            path = self.path(step)
            self._set_aside(step, path)
            for left in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            work = make_dir(self.root / WORK / f"{step.name}-{step.key}")
            spent = _seconds_spent(work)
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
                if any(work.iterdir()):
                    write_json(work / _SPENT, {"seconds": spent + time.monotonic() - began})
                raise
            shutil.rmtree(work, ignore_errors=True)
        if (mark := mark_in_use(path / MANIFEST)) is not None:
            self._trusted[path] = mark
        return self._result(step, path, cached=False, began=began)

    def building(self, name: str, key: str, *, wait: bool) -> contextlib.AbstractContextManager[None]:
        """Holds the lock of the one who builds, or removes, a step.

        Raises:
            RecordError: Another process holds it and `wait` is off.
        """
        return folder_lock(self.root / LOCKS / f"{name}-{key[:32]}", wait=wait, purpose="process")

    def describe(self, step: Step) -> StepResult:
        """Returns what is known of a step that this run had no need of; its files are neither read nor verified."""
        path = self.path(step)
        try:
            made: float | None = float(read_json(path / MANIFEST)["made_in_s"])
        except (DataError, KeyError, TypeError, ValueError):
            made = None  # the entry was removed to save space; what was made from it is still there
        return StepResult(name=step.name, path=path, key=step.key, cached=True, seconds=0.0, made_in_s=made)

    def _set_aside(self, step: Step, path: Path) -> None:
        if not path.is_dir():
            return
        aside = make_dir(self.root / DAMAGED) / f"{step.name}-{step.key[:16]}-{time.time_ns()}"
        fault = verify_entry(path)
        path.rename(aside)
        log.warning(
            "cache entry %s/%s is damaged (%s): set aside as %s, computed again",
            step.name,
            step.key[:16],
            fault,
            aside,
        )

    def _result(self, step: Step, path: Path, *, cached: bool, began: float) -> StepResult:
        made = float(read_json(path / MANIFEST)["made_in_s"])
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(path / MANIFEST)  # when it was last used
        seconds = round(time.monotonic() - began, 3)
        return StepResult(name=step.name, path=path, key=step.key, cached=cached, seconds=seconds, made_in_s=made)


def _seconds_spent(work: Path) -> float:
    """Returns what earlier, interrupted attempts cost; 0 when no readable note of it is there."""
    try:
        return float(read_json(work / _SPENT)["seconds"])
    except (DataError, KeyError, TypeError, ValueError):
        return 0.0


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
