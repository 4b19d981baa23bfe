"""Finished and unfinished steps, cut pictures and vision towers, seen from outside a run: listed, verified, removed.

Contract: what a living process uses or builds is never touched; its marks and locks say so.
"""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ovbench._base.errors import DataError, RecordError
from ovbench._base.files import read_json
from ovbench.harness.feature_cache import FOLDER as FEATURES
from ovbench.harness.feature_cache import size_of
from ovbench.harness.generation.crop_cache import FOLDER as CROPS
from ovbench.harness.generation.crop_cache import cutting, shard_fault, shard_path
from ovbench.harness.metrics.reference_cache import FOLDER as REFERENCES
from ovbench.harness.steps import DAMAGED, LOCKS, MANIFEST, WORK, StepCache, verify_entry
from ovbench.harness.tower_cache import FOLDER as TOWERS
from ovbench.harness.tower_cache import MARK as TOWER_MARK
from ovbench.harness.use_marks import unused

log = logging.getLogger(__name__)
UNFINISHED_DAYS = 7.0  # work of a run that was stopped is kept so long where nothing else is said
_DAY_S = 86_400.0
_FRESH_S = 60.0  # a command may still be copying the pictures of a run whose worker has ended
_KEY = re.compile(r"[0-9a-f]{64}")
_UNFINISHED = re.compile(r"(?P<step>.+)-(?P<key>[0-9a-f]{64})")
_NO_STEPS = {FEATURES, REFERENCES, CROPS, DAMAGED, WORK, LOCKS, "scratch", "weights", TOWERS}
_NOTES = {"picture-index": "index of pictures", "preflight": "preflight reports", "tar-index": "index of archives"}
Kind = Literal["step", "unfinished", "crops", "tower", "notes"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """One thing that the cache holds and that can be made again."""

    kind: Kind
    name: str  # of the step, or the folder of crops
    key: str
    path: Path
    size_bytes: int
    used: float  # seconds since the epoch
    in_use: bool

    @property
    def title(self) -> str:
        """What it is, for people."""
        return {
            "step": f"step {self.name}",
            "unfinished": f"step {self.name}, unfinished",
            "crops": "crops",
            "tower": "vision tower of a checkpoint",
            "notes": _NOTES.get(self.name, ""),
        }[self.kind]

    @property
    def mark(self) -> Path:
        """The file that processes mark as long as they use this, and whose time says when it was last used."""
        return self.path / (TOWER_MARK if self.kind == "tower" else MANIFEST)


@dataclass(kw_only=True, slots=True)
class Freed:
    """What a collection removed."""

    num_bytes: int = 0
    kept_bytes: int = 0
    titles: dict[str, int] = field(default_factory=dict)  # what → how many

    def add(self, title: str, num_bytes: int) -> None:
        """Counts one more."""
        self.titles[title] = self.titles.get(title, 0) + 1
        self.num_bytes += num_bytes

    @property
    def words(self) -> str:
        """The titles with their numbers."""
        return ", ".join(f"{count} x {title}" for title, count in sorted(self.titles.items()))


class CachedWork:
    """Steps, crops and vision towers below the folder of the whole cache.

    Args:
        root: The folder, which is there.
    """

    def __init__(self, root: Path) -> None:
        self.root, self._steps = root, StepCache(root)

    # --- what is there -----------------------------------------------------------------------------------------------

    def all(self) -> list[Held]:
        """Returns everything that can be removed, the least recently used first."""
        found = [*self._finished(), *self._unfinished(), *self._crops(), *self._towers()]
        return sorted(found, key=lambda held: (held.used, held.name, held.key))

    def notes(self) -> list[Held]:
        """Returns the folders of small files that save reading data again; they are never collected."""
        return [
            Held(
                kind="notes",
                name=path.name,
                key=path.name,
                path=path,
                size_bytes=size_of(path),
                used=_newest(path),
                in_use=False,
            )
            for path in _folders(self.root)
            if path.name in _NOTES
        ]

    def _finished(self) -> Iterator[Held]:
        for folder in _folders(self.root):
            if folder.name in _NO_STEPS or folder.name in _NOTES or folder.name.startswith("."):
                continue
            for path in _folders(folder):
                if _KEY.fullmatch(path.name):
                    yield self._held("step", folder.name, path.name, path, path / MANIFEST)

    def _unfinished(self) -> Iterator[Held]:
        for path in _folders(self.root / WORK):
            if (found := _UNFINISHED.fullmatch(path.name)) is not None:
                with self._building(found["step"], found["key"]) as free:
                    yield Held(
                        kind="unfinished",
                        name=found["step"],
                        key=found["key"],
                        path=path,
                        size_bytes=size_of(path),
                        used=_newest(path),
                        in_use=not free,
                    )

    def _crops(self) -> Iterator[Held]:
        for folder in _folders(self.root / CROPS):
            for path in _folders(folder):
                yield self._held("crops", folder.name, path.name, path, path / MANIFEST)

    def _towers(self) -> Iterator[Held]:
        for path in _folders(self.root / TOWERS):
            if not path.name.startswith("."):  # one that is being written
                yield self._held("tower", TOWERS, path.name, path, path / TOWER_MARK)

    def _held(self, kind: Kind, name: str, key: str, path: Path, marked: Path) -> Held:
        with unused(marked) as free:
            return Held(
                kind=kind,
                name=name,
                key=key,
                path=path,
                size_bytes=size_of(path),
                used=_changed(marked),
                in_use=not free,
            )

    @contextlib.contextmanager
    def _building(self, name: str, key: str) -> Iterator[bool]:
        """Yields whether nobody builds a step; while it is so, nobody begins to."""
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._steps.building(name, key, wait=False))
                free = True
            except RecordError:
                free = False
            yield free

    # --- verify ------------------------------------------------------------------------------------------------------

    def verify(self) -> tuple[int, dict[str, str]]:
        """Reads everything that is finished; damaged steps are set aside, damaged shards of crops are removed.

        Returns:
            How many steps and shards there were, and what was wrong with which.
        """
        count, faults = 0, dict[str, str]()
        for held in list(self._finished()):
            fault = verify_entry(held.path)
            if not held.path.is_dir():
                continue  # another process has removed it meanwhile
            count += 1
            if fault is not None:
                kept = "" if self._set_aside(held) else "; it is in use and stays"
                faults[f"{held.name}/{held.key[:16]}"] = f"{fault}{kept}"
        for held in list(self._crops()):
            checked, found = _verify_crops(held.path)
            count += checked
            faults |= {f"{CROPS}/{held.name}/{file}": fault for file, fault in found.items()}
        return count, faults

    def _set_aside(self, held: Held) -> bool:
        with self._building(held.name, held.key) as nobody_builds, unused(held.path / MANIFEST) as free:
            if not (nobody_builds and free):
                return False
            aside = self.root / DAMAGED / f"{held.name}-{held.key[:16]}-{time.time_ns()}"
            aside.parent.mkdir(exist_ok=True)
            held.path.rename(aside)
            return True

    # --- collect -----------------------------------------------------------------------------------------------------

    def collect(self, *, older_than_days: float | None = None, max_bytes: int | None = None) -> Freed:
        """Removes damaged and abandoned files, what was not used for long, and the least recently used above a bound.

        Args:
            older_than_days: Days without use after which steps, crops and towers go; None: only unfinished steps go,
                after `UNFINISHED_DAYS`.
            max_bytes: What these may take together; None: no bound.
        """
        freed, now = Freed(), time.time()
        self._remove_rubbish(freed, now)
        left: list[Held] = []
        for held in self.all():
            days = UNFINISHED_DAYS if older_than_days is None and held.kind == "unfinished" else older_than_days
            if not (days is not None and now - held.used >= days * _DAY_S and self._remove(held, freed)):
                left.append(held)
        excess = 0 if max_bytes is None else sum(held.size_bytes for held in left) - max_bytes
        for held in list(left):
            if excess <= 0:
                break
            if now - held.used >= _FRESH_S and self._remove(held, freed):
                excess -= held.size_bytes
                left.remove(held)
        freed.kept_bytes = sum(held.size_bytes for held in left)
        return freed

    def _remove(self, held: Held, freed: Freed) -> bool:
        """Removes one entry that nobody uses; returns whether it did."""
        with contextlib.ExitStack() as stack:
            if held.kind != "crops" and not stack.enter_context(self._building(held.name, held.key)):
                return False
            if held.kind != "unfinished" and not stack.enter_context(unused(held.mark)):
                return False
            # An entry vanishes at once, and a kill on the way leaves what the next collection knows.
            gone = held.path.with_name(f".{held.path.name}.gone.tmp")
            shutil.rmtree(gone, ignore_errors=True)
            try:
                held.path.rename(gone)
            except FileNotFoundError:  # another collection was faster
                return False
            shutil.rmtree(gone, ignore_errors=True)
        if held.kind == "crops":
            with contextlib.suppress(OSError):  # crops of another split are beside it
                held.path.parent.rmdir()
        log.info("cache: %s %s was removed", held.title, held.key[:16])
        freed.add(held.title, held.size_bytes)
        return True

    def _remove_rubbish(self, freed: Freed, now: float) -> None:
        damaged = self.root / DAMAGED
        for path in [*_folders(damaged), *self._gone(), *_folders(self.root / "scratch")]:
            if path.parent.name == "scratch" and now - _newest(path) < _DAY_S:
                continue  # of a run that may be alive
            freed.add("damaged" if path.parent == damaged else "abandoned", size_of(path))
            shutil.rmtree(path, ignore_errors=True)
        for folder in _folders(self.root):
            if folder.name in _NO_STEPS - {TOWERS} or folder.name in _NOTES:
                continue
            for path in folder.glob(".*.tmp"):
                key = path.name.split(".")[1]
                with self._building(folder.name, key) as free:
                    if free and path.is_dir():
                        freed.add("abandoned", size_of(path))
                        shutil.rmtree(path, ignore_errors=True)

    def _gone(self) -> list[Path]:
        """Returns what a killed collection left of unfinished steps and of crops."""
        places = [self.root / WORK, *_folders(self.root / CROPS)]
        return [path for place in places for path in place.glob(".*.gone.tmp")]


