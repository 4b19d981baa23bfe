"""The feature cache: visual tokens by picture, shared by all steps and processes, verified on read, bounded in size.

One namespace holds what one encoder, seen one way, makes of any picture. docs/feature-cache.md says what is in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ovbench._base.errors import DataError
from ovbench._base.files import folder_lock, make_dir, read_json, write_json, writing
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.feature_shards import DamagedShards, Shards

log = logging.getLogger(__name__)
FOLDER = "feature_cache"  # below the folder of the whole cache
_SPACES, _USERS, _DAMAGED = "namespaces", "users", "damaged"
_CARD, _USED = "namespace.json", "used"
_LAYOUT = 1  # raised when shards or index are written another way
_PROBE_BYTES = 4 * 2**20
_SLACK_BYTES = 16 * 2**10  # kept free for cards, stamps, locks and lines that strike a shard out


class CacheFull(Exception):
    """There is no room, and nothing that may be evicted to make some."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Throughput:
    """How fast the cache's disk is."""

    write_bytes_s: float
    read_bytes_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class SpaceReport:
    """What one namespace holds."""

    key: str
    inputs: Mapping[str, Any]  # what it is keyed by; empty when its card is damaged
    num_images: int
    size_bytes: int
    used: float  # seconds since the epoch
    in_use: bool  # by a process that is alive


