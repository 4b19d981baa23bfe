"""Pictures as a reference: their statistics, features and radii, computed once and kept in the cache.

The key is of names, sizes and times of change, so that a reference that was used before costs no decoding.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovbench._base.errors import OvbenchError
from ovbench._base.files import make_dir, read_json, write_json, writing
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.feature_cache import FeatureCache
from ovbench.harness.metrics.collect import Progress, collect
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.manifold import squared_radii
from ovbench.harness.metrics.references import Purpose, Reference, check_statistics, read_reference, write_reference
from ovbench.harness.use_marks import is_at

FOLDER = "references"  # below the folder of the whole cache
_CARD, _LOCK = "card.json", ".lock"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundReference:
    """A reference, and whether it had to be made."""

    reference: Reference
    cached: bool
    num_computed: int  # pictures that went through the network now
    seconds: float


def reference_key(source: ImageSource, extractor: Extractor, purpose: Purpose) -> str:
    """Returns the key of a reference in the cache."""
    return fingerprint([str(source.path.resolve()), source.quick_key(), extractor.info.fingerprint(), purpose])


def reference_of(
    source: ImageSource,
    extractor: Extractor,
    *,
    purpose: Purpose,
    cache_folder: Path,
    cache: FeatureCache | None,
    tile: Callable[[int], int] | None = None,
    split: str | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> FoundReference:
    """Returns pictures as a reference, from the cache where it is there.

    Args:
        source: The pictures.
        extractor: The network.
        purpose: What it is a reference for.
        cache_folder: The folder of the whole cache.
        cache: The feature cache; None: nothing is read from a cache or kept in one.
        tile: Pictures of the reference → tile of the radii of precision and recall; None: radii are not wanted.
        split: Which pictures they are, e.g. `val`, for the record.
        batch_size: As in `collect`.
        progress: As in `collect`.

    Raises:
        DataError: Unusable pictures, or fewer than two.
        ConfigError: The cache cannot be written to.
    """
    if cache is None:
        made, computed, seconds = _make(source, extractor, purpose, split, cache_folder, None, batch_size, progress)
        return FoundReference(
            reference=_with_radii(made, tile, extractor), cached=False, num_computed=computed, seconds=seconds
        )
    store = ReferenceStore(cache_folder / FOLDER, max_bytes=cache.max_bytes)
    key = reference_key(source, extractor, purpose)
    with store.locked(key):
        found = store.read(key)
        if found is None:
            made, computed, seconds = _make(
                source, extractor, purpose, split, cache_folder, cache, batch_size, progress
            )
            made = _with_radii(made, tile, extractor)
            store.write(key, made)
            return FoundReference(reference=made, cached=False, num_computed=computed, seconds=seconds)
        reference = replace(found, name=source.path.name, split=split or found.split)
        complete = _with_radii(reference, tile, extractor)
        if complete is not reference:
            store.write(key, complete)
    return FoundReference(reference=complete, cached=True, num_computed=0, seconds=0.0)


class ReferenceStore:
    """The references of the cache: a folder each, the least recently used removed above a bound.

    Args:
        root: The folder of all of them.
        max_bytes: What they may take together; the newest is kept even where it is larger.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self.root, self.max_bytes = root, max_bytes

    @contextlib.contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Holds the lock of one reference, waiting for it."""
        with _hold(self.root / key, wait=True):
            yield

    def path(self, key: str) -> Path:
        """Returns where the statistics of a reference are."""
        return self.root / key / "statistics.npz"

    def all_keys(self) -> list[str]:
        """Returns the keys of all finished references, the least recently used first."""
        used = {key: self.used(key) for key in self._all_folders()}
        return sorted((key for key, when in used.items() if when), key=lambda key: (used[key], key))

    def _all_folders(self) -> list[str]:
        """Returns the keys of all folders, those without a finished reference included."""
        return sorted(path.name for path in _entries(self.root) if path.is_dir())

    def size_bytes(self, key: str) -> int:
        """Returns what one reference takes, with what a killed process left beside it."""
        total = 0
        for path in _entries(self.root / key):
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                total += path.stat().st_size
        return total

    def total_bytes(self) -> int:
        """Returns what all references take, unfinished ones included."""
        return sum(map(self.size_bytes, self._all_folders()))

    def used(self, key: str) -> float:
        """Returns when a reference was last used, in seconds since the epoch; 0 where it is gone."""
        try:
            return self.path(key).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def read(self, key: str) -> Reference | None:
        """Returns a reference that is there; a damaged one is said, removed and missing."""
        path = self.path(key)
        if not path.is_file():
            return None
        found, fault = self._load(path)
        if found is None:
            _log.warning("a cached reference is damaged and is made again: %s", fault)
            self.remove(key)
            return None
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return found

    def fault(self, key: str) -> str | None:
        """Returns what is wrong with a reference, or None; reads all of it."""
        return self._load(self.path(key))[1]

    def _load(self, path: Path) -> tuple[Reference | None, str | None]:
        try:
            found = read_reference(path)
        except OvbenchError as error:
            return None, error.what
        return (None, "its features are missing") if found.features is None else (found, None)

    def card(self, key: str) -> dict[str, Any]:
        """Returns what a reference is of, without reading it; empty where its card is damaged."""
        try:
            return dict(read_json(self.root / key / _CARD))
        except (OvbenchError, TypeError, ValueError):
            return {}

    def in_use(self, key: str) -> bool:
        """Returns whether a process is making or reading it."""
        with _hold(self.root / key, wait=False) as held:
            return not held and (self.root / key).is_dir()

    def write(self, key: str, reference: Reference) -> None:
        """Stores a reference, and removes the least recently used ones above the bound; the caller holds its lock."""
        self._remove_temporaries(key)
        write_reference(self.path(key), reference)
        write_json(self.root / key / _CARD, reference.describe)
        self.collect(keep=key)

    def remove(self, key: str) -> None:
        """Removes one reference, whose lock the caller holds; who has its files open or mapped keeps them."""
        for path in _entries(self.root / key):
            if path.name != _LOCK and not path.is_dir():
                path.unlink(missing_ok=True)

    def collect(self, *, keep: str | None = None) -> int:
        """Removes what killed processes left and the least recently used references above the bound; returns the bytes.

        References that a process is making or reading are left alone.

        Args:
            keep: A reference whose lock the caller holds; it stays.
        """
        freed = sum(self._remove_leftovers(key) for key in self._all_folders() if key != keep)
        excess = self.total_bytes() - self.max_bytes
        for key in self.all_keys():
            if excess <= 0:
                break
            if key != keep:
                removed = self._evict(key)
                freed, excess = freed + removed, excess - removed
        return freed

    def _evict(self, key: str) -> int:
        """Removes one reference that no process uses; returns the bytes freed."""
        with _hold(self.root / key, wait=False) as held:
            if not held:
                return 0
            before = self.size_bytes(key)
            self._remove_folder(key)
            return before - self.size_bytes(key)

    def _remove_leftovers(self, key: str) -> int:
        """Removes temporary files, or the whole folder where no statistics are in it; returns the bytes freed."""
        with _hold(self.root / key, wait=False) as held:
            if not held:
                return 0
            before = self.size_bytes(key)
            if self.path(key).is_file():
                self._remove_temporaries(key)
            else:
                self._remove_folder(key)
            return before - self.size_bytes(key)

    def _remove_temporaries(self, key: str) -> None:
        for path in _entries(self.root / key):
            if path.suffix == ".tmp":
                path.unlink(missing_ok=True)

    def _remove_folder(self, key: str) -> None:
        # Contract: the lock goes last: who takes a new one in its place finds an empty folder, not one that shrinks.
        self.remove(key)
        (self.root / key / _LOCK).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # another process has just begun a new reference in it
            (self.root / key).rmdir()


def _entries(folder: Path) -> list[Path]:
    """Returns what is in a folder; nothing where it is gone."""
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


@contextlib.contextmanager
def _hold(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Yields whether the lock of a folder is held; without waiting, a folder that is gone is not made again.

    Trap: a folder goes together with its lock, so a lock counts only while its file is still the one at its path.
    """
    path = folder / _LOCK
    while True:
        if wait:
            make_dir(folder.parent)
            with writing(path), contextlib.suppress(FileExistsError, FileNotFoundError):
                folder.mkdir()
        with writing(path):
            try:
                handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            except FileNotFoundError:
                if wait:
                    continue
                handle = None
        if handle is None:
            yield False
            return
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                held = False
            if not held or is_at(handle, path):
                yield held
                return
        finally:
            os.close(handle)


