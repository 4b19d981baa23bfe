"""ADM's centre crops of a set of pictures, cut once and kept on disk as raw uint8 shards.

Decoding one of ImageNet's originals takes several milliseconds; a crop of 256 pixels is read in a fraction of that.
The cost is disk: 252 GB for the training set at 256 pixels. Shards appear whole or not at all, several processes may
cut at the same time, and a damaged shard is found when it is read and cut again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.files import atomic_file, folder_lock, make_dir, read_json, write_json
from ovbench._base.fingerprint import fingerprint
from ovbench.encoders.preprocess import adm_center_crop
from ovbench.harness.generation.labelled_source import LabelledSource
from ovbench.harness.use_marks import mark_in_use

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")
FOLDER = "crops"  # below the folder of the whole cache
MANIFEST = "manifest.json"
_ALGORITHM = "adm-centre/1"  # of `adm_center_crop`; another one is another cache
_MAPPED = 512  # shards that are held open; a process may often have 1024 files
_CHUNK = 128  # pictures that are in memory while a shard is cut: 25 MB at 256 pixels
_ROWS = 32  # pictures that a thread reads at least: fewer are not worth one


def default_threads() -> int:
    """Returns how many threads decode by default: one per core that the process may use, 16 at most."""
    return max(1, min(16, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))


def in_threads(work: Callable[[S], T], items: Sequence[S], threads: int) -> list[T]:
    """Returns the results of `work` in the order of the items; the first error is raised."""
    if threads == 1 or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(threads, len(items)), thread_name_prefix="decode") as pool:
        return list(pool.map(work, items))


def centre_crop_u8(source: LabelledSource, index: int, side_px: int) -> NDArray[np.uint8]:
    """Returns ADM's centre crop of a picture, uint8 [side_px, side_px, 3], RGB.

    Raises:
        DataError: The picture cannot be read, or its shape is too extreme; it is named.
    """
    picture = source.read(index)
    try:
        return np.asarray(adm_center_crop(picture, side_px))
    except DataError as error:
        raise DataError(error.what, where=str(source.path / source.item(index)), fix=error.fix) from error


class CropCache:
    """Crops of all pictures of a source, below a folder of their own.

    A shard holds n pictures, uint8 [n, S, S, 3] without a header, and then one CRC-32 per picture, uint32
    little-endian [n], of the picture's bytes and its number. Every read is checked against it.

    Args:
        folder: Where caches are kept; this one gets a folder in it, named by what it holds.
        source: The originals.
        side_px: Side of the crops.
        shard_pictures: Pictures of a shard; the last may hold fewer.
        threads: That decode; None: `default_threads`.

    Raises:
        ConfigError: A setting that cannot be used, or the folder cannot be written.
        DataError: The folder's manifest is damaged or of other crops.
    """

    def __init__(
        self,
        folder: Path,
        source: LabelledSource,
        *,
        side_px: int = 256,
        shard_pictures: int = 4096,
        threads: int | None = None,
    ) -> None:
        self.threads = default_threads() if threads is None else threads
        for name, value in (("side_px", side_px), ("shard_pictures", shard_pictures), ("threads", self.threads)):
            if value < 1:
                raise ConfigError(f"it must be 1 or more, got {value}", where=name)
        self._source, self.side_px, self._per_shard = source, side_px, shard_pictures
        self.num_pictures = source.num_pictures
        self._picture_bytes = side_px * side_px * 3
        manifest = {
            "schema": 1,
            "algorithm": _ALGORITHM,
            "source": source.digest,
            "num_pictures": source.num_pictures,
            "side_px": side_px,
            "shard_pictures": shard_pictures,
        }
        self.folder = folder.expanduser() / f"crops-{side_px}px-{fingerprint(manifest)[:16]}"
        mark = None
        while mark is None:  # `ovbench cache gc` may be removing what was there
            self._open_manifest(manifest)
            mark = mark_in_use(self.folder / MANIFEST)
        self._mark = mark
        with contextlib.suppress(OSError):  # a cache that may only be read
            os.utime(self.folder / MANIFEST)  # when it was last used
        self._lock, self._mapped = Lock(), OrderedDict[int, NDArray[np.uint8]]()

    def _open_manifest(self, manifest: dict[str, Any]) -> None:
        path = self.folder / MANIFEST
        if not path.is_file():
            make_dir(self.folder)
            write_json(path, manifest)
            return
        fix = f"remove the folder {self.folder.name}: its crops are cut again"
        try:
            found = read_json(path)
        except DataError as error:
            raise DataError(error.what, where=error.where, fix=fix) from error
        if found != manifest:
            raise DataError(f"'{MANIFEST}' is of other crops than the folder's name says", where=str(path), fix=fix)

    # --- sizes -------------------------------------------------------------------------------------------------------

    @property
    def num_shards(self) -> int:
        """How many shards there are when all are cut."""
        return -(-self.num_pictures // self._per_shard)

    @property
    def num_bytes(self) -> int:
        """What all of them take on disk."""
        return self.num_pictures * (self._picture_bytes + 4)

    def _range(self, shard: int) -> range:
        return range(shard * self._per_shard, min((shard + 1) * self._per_shard, self.num_pictures))

    def _bytes_of(self, shard: int) -> int:
        return len(self._range(shard)) * (self._picture_bytes + 4)

    def _path(self, shard: int) -> Path:
        return shard_path(self.folder, shard)

    def missing(self) -> list[int]:
        """Returns the shards that are not there or not of the right size."""
        return [shard for shard in range(self.num_shards) if not self._is_there(shard)]

    def _is_there(self, shard: int) -> bool:
        try:
            return self._path(shard).stat().st_size == self._bytes_of(shard)
        except FileNotFoundError:
            return False

    def has(self, index: int) -> bool:
        """Whether a picture's shard is there."""
        shard = index // self._per_shard
        return shard in self._mapped or self._is_there(shard)

    # --- writing -----------------------------------------------------------------------------------------------------

    def fill(self, *, rank: int = 0, num_ranks: int = 1, on_shard: Callable[[int, int], None] | None = None) -> None:
        """Cuts what is missing; returns when every shard is there.

        Several processes may call it at once, on the same or other machines that share the folder's locks: each begins
        at another shard, takes those that nobody holds, and waits in the end for the others.

        Args:
            rank: Number of this process, for where it begins.
            num_ranks: Processes that do the same.
            on_shard: Called after each shard that was cut here, with its number and how many there are.

        Raises:
            ConfigError: The disk has too little space, or became full: finished shards are kept, and the next call goes
                on after them.
            DataError: A picture cannot be read.
        """
        if not 0 <= rank < num_ranks:
            raise ConfigError(f"rank {rank} of {num_ranks}", where="crop cache")
        missing = self.missing()
        if not missing:
            return
        self._check_space(missing)
        first = rank * len(missing) // num_ranks
        held = []
        for shard in missing[first:] + missing[:first]:
            try:
                self._cut_if_missing(shard, wait=False, on_shard=on_shard)
            except RecordError:  # another process cuts it
                held.append(shard)
        for shard in held:  # and may have been killed at it
            self._cut_if_missing(shard, wait=True, on_shard=on_shard)

    def _check_space(self, missing: Sequence[int]) -> None:
        # What others are writing, or left when they were killed, lies on the disk already or will be removed.
        partial = 0
        for path in self._partial("*"):
            with contextlib.suppress(FileNotFoundError):  # it has just become a shard
                partial += path.stat().st_size
        needed = max(0, sum(map(self._bytes_of, missing)) - partial)
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise ConfigError(
                f"the crops need {_gb(needed)} more on disk ({self.num_pictures} pictures of {self.side_px}×"
                f"{self.side_px}×3 bytes, {_gb(self.num_bytes)} in all), and {_gb(free)} are free",
                where=str(self.folder),
                fix="free some space, choose another folder, or go without a cache: pictures are decoded each time",
            )

    def _partial(self, shard: str) -> list[Path]:
        return list(self.folder.glob(f".crops-{shard}.u8.*.tmp"))

    @contextlib.contextmanager
    def _locked(self, shard: int, *, wait: bool) -> Iterator[None]:
        with cutting(self.folder, shard, wait=wait):
            yield

    def _cut_if_missing(self, shard: int, *, wait: bool, on_shard: Callable[[int, int], None] | None) -> None:
        if self._is_there(shard):
            return
        with self._locked(shard, wait=wait):
            if self._is_there(shard):
                return
            self._cut(shard)
        log.info("crops: shard %d of %d is there", shard, self.num_shards)
        if on_shard is not None:
            on_shard(shard, self.num_shards)

    def _cut(self, shard: int) -> None:
        """Writes a shard; the caller holds its lock."""
        for left in self._partial(f"{shard:05d}"):  # by a process that was killed: nobody else writes this shard
            left.unlink(missing_ok=True)
        numbers = self._range(shard)
        sums: list[int] = []
        with atomic_file(self._path(shard)) as temporary, temporary.open("r+b") as stream:
            for start in range(0, len(numbers), _CHUNK):
                chunk = numbers[start : start + _CHUNK]
                for index, crop in zip(chunk, in_threads(self._crop, chunk, self.threads), strict=True):
                    data = crop.tobytes()
                    sums.append(_checksum(data, index))
                    stream.write(data)
            stream.write(np.array(sums, "<u4").tobytes())

    def _crop(self, index: int) -> NDArray[np.uint8]:
        return centre_crop_u8(self._source, index, self.side_px)

    # --- reading -----------------------------------------------------------------------------------------------------

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Returns crops, uint8 [B, S, S, 3]; damaged shards are cut again, and missing ones are cut.

        Raises:
            ConfigError: There is no such picture, or the disk is full.
            DataError: A picture of a shard that must be cut cannot be read.
        """
        for index in indices:
            if not 0 <= index < self.num_pictures:
                raise ConfigError(f"there is no picture {index} of {self.num_pictures}", where="index")
        out = np.empty((len(indices), self._picture_bytes), np.uint8)

        def fill(rows: range) -> list[int]:
            """Fills rows of the result, and returns those that could not be."""
            found = ((row, self._read_one(indices[row])) for row in rows)
            return [row for row, data in found if not _put(out, row, data)]

        size = max(_ROWS, -(-len(indices) // self.threads))
        parts = [range(start, min(start + size, len(indices))) for start in range(0, len(indices), size)]
        for row in itertools.chain.from_iterable(in_threads(fill, parts, self.threads)):
            shard = indices[row] // self._per_shard
            self._recut(shard)
            if not _put(out, row, self._read_one(indices[row])):
                raise DataError(
                    "a crop that was just written reads back as something else",
                    where=str(self._path(shard)),
                    fix="check the disk, or choose another folder",
                )
        return out.reshape(-1, self.side_px, self.side_px, 3)

    def _read_one(self, index: int) -> NDArray[np.uint8] | None:
        """Returns a picture's bytes [S·S·3]; None where the shard is missing or the picture is damaged."""
        shard = index // self._per_shard
        mapped = self._map(shard)
        if mapped is None:
            return None
        count, row = len(self._range(shard)), index % self._per_shard
        pixels = mapped[row * self._picture_bytes : (row + 1) * self._picture_bytes]
        stored = mapped[count * self._picture_bytes :].view("<u4")[row]
        return pixels if _checksum(pixels, index) == stored else None

    def _map(self, shard: int) -> NDArray[np.uint8] | None:
        with self._lock:
            if (mapped := self._mapped.get(shard)) is not None:
                self._mapped.move_to_end(shard)
                return mapped
            if not self._is_there(shard):
                return None
            # Trap: the array is the file. A shard is therefore replaced or unlinked, and never changed in place.
            self._mapped[shard] = mapped = np.memmap(self._path(shard), np.uint8, mode="r")
            if len(self._mapped) > _MAPPED:
                self._mapped.popitem(last=False)
            return mapped

    def damaged(self) -> list[int]:
        """Returns the shards with a picture that does not match its checksum, or that are missing; reads everything."""
        return [shard for shard in range(self.num_shards) if not self._is_whole(shard)]

    def _is_whole(self, shard: int) -> bool:
        return all(self._read_one(index) is not None for index in self._range(shard))

    def _recut(self, shard: int) -> None:
        with self._locked(shard, wait=True):
            self._forget(shard)
            if self._is_whole(shard):  # another process was faster
                return
            self._forget(shard)
            if self._path(shard).exists():
                log.warning("%s is damaged and is cut again", self._path(shard))
            self._cut(shard)

    def _forget(self, shard: int) -> None:
        with self._lock:
            self._mapped.pop(shard, None)