class FeatureCache:
    """The folder of all cached features.

    Contract: the files below `root` never take more than `max_bytes`. Every write happens under one lock of the whole
    cache, which the operating system frees when its holder dies.

    Args:
        root: The folder; made when it is first written to.
        max_bytes: The bound; 0 switches the cache off.
        shard_bytes: A shard is written when so many bytes of tokens are waiting …
        flush_s: … or when the oldest of them has waited so long, which is what a crash can cost at most.
    """

    def __init__(self, root: Path, *, max_bytes: int, shard_bytes: int = 64 * 2**20, flush_s: float = 30.0) -> None:
        self.root, self.max_bytes = root, max_bytes
        self.shard_bytes, self.flush_s = shard_bytes, flush_s
        self._throughput: Throughput | None = None

    def open(self, inputs: Mapping[str, Any]) -> Namespace:
        """Returns the namespace of everything that can change a token; it is not evicted until it is closed."""
        return Namespace(self, inputs)

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Holds the lock of the cache, waiting for it."""
        return folder_lock(self.root, wait=True, purpose="process")

    def throughput(self) -> Throughput:
        """Returns how fast the disk writes and reads, measured once."""
        if self._throughput is None:
            data = os.urandom(_PROBE_BYTES)
            make_dir(self.root)
            with writing(self.root / "probe"), tempfile.TemporaryFile(dir=self.root) as stream:
                began = time.perf_counter()
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
                wrote = time.perf_counter() - began
                if hasattr(os, "posix_fadvise"):  # not on macOS, where the read is then that of warm memory
                    os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                stream.seek(0)
                began = time.perf_counter()
                stream.read()
                read = time.perf_counter() - began
            self._throughput = Throughput(
                write_bytes_s=_PROBE_BYTES / max(wrote, 1e-9), read_bytes_s=_PROBE_BYTES / max(read, 1e-9)
            )
        return self._throughput

    # --- what is there ---------------------------------------------------------------------------------------------

    def spaces(self) -> list[SpaceReport]:
        """Returns every namespace, the least recently used first."""
        return sorted((self._report(path) for path in self._folders()), key=lambda report: (report.used, report.key))

    def _folders(self) -> list[Path]:
        base = self.root / _SPACES
        return sorted(path for path in base.iterdir() if path.is_dir()) if base.is_dir() else []

    def _report(self, path: Path) -> SpaceReport:
        shards = Shards(path)
        shards.refresh()
        try:
            inputs = dict(read_json(path / _CARD))
        except (DataError, TypeError, ValueError):
            inputs = {}
        return SpaceReport(
            key=path.name,
            inputs=inputs,
            num_images=shards.num_images,
            size_bytes=size_of(path),
            used=_used(path),
            in_use=self._in_use(path.name),
        )

    def size_bytes(self) -> int:
        """Returns what the cache takes on disk, files that were set aside included."""
        return size_of(self.root)

    def verify(self) -> tuple[int, dict[str, str]]:
        """Reads every shard and sets damaged ones aside.

        Returns:
            How many shards there were, and `namespace/shard` → what was wrong.
        """
        num_shards, faults = 0, dict[str, str]()
        for path in self._folders():
            shards = Shards(path)
            shards.refresh()
            found = {entry.file: fault for entry in shards.entries if (fault := shards.fault(entry)) is not None}
            num_shards += len(shards.entries)
            self.set_aside(shards, DamagedShards(found))
            faults.update({f"{path.name}/{file}": fault for file, fault in found.items()})
        return num_shards, faults

    def collect(self) -> int:
        """Removes damaged files and what killed writers left, evicts down to the bound, and returns the bytes freed."""
        if not self.root.is_dir():
            return 0
        with self.locked():
            before = self.size_bytes()
            shutil.rmtree(self.root / _DAMAGED, ignore_errors=True)
            for path in self._folders():
                shards = Shards(path)
                shards.refresh()
                shards.remove_orphans()
            self._evict(self._victims(), self._excess(0))
            return before - self.size_bytes()

    # --- room: the caller holds the lock ----------------------------------------------------------------------------

    def room_bytes(self) -> int:
        """Returns how much could be written now if everything that no process uses were evicted."""
        free = shutil.disk_usage(self.root).free
        kept = sum(size_of(path) for path in self._folders() if self._in_use(path.name))
        return max(0, min(self.max_bytes - _SLACK_BYTES - kept, free + self.size_bytes() - kept))

    def make_room(self, num_bytes: int) -> None:
        """Evicts the least recently used namespaces that no process uses until `num_bytes` more fit.

        Raises:
            CacheFull: They would not fit; nothing was evicted.
        """
        if (excess := self._excess(num_bytes)) <= 0:
            return
        victims = self._victims()
        if sum(size_of(path) for path in victims) < excess:
            raise CacheFull(
                f"{_gb(num_bytes)} more do not fit into the {_gb(self.max_bytes)} of the feature cache "
                "(OVBENCH_FEATURE_CACHE_GB), beside what is in use"
            )
        self._evict(victims, excess)

    def _excess(self, num_bytes: int) -> int:
        return self.size_bytes() + num_bytes - max(0, self.max_bytes - _SLACK_BYTES)

    def _victims(self) -> list[Path]:
        """Returns the folders that may go, in that order."""
        idle = [path for path in self._folders() if not self._in_use(path.name)]
        return [self.root / _DAMAGED, *sorted(idle, key=lambda path: (_used(path), path))]

    def _evict(self, victims: Sequence[Path], excess: int) -> None:
        for path in victims:
            if excess <= 0:
                return
            excess -= size_of(path)
            shutil.rmtree(path, ignore_errors=True)
            if path.name != _DAMAGED:
                log.info("feature cache: namespace %s was evicted to make room", path.name[:16])
                (self.root / _USERS / f"{path.name}.lock").unlink(missing_ok=True)

    def _in_use(self, key: str) -> bool:
        try:
            handle = os.open(self.root / _USERS / f"{key}.lock", os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(handle)
        return False

    def set_aside(self, shards: Shards, damage: DamagedShards) -> None:
        """Moves damaged shards out of the way, so that their pictures are encoded again."""
        for file, fault in damage.faults.items():
            with self.locked():
                where = shards.drop(file, self.root / _DAMAGED)
            log.warning(
                "feature cache: shard %s/%s is damaged (%s)%s; its pictures are encoded again",
                shards.folder.name[:16],
                file,
                fault,
                f": set aside as {where}" if where else "",
            )


class Namespace:
    """The tokens that one encoder, seen one way, makes of pictures; open until `close`.

    Args:
        cache: The cache.
        inputs: Everything that can change a token but the picture, JSON-able.
    """

    def __init__(self, cache: FeatureCache, inputs: Mapping[str, Any]) -> None:
        self.cache = cache
        content = {**inputs, "layout": _LAYOUT}
        self.key = fingerprint(content)
        folder = cache.root / _SPACES / self.key
        self.shards = Shards(folder)
        users = make_dir(cache.root / _USERS)
        # Contract: markers are taken, tested and removed under the cache's lock alone, so none is taken on a file that
        # an eviction has just unlinked.
        with cache.locked():
            handle = os.open(users / f"{self.key}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(handle, fcntl.LOCK_SH)
            self._close = weakref.finalize(self, os.close, handle)
            make_dir(folder)
            if not (folder / _CARD).is_file():
                write_json(folder / _CARD, content)
            (folder / _USED).touch()
        self.shards.refresh()

    def close(self) -> None:
        """Lets the namespace be evicted."""
        self._close()

    def __contains__(self, digest: str) -> bool:
        return digest in self.shards

    def refresh(self) -> None:
        """Learns what other processes have written."""
        self.shards.refresh()

    def room_bytes(self) -> int:
        """Returns how many bytes of new tokens could be stored."""
        with self.cache.locked():
            return self.cache.room_bytes()

    def add(self, tokens: Mapping[str, torch.Tensor]) -> None:
        """Stores the tokens of pictures; those that are there already are left as they are.

        Args:
            tokens: Digest of the picture → [N, C] in the type of storage.

        Raises:
            CacheFull: There is no room.
        """
        with self.cache.locked():
            self.shards.refresh()
            self.shards.remove_orphans()
            new = {digest: value for digest, value in tokens.items() if digest not in self.shards}
            if not new:
                return
            shard = self.shards.pack(list(new), torch.stack(list(new.values())))
            self.cache.make_room(shard.num_bytes)
            self.shards.commit(shard)

    def gather(self, digests: Sequence[str]) -> torch.Tensor:
        """Returns the tokens of pictures that are there, [B, N, C] in the type of storage.

        Raises:
            DamagedShards: Some cannot be believed; `set_aside` them, and encode their pictures again.
        """
        return self.shards.gather(digests)

    def set_aside(self, damage: DamagedShards) -> None:
        """Moves damaged shards out of the way."""
        self.cache.set_aside(self.shards, damage)


def size_of(path: Path) -> int:
    """Returns the bytes of all files below a folder; files that vanish meanwhile count nothing."""
    total = 0
    for base, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.stat(os.path.join(base, name)).st_size
    return total


def _used(path: Path) -> float:
    try:
        return (path / _USED).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _gb(num_bytes: int) -> str:
    """Returns a size for people, in GB of 2^30 bytes."""
    return f"{num_bytes / 2**30:.3g} GB"
