"""Pictures as a reference: their statistics, features and radii, computed once and kept in the cache.

The key is of names, sizes and times of change, so that a reference that was used before costs no decoding.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovbench._base.errors import OvbenchError, RecordError
from ovbench._base.files import folder_lock, read_json, write_json
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.feature_cache import FeatureCache
from ovbench.harness.metrics.collect import Progress, collect
from ovbench.harness.metrics.extractors import Extractor
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.manifold import squared_radii
from ovbench.harness.metrics.references import Purpose, Reference, read_reference, write_reference

FOLDER = "references"  # below the folder of the whole cache
_CARD = "card.json"
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

    def locked(self, key: str) -> contextlib.AbstractContextManager[None]:
        """Holds the lock of one reference, waiting for it."""
        return folder_lock(self.root / key, wait=True, purpose="process")

    def path(self, key: str) -> Path:
        """Returns where the statistics of a reference are."""
        return self.root / key / "statistics.npz"

    def all_keys(self) -> list[str]:
        """Returns the keys of all finished references, the least recently used first."""
        used: list[tuple[float, str]] = []
        for path in self.root.glob("*/statistics.npz") if self.root.is_dir() else ():
            with contextlib.suppress(FileNotFoundError):  # another process has just removed it
                used.append((path.stat().st_mtime, path.parent.name))
        return [key for _, key in sorted(used)]

    def size_bytes(self, key: str) -> int:
        """Returns what one reference takes, with what a killed process left beside it."""
        total = 0
        for path in (self.root / key).iterdir() if (self.root / key).is_dir() else ():
            with contextlib.suppress(FileNotFoundError):
                total += path.stat().st_size
        return total

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
        try:
            with folder_lock(self.root / key):
                return False
        except RecordError:
            return True

    def write(self, key: str, reference: Reference) -> None:
        """Stores a reference, and removes the least recently used ones above the bound."""
        write_reference(self.path(key), reference)
        write_json(self.root / key / _CARD, reference.describe)
        self.collect(keep=key)

    def remove(self, key: str) -> None:
        """Removes one reference; whoever uses it has its files open or mapped, and keeps them."""
        for path in (self.root / key).iterdir() if (self.root / key).is_dir() else ():
            if path.name != ".lock":
                path.unlink(missing_ok=True)

    def collect(self, *, keep: str | None = None) -> int:
        """Removes what killed processes left and the least recently used references above the bound; returns the bytes.

        References that a process is making or reading are left alone.
        """
        freed = self._remove_leftovers(keep)
        sizes = {key: self.size_bytes(key) for key in self.all_keys()}
        excess = sum(sizes.values()) - self.max_bytes
        removed = 0
        for key, size in sizes.items():
            if removed >= excess:
                break
            if key != keep and self._remove_idle(key):
                removed += size
        return freed + removed

    def _remove_idle(self, key: str) -> bool:
        try:
            with folder_lock(self.root / key):
                self.remove(key)
                return True
        except RecordError:
            return False

    def _remove_leftovers(self, keep: str | None) -> int:
        """Removes temporary files, features without statistics and empty folders; returns the bytes freed."""
        freed = 0
        for folder in sorted(self.root.iterdir()) if self.root.is_dir() else ():
            if not folder.is_dir() or folder.name == keep or self.in_use(folder.name):
                continue
            before = self.size_bytes(folder.name)
            for path in folder.glob(".*.tmp"):
                path.unlink(missing_ok=True)
            if not self.path(folder.name).is_file():
                shutil.rmtree(folder, ignore_errors=True)
            freed += before - self.size_bytes(folder.name)
        return freed


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
        crop="none" if source.crop_px is None else f"ADM centre {source.crop_px}",
        split=split,
        source_sha256=source.report.pixels_sha256,
        features=features.rows[info.pool],
        notes=tuple(source.report.warnings()),
        size_px=source.report.size,
        num_distinct=source.report.num_distinct,
        left_out=tuple(str(entry) for entry in source.report.bad),
    )
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