def shard_path(folder: Path, shard: int) -> Path:
    """Returns where a shard of a cache is, or will be."""
    return folder / f"crops-{shard:05d}.u8"


def cutting(folder: Path, shard: int, *, wait: bool) -> contextlib.AbstractContextManager[None]:
    """Holds the lock of the one who writes, or removes, a shard; see `folder_lock`."""
    return folder_lock(folder / "locks" / f"{shard:05d}", wait=wait, purpose="cutter of crops")


def shard_fault(path: Path, first: int, count: int, side_px: int) -> str | None:
    """Returns what is wrong with a shard, or None; reads all of it and needs no originals.

    Args:
        path: The shard, which is there.
        first: Number of its first picture.
        count: Its pictures.
        side_px: Their side.
    """
    size = side_px * side_px * 3
    if path.stat().st_size != count * (size + 4):
        return "it has another size than its pictures"
    data = np.memmap(path, np.uint8, mode="r")
    sums = data[count * size :].view("<u4")
    for row in range(count):
        if _checksum(data[row * size : (row + 1) * size], first + row) != sums[row]:
            return f"picture {first + row} does not match its checksum"
    return None


def _put(out: NDArray[np.uint8], row: int, data: NDArray[np.uint8] | None) -> bool:
    if data is not None:
        out[row] = data
    return data is not None


def _checksum(data: Any, index: int) -> int:
    return zlib.crc32(data, index & 0xFFFFFFFF)


def _gb(num_bytes: int) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.1f} MB"
