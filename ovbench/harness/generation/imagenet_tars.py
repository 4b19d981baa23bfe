"""Labelled pictures in tar shards as webdataset writes them: `key.jpg` beside `key.cls`, read by their offsets."""

from __future__ import annotations

import logging
import os
import tarfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import DataError
from ovbench._base.files import atomic_file, folder_lock
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.generation.labelled_source import LabelledSource
from ovbench.harness.metrics.archives import GET_AGAIN

log = logging.getLogger(__name__)
_PICTURES = ("jpg", "jpeg", "png")
_LABEL = "cls"
_THREADS = 8  # that walk over the headers of shards
_LAYOUT = "pictures and classes stand side by side in a tar, as webdataset writes them: key.jpg and key.cls"


@dataclass(frozen=True, slots=True)
class _Index:
    """Where each picture lies; all arrays are int64 [N]."""

    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    label: NDArray[np.int64]
    keys: list[str]


class TarSource(LabelledSource):
    """Pictures of tar shards: shards by path, pictures in the order in which they lie there.

    Args:
        path: What was named, for messages.
        name: For people.
        shards: Uncompressed tars, in order.
        num_classes: Classes there should be; None: as many as the largest class tells.
        index_dir: Folder in which the places of the pictures are remembered, by sizes and times of change of the tars.

    Raises:
        ConfigError: The folder of the index cannot be written.
        DataError: A tar is damaged or compressed, or a picture has no class or a class no picture.
    """

    kind = "tar"

    def __init__(
        self, path: Path, name: str, shards: Sequence[Path], *, num_classes: int | None, index_dir: Path
    ) -> None:
        self._shards = list(shards)
        self._index = index = _indexed(self._shards, index_dir)
        count = num_classes if num_classes is not None else int(index.label.max(initial=-1)) + 1
        classes = [str(number) for number in range(count)]
        super().__init__(path, name, classes=classes, labels=index.label, sizes=index.size)

    def item(self, index: int) -> str:
        """Returns shard and key."""
        return f"{self._shards[self._index.shard[index]].name}: {self._index.keys[index]}"

    def read_bytes(self, index: int) -> bytes:
        """Returns the file of a picture, from its place in the tar."""
        shard = self._shards[self._index.shard[index]]
        offset, size = int(self._index.offset[index]), int(self._index.size[index])
        try:
            # Opened each time: ImageNet has more shards than a process may have open files.
            with shard.open("rb", buffering=0) as stream:
                data = os.pread(stream.fileno(), size, offset)
        except OSError as error:
            raise DataError(f"it cannot be read: {error.strerror or error}", where=str(shard)) from error
        if len(data) != size:
            raise DataError(
                f"'{shard.name}' ends inside '{self._index.keys[index]}': it was changed after it was opened",
                where=str(shard),
                fix="start again with the whole file",
            )
        return data

    def _identity(self) -> Iterable[str]:
        for shard, key, size in zip(self._index.shard, self._index.keys, self._index.size, strict=True):
            yield f"{self._shards[shard].name}\0{key}\0{size}"


def _indexed(shards: Sequence[Path], index_dir: Path) -> _Index:
    """Returns the index, from the disk where the tars are those it was made of."""
    stamp = []
    for shard in shards:
        try:
            found = shard.stat()
        except OSError as error:
            raise DataError(f"it cannot be read: {error.strerror or error}", where=str(shard)) from error
        stamp.append([shard.name, found.st_size, found.st_mtime_ns])
    path = index_dir / f"tar-{fingerprint(['tar-index/1', stamp])[:32]}.npz"
    if (known := _load(path)) is not None:
        return known
    with folder_lock(index_dir, wait=True, purpose="index of tars"):
        if (known := _load(path)) is not None:  # another process was faster
            return known
        log.info("reading the headers of %d tars; the index is kept in %s", len(shards), path)
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="tar-index") as pool:
            parts = list(pool.map(_walk, range(len(shards)), shards))
        rows = np.concatenate([part for part, _ in parts]) if parts else np.zeros((0, 4), np.int64)
        keys = [key for _, names in parts for key in names]
        with atomic_file(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, rows=rows, keys=np.frombuffer("\0".join(keys).encode(), np.uint8))
    return _Index(*rows.T.copy(), keys=keys)


def _load(path: Path) -> _Index | None:
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            rows, text = stored["rows"], stored["keys"].tobytes().decode()
        keys = text.split("\0") if len(rows) else []
        if rows.dtype != np.int64 or rows.shape != (len(keys), 4):
            raise ValueError(f"rows {rows.dtype} {rows.shape} for {len(keys)} keys")
    except Exception as error:  # BadZipFile, zlib.error, KeyError, ValueError, OSError
        log.warning("the index %s is damaged and is made again: %s", path, error)
        return None
    return _Index(*rows.T.copy(), keys=keys)


def _walk(number: int, shard: Path) -> tuple[NDArray[np.int64], list[str]]:
    """Returns the rows (shard, offset, size, class) [n, 4] of a tar and the keys, from its headers and classes."""
    places: dict[str, tuple[int, int]] = {}
    labels: dict[str, int] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            while (member := archive.next()) is not None:
                if not member.isreg() or member.issparse():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")  # webdataset: the key ends at the first dot
                key, suffix = f"{folder}/{stem}" if folder else stem, suffix.lower()
                if not stem or (suffix not in _PICTURES and suffix != _LABEL):
                    continue
                if key in (labels if suffix == _LABEL else places):
                    what = "classes" if suffix == _LABEL else "pictures"
                    raise DataError(
                        f"'{key}' has two {what} in '{shard.name}'", where=str(shard), fix="write the shard again"
                    )
                if suffix == _LABEL:
                    stream = archive.extractfile(member)
                    labels[key] = _class(stream.read(64) if stream is not None else b"", key, shard)
                else:
                    places[key] = (member.offset_data, member.size)
            _check_end(shard, archive.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(
            f"'{shard.name}' is truncated, compressed or no tar: {error}",
            where=str(shard),
            fix="get the file again; a compressed one must be unpacked to a plain .tar",
        ) from error
    if not places and not labels:
        raise DataError(f"'{shard.name}' holds no pictures", where=str(shard), fix=_LAYOUT)
    if bare := next((key for key in places if key not in labels), None):
        raise DataError(
            f"'{bare}' has no class ({bare}.cls) in '{shard.name}'",
            where=str(shard),
            fix=f"{_LAYOUT}; ImageNet's own tar of a class is unpacked into a folder of its name (train/n01440764/)",
        )
    if bare := next((key for key in labels if key not in places), None):
        raise DataError(f"'{bare}' has a class and no picture in '{shard.name}'", where=str(shard), fix=_LAYOUT)
    keys = list(places)
    rows = np.array([(number, *places[key], labels[key]) for key in keys], np.int64).reshape(-1, 4)
    return rows, keys


def _check_end(shard: Path, offset: int) -> None:
    # Trap: after the first header, tarfile takes a damaged or missing one for the end of the archive.
    with shard.open("rb") as stream:
        stream.seek(offset)
        if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(
                f"'{shard.name}' is truncated or damaged: no header and no end mark at byte {offset}",
                where=str(shard),
                fix=GET_AGAIN,
            )


def _class(data: bytes, key: str, shard: Path) -> int:
    try:
        return int(data.decode("ascii").strip())
    except ValueError:
        raise DataError(
            f"the class of '{key}' in '{shard.name}' is no whole number: {data[:20]!r}",
            where=str(shard),
            fix="write the number of the class as text into key.cls",
        ) from None
