"""What a set of labelled pictures is, wherever it lies; and which files belong to which split."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import unknown
from ovbench._base.pictures import open_picture

if TYPE_CHECKING:
    from PIL.Image import Image

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")  # as torchvision's ImageFolder
SPLITS = (("train",), ("validation", "val"), ("test",))  # names of one split stand together
_PART = re.compile(r"(.*?)(\d+)-of-(\d+)$")


class LabelledSource(ABC):
    """Pictures with classes, numbered from 0.

    Contract: reading is safe from several threads, and a picture is a pure function of its number.

    Args:
        path: File or folder that holds them.
        name: What they are, for people and records; holds no path of the machine.
        classes: Names of the classes in the order of their numbers.
        labels: Number of each picture's class, int64 [N].
        sizes: Bytes of each picture's file [N]; None where it is not known without reading.
    """

    kind: ClassVar[str]
    #: Pictures at a place where no class can be told, and which are therefore not in the set.
    misplaced: tuple[str, ...] = ()

    def __init__(
        self,
        path: Path,
        name: str,
        *,
        classes: Sequence[str],
        labels: NDArray[np.int64],
        sizes: NDArray[np.int64] | None,
    ) -> None:
        self.path, self.name, self.classes = path, name, tuple(classes)
        self.labels = labels.astype(np.int64)
        self.labels.setflags(write=False)
        self.sizes = sizes

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return len(self.labels)

    @cached_property
    def digest(self) -> str:
        """Identity of the set, 64 hex digits: sha256 over names, sizes and labels in their order.

        Trap: pixels are not read (140 GB), so a picture that was changed without changing the size of its file keeps
        the digest. The same pictures in folders, tars and parquet files have three digests.
        """
        found = hashlib.sha256(f"labelled-pictures/1 {self.kind} {self.num_pictures}\n".encode())
        found.update("\0".join(self.classes).encode() + b"\n")
        for line in self._identity():
            found.update(line.encode("utf-8", "surrogateescape") + b"\n")
        found.update(self.labels.astype("<i8").tobytes())
        return found.hexdigest()

    @abstractmethod
    def _identity(self) -> Iterable[str]:
        """Yields names and sizes."""

    @abstractmethod
    def item(self, index: int) -> str:
        """Returns where a picture lies, below `path`, for messages."""

    @abstractmethod
    def read_bytes(self, index: int) -> bytes:
        """Returns the file of a picture.

        Raises:
            DataError: It cannot be read.
        """

    def read(self, index: int) -> Image:
        """Returns a picture in RGB; grey and CMYK ones are converted, as ImageNet has both.

        Raises:
            ConfigError: There is no picture of this number.
            DataError: It cannot be read or decoded; its file is named.
        """
        if not 0 <= index < self.num_pictures:
            raise ConfigError(f"there is no picture {index}: {self.name} holds {self.num_pictures}", where="index")
        return open_picture(self.read_bytes(index), where=str(self.path / self.item(index)))


def split_names(split: str) -> tuple[str, ...]:
    """Returns the names that a split goes by, the given one first.

    Raises:
        ConfigError: It is no name of a split.
    """
    for names in SPLITS:
        if split in names:
            return (split, *(name for name in names if name != split))
    raise unknown("split", split, [name for names in SPLITS for name in names], where="split")


def of_split(paths: Sequence[Path], root: Path, split: str) -> list[Path]:
    """Returns which shards belong to a split, in the order of their paths.

    A shard names its split in its path, as a word of its own: `data/train-00000-of-00294.parquet`,
    `imagenet1k-validation-07.tar`, `val/0000.parquet`. Where no shard does, all belong to it.
    """
    wanted, known = set(split_names(split)), {name for names in SPLITS for name in names}
    words = [set(re.split(r"[^a-z0-9]+", path.relative_to(root).as_posix().lower())) & known for path in paths]
    if not any(words):
        return sorted(paths)
    return sorted(path for path, found in zip(paths, words, strict=True) if found & wanted)


def check_parts(paths: Sequence[Path], *, fix: str) -> None:
    """Refuses an incomplete set of shards that are named `…-00000-of-00294`.

    Raises:
        DataError: Some are missing; the first is named.
    """
    found: dict[tuple[Path, str, int, int], set[int]] = {}
    for path in paths:
        if match := _PART.match(path.stem):
            head, number, count = match[1], match[2], int(match[3])
            found.setdefault((path.parent, head, len(number), count), set()).add(int(number))
    for (folder, head, width, count), numbers in found.items():
        if missing := sorted(set(range(count)) - numbers):
            first = f"{head}{missing[0]:0{width}d}-of-{count:0{width}d}{paths[0].suffix}"
            raise DataError(
                f"{len(missing)} of {count} shards are missing, first '{first}'", where=str(folder), fix=fix
            )