def _verify_crops(folder: Path) -> tuple[int, dict[str, str]]:
    """Returns how many shards a folder of crops has, and file → fault; damaged shards are removed and cut again."""
    try:
        card: Mapping[str, Any] = read_json(folder / MANIFEST)
        total, per_shard, side_px = (int(card[name]) for name in ("num_pictures", "shard_pictures", "side_px"))
    except (DataError, KeyError, TypeError, ValueError):
        return 1, {MANIFEST: "it cannot be read: remove the folder, and its pictures are cut again"}
    count, faults = 0, dict[str, str]()
    for shard, first in enumerate(range(0, total, per_shard)):
        path = shard_path(folder, shard)
        with contextlib.suppress(FileNotFoundError):  # not cut yet, or just removed
            fault = shard_fault(path, first, min(per_shard, total - first), side_px)
            count += 1
            if fault is None:
                continue
            faults[path.name] = fault
            try:
                with cutting(folder, shard, wait=False):
                    path.unlink(missing_ok=True)
            except RecordError:
                continue  # it is just being cut again
    return count, faults


def _folders(path: Path) -> Sequence[Path]:
    try:
        return sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.is_symlink())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _newest(path: Path) -> float:
    """Returns when anything below a folder changed last."""
    return max(map(_changed, (path, *path.rglob("*"))))