def _make(
    source: ImageSource,
    extractor: Extractor,
    purpose: Purpose,
    split: str | None,
    cache_folder: Path,
    cache: FeatureCache | None,
    batch_size: int | None,
    progress: Progress | None,
) -> tuple[Reference, int, float]:
    info = extractor.info
    spatial = info.spatial if info.spatial in info.layers else None
    found = collect(
        source,
        extractor,
        keep=(info.pool,),
        stream=() if spatial is None else (spatial,),
        folder=cache_folder / "scratch",
        cache=cache,
        batch_size=batch_size,
        progress=progress,
    )
    features = found.features
    reference = Reference(
        name=source.path.name,
        pool=features.gaussian(info.pool),
        spatial=None if spatial is None else features.gaussian(spatial),
        n=features.count,
        purpose=purpose,
        network=info.network,
        extractor=info.name,
        weights_sha256=info.weights_sha256,
        resize=info.resize,
        quantise="stored",
        crop=source.crop,
        split=split,
        source_sha256=source.report.pixels_sha256,
        features=features.rows[info.pool],
        notes=tuple(source.report.warnings()),
        size_px=source.report.size,
        num_distinct=source.report.num_distinct,
        left_out=tuple(str(entry) for entry in source.report.bad),
    )
    check_statistics(reference)
    return reference, found.num_computed, found.seconds


def _with_radii(reference: Reference, tile: Callable[[int], int] | None, extractor: Extractor) -> Reference:
    """Returns the reference with the radii of precision and recall for a tile, if they are wanted and not there."""
    if tile is None or reference.features is None or len(reference.features) <= 3:
        return reference
    wanted = tile(len(reference.features))
    if reference.radii_k3 is not None and reference.radii_tile == wanted:
        return reference
    radii = squared_radii(reference.features, tile=wanted, device=extractor.device)
    return replace(reference, radii_k3=radii, radii_tile=wanted)
