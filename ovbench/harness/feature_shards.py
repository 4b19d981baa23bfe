"""The files of one namespace of the feature cache: shards of visual tokens, and the index of which picture is where.

Nothing here takes a lock: `feature_cache` holds one around every call that writes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ovbench._base.errors import DataError
from ovbench._base.files import append_jsonl, atomic_write_bytes, jsonl, make_dir, writing
from ovbench._base.fingerprint import file_sha256

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
INDEX = "index.jsonl"
_TOKENS, _IMAGES = "tokens", "images"
_SHARD = re.compile(r"shard-(\d{6,})\.safetensors")
_DIGEST = re.compile(r"[0-9a-f]{64}")


def image_digest(image_u8: np.ndarray) -> str:
    """Returns the identity of a decoded picture: sha256 over its shape and its bytes.

    Args:
        image_u8: uint8 [H, W, 3].

    Raises:
        DataError: It is of another type or shape.
    """
    if image_u8.dtype.name != "uint8" or image_u8.ndim != 3 or image_u8.shape[2] != 3:
        raise DataError(
            f"a picture must be uint8 [H, W, 3], got {image_u8.dtype} {list(image_u8.shape)}", where="features"
        )
    digest = hashlib.sha256("x".join(str(size) for size in image_u8.shape).encode() + b"|")
    digest.update(image_u8.tobytes())
    return digest.hexdigest()


class DamagedShards(Exception):
    """Shards that cannot be believed; they are to be dropped, and their pictures encoded again.

    Args:
        faults: Name of the shard → what is wrong with it.
    """

    def __init__(self, faults: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{file}: {fault}" for file, fault in faults.items()))
        self.faults = dict(faults)


@dataclass(frozen=True, kw_only=True, slots=True)
class ShardEntry:
    """One line of the index."""

    file: str
    sha256: str  # of the file
    size_bytes: int
    images: tuple[str, ...]  # digests of the pictures, in the order of the rows

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> ShardEntry:
        """Reads a line; raises KeyError, TypeError or ValueError where it is none."""
        entry = cls(
            file=str(row["file"]), sha256=row["sha256"], size_bytes=int(row["size_bytes"]), images=tuple(row["images"])
        )
        if not _SHARD.fullmatch(entry.file) or not all(map(_DIGEST.fullmatch, (entry.sha256, *entry.images))):
            raise ValueError("not an entry of a shard")
        return entry


@dataclass(frozen=True, kw_only=True, slots=True)
class PackedShard:
    """A shard ready to be written."""

    entry: ShardEntry
    data: bytes

    @property
    def num_bytes(self) -> int:
        """What it will take on disk, its line of the index included."""
        return len(self.data) + len(jsonl([asdict(self.entry)]).encode())


class Shards:
    """The shards below one folder, as the index tells them.

    Contract: the index is only ever appended to, and a shard lies there before its line, so a reader may `refresh` at
    any time without a lock. A line that was torn by a crash is not read and is cut off by the next write.

    Args:
        folder: The folder; need not exist.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._forget()

    def _forget(self) -> None:
        self._entries: dict[str, ShardEntry] = {}
        self._rows: dict[str, tuple[str, int]] = {}
        self._tensors: dict[str, torch.Tensor] = {}  # verified and memory-mapped
        self._inode = self._offset = self._next = 0

    @property
    def entries(self) -> tuple[ShardEntry, ...]:
        """The shards that are known, in the order in which they were written."""
        return tuple(self._entries.values())

    @property
    def num_images(self) -> int:
        """Pictures whose tokens are there."""
        return len(self._rows)

    def __contains__(self, digest: str) -> bool:
        return digest in self._rows

    def refresh(self) -> None:
        """Reads what was appended to the index since the last call."""
        path = self.folder / INDEX
        try:
            state = path.stat()
        except FileNotFoundError:
            if self._offset:
                self._forget()
            return
        if self._offset and (state.st_ino != self._inode or state.st_size < self._offset):
            self._forget()  # somebody emptied the cache by hand
        if state.st_size == self._offset:
            return
        with path.open("rb") as stream:
            self._inode = os.fstat(stream.fileno()).st_ino
            stream.seek(self._offset)
            data = stream.read()
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            self._apply(line)
        self._offset += whole

    def _apply(self, line: bytes) -> None:
        try:
            row = json.loads(line)
            if "dropped" in row:
                self._remove(str(row["dropped"]))
                return
            entry = ShardEntry.of(row)
        except (KeyError, TypeError, ValueError):
            log.warning("a line of %s cannot be read: its shard is made again", self.folder / INDEX)
            return
        self._entries[entry.file] = entry
        for place, digest in enumerate(entry.images):
            self._rows.setdefault(digest, (entry.file, place))
        self._count(entry.file)

    def _remove(self, file: str) -> None:
        entry = self._entries.pop(file, None)
        self._tensors.pop(file, None)
        for digest in entry.images if entry is not None else ():
            if self._rows[digest][0] == file:
                del self._rows[digest]
        self._count(file)

    def _count(self, file: str) -> None:
        # A name is never used twice, since another process may still have the old file open.
        if found := _SHARD.fullmatch(file):
            self._next = max(self._next, int(found.group(1)) + 1)

    # --- reading ---------------------------------------------------------------------------------------------------

    def gather(self, digests: Sequence[str]) -> torch.Tensor:
        """Returns the tokens of pictures that are there, [B, N, C] in the stored type, in the order asked for.

        Raises:
            DamagedShards: Shards are missing, or are not what was written; all of those that were asked for are named.
        """
        places = [self._rows[digest] for digest in digests]
        faults: dict[str, str] = {}
        for file in dict.fromkeys(file for file, _ in places):
            self._open(file, faults)
        if faults:
            raise DamagedShards(faults)
        return torch.stack([self._tensors[file][row] for file, row in places])

    def _open(self, file: str, faults: dict[str, str]) -> None:
        """Maps a shard without reading it into memory, verifying it the first time; what is wrong goes to `faults`."""
        if file in self._tensors:
            return
        if (fault := self.fault(self._entries[file])) is not None:
            faults[file] = fault
            return
        # Trap: the tensor is the mapped file. A shard is therefore renamed or unlinked, and never truncated.
        with safe_open(self.folder / file, framework="pt") as stream:
            self._tensors[file] = stream.get_tensor(_TOKENS)

    def fault(self, entry: ShardEntry) -> str | None:
        """Returns what is wrong with a shard, or None; reads the whole file."""
        path = self.folder / entry.file
        try:
            if path.stat().st_size != entry.size_bytes or file_sha256(path) != entry.sha256:
                return "it does not match its digest"
            with safe_open(path, framework="pt") as stream:
                images = tuple(json.loads((stream.metadata() or {}).get(_IMAGES, "[]")))
                shape = stream.get_slice(_TOKENS).get_shape()
        except FileNotFoundError:
            return "it is missing"
        except (OSError, SafetensorError, ValueError) as error:
            return f"it cannot be read: {error}"
        if images != entry.images or shape[0] != len(images):
            return "its pictures are not those of the index"
        return None

    # --- writing: the caller holds the lock of the cache -------------------------------------------------------------

    def pack(self, images: Sequence[str], tokens: torch.Tensor) -> PackedShard:
        """Returns the next shard; nothing is written.

        Args:
            images: Digests.
            tokens: [n, N, C] in the type of storage.
        """
        data = save({_TOKENS: tokens.contiguous()}, metadata={_IMAGES: json.dumps(list(images))})
        entry = ShardEntry(
            file=f"shard-{self._next:06d}.safetensors",
            sha256=hashlib.sha256(data).hexdigest(),
            size_bytes=len(data),
            images=tuple(images),
        )
        return PackedShard(entry=entry, data=data)

    def commit(self, shard: PackedShard) -> None:
        """Writes a shard whole, then its line."""
        make_dir(self.folder)
        atomic_write_bytes(self.folder / shard.entry.file, shard.data)
        append_jsonl(self.folder / INDEX, [asdict(shard.entry)])
        self.refresh()

    def remove_orphans(self) -> int:
        """Removes shards without a line, which killed writers leave, and returns how many."""
        orphans = [path for path in self._files() if path.name not in self._entries]
        for path in orphans:
            path.unlink(missing_ok=True)
        return len(orphans)

    def _files(self) -> Iterator[Path]:
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if _SHARD.fullmatch(path.name) or path.name.endswith(".tmp"):
                    yield path

    def drop(self, file: str, aside: Path) -> Path | None:
        """Sets a shard aside and strikes it from the index.

        Args:
            file: Its name.
            aside: Folder for damaged files.

        Returns:
            Where it is now; None when there is nothing left of it, or when another process has dropped it already.
        """
        self.refresh()
        if file not in self._entries:
            return None
        path, target = self.folder / file, aside / f"{self.folder.name[:16]}-{time.time_ns()}-{file}"
        there = path.is_file()
        if there:
            make_dir(aside)
            with writing(target):
                path.rename(target)
        append_jsonl(self.folder / INDEX, [{"dropped": file}])
        self.refresh()
        return target if there else None
