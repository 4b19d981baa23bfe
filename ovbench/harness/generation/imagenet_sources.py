"""ImageNet and sets like it, wherever they lie: class folders, tar shards, parquet shards, or the hub.

One entry point: `open_labelled`. Nothing is decoded here; `imagenet_checks` decodes a sample before a run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovbench._base.errors import DataError
from ovbench._base.paths import cache_dir
from ovbench.harness.generation.imagenet_checks import check_classes
from ovbench.harness.generation.imagenet_hub import fetch_split, is_hub_id
from ovbench.harness.generation.imagenet_parquet import ParquetSource
from ovbench.harness.generation.imagenet_tars import TarSource
from ovbench.harness.generation.labelled_source import (
    PICTURES,
    SPLITS,
    LabelledSource,
    check_parts,
    of_split,
    split_names,
)

__all__ = ["FolderSource", "LabelledSource", "open_labelled"]
log = logging.getLogger(__name__)
_THREADS = 16  # that list folders: ImageNet's 1.3 million files, often on a network file system
_EXPECTED = "expected is a folder per class, named as ImageNet's are: {split}/n01440764/….JPEG"


def open_labelled(
    source: str | Path,
    *,
    split: str,
    expected_classes: int | None,
    expected_count: int | None = None,
    index_dir: Path | None = None,
) -> LabelledSource:
    """Opens labelled pictures by what they are; no picture is decoded.

    Args:
        source: A root with a folder of the split in it, or that folder: class folders, `*.tar` or `*.parquet`. A single
            `.tar` or `.parquet`. Or a data set of the hub with its commit, `owner/name@COMMIT`.
        split: `train`, `validation` (also `val`) or `test`.
        expected_classes: Classes there must be (ImageNet: 1000); None: any number.
        expected_count: Pictures there must be (ImageNet: 1,281,167 and 50,000); None: any number.
        index_dir: Where places of pictures in tars are remembered; None: `tar-index` in the cache folder.

    Returns:
        Pictures in ImageFolder's order: by class folder, then by file name; of shards, by path of the shard and place
        in it. Classes are the sorted folder names, or the stored numbers.

    Raises:
        ConfigError: An unknown split, or a branch instead of a commit.
        DataError: There is no such source, its layout is another, or it holds other classes or another number of
            pictures than expected.
    """
    split_names(split)
    if is_hub_id(source):
        hub_id, _, commit = str(source).partition("@")
        folder, shards = fetch_split(str(source), split)
        found: LabelledSource = ParquetSource(
            folder, f"{hub_id}@{commit[:12]} {split}", shards, num_classes=expected_classes
        )
    else:
        found = _open_local(
            Path(source).expanduser(), split, expected_classes, index_dir or cache_dir() / "tar-index", str(source)
        )
    check_classes(found, expected_classes, where=str(source))
    if expected_count is not None and found.num_pictures != expected_count:
        raise DataError(
            f"{found.num_pictures} pictures instead of {expected_count}",
            where=str(found.path),
            fix="unpack or fetch the missing ones" if found.num_pictures < expected_count else "name the right split",
        )
    return found


def _open_local(path: Path, split: str, num_classes: int | None, index_dir: Path, given: str) -> LabelledSource:
    if path.is_file():
        match path.suffix.lower():
            case ".tar":
                return TarSource(path.parent, path.name, [path], num_classes=num_classes, index_dir=index_dir)
            case ".parquet":
                return ParquetSource(path.parent, path.name, [path], num_classes=num_classes)
        raise DataError(
            f"'{path.name}' is no source of labelled pictures",
            where=str(path),
            fix="name a folder, a plain .tar or a .parquet; unpack a compressed archive first",
        )
    if not path.is_dir():
        raise DataError(
            f"no such file or folder '{path.name}'",
            where=given,
            fix="correct the path; a data set of the hub is named with its commit: owner/name@COMMIT (40 hex digits)",
        )
    names = split_names(split)
    base = next((path / name for name in names if (path / name).is_dir()), path)
    shards = {ending: _shards(path, names, ending) for ending in (".tar", ".parquet")}
    has_shards = [ending for ending, found in shards.items() if found]
    if len(has_shards) == 2 or (has_shards and _has_class_folders(base)):
        raise DataError(
            f"'{path.name}' holds pictures in two forms: {' and '.join([*has_shards, 'class folders'][:2])}",
            where=str(path),
            fix="name a folder that holds one form",
        )
    if not has_shards:
        return _open_tree(path, base, names)
    mine = of_split(shards[has_shards[0]], path, split)
    if not mine:
        raise DataError(
            f"'{path.name}' holds no {has_shards[0]} shards of the split '{split}'",
            where=str(path),
            fix=f"the name of a shard must tell its split, e.g. {split}-00000-of-00014{has_shards[0]}",
        )
    check_parts(mine, fix="get the missing shards")
    name = f"{base.name} ({len(mine)} {has_shards[0]} shards)"
    if has_shards[0] == ".tar":
        return TarSource(path, name, mine, num_classes=num_classes, index_dir=index_dir)
    return ParquetSource(path, name, mine, num_classes=num_classes)


def _shards(path: Path, names: Sequence[str], ending: str) -> list[Path]:
    """Returns shards at the places where archives and the hub put them, of every split."""
    places = [path, path / "data"]
    places += [path / head / name for name in names for head in ("", "data", "default")]
    found = {file for place in places for file in place.glob(f"*{ending}") if file.is_file()}
    return [file for file in found if not file.name.startswith(".")]


def _has_class_folders(base: Path) -> bool:
    """Whether a picture lies in a folder directly below; a clone of a hub's data set has folders of other things."""
    with os.scandir(base) as entries:
        folders = [entry.path for entry in entries if entry.is_dir() and not entry.name.startswith(".")]
    for folder in folders:
        with os.scandir(folder) as entries:
            if any(_is_picture(entry.name) for entry in entries):
                return True
    return False


def _open_tree(path: Path, base: Path, names: Sequence[str]) -> FolderSource:
    if base == path:
        others = [name for known in SPLITS for name in known if name not in names and (path / name).is_dir()]
        if others:
            raise DataError(
                f"'{path.name}' has no folder of the split '{names[0]}' (it has: {', '.join(others)})",
                where=str(path),
                fix=f"unpack the split to {names[0]}/, or name its folder",
            )
    return FolderSource(base, f"{base.name} (class folders)")


@dataclass(frozen=True, slots=True)
class _Folder:
    """What lies in the folder of a class."""

    files: list[str]  # pictures, sorted
    sizes: list[int]
    deeper: list[str]  # pictures in folders of it
    others: int  # files that are no pictures


class FolderSource(LabelledSource):
    """Pictures in a folder per class, in the order of torchvision's ImageFolder.

    Args:
        path: The folder of the split.
        name: For people.

    Raises:
        DataError: There are no class folders, a folder cannot be read, or a link leads nowhere.
    """

    kind = "folders"

    def __init__(self, path: Path, name: str) -> None:
        with os.scandir(path) as found:
            entries = [entry for entry in found if not entry.name.startswith(".")]
        classes = sorted(entry.name for entry in entries if entry.is_dir())
        flat = sorted(entry.name for entry in entries if _is_picture(entry.name) and not entry.is_dir())
        if not classes:
            expected = _EXPECTED.format(split=path.name)
            if flat:
                raise DataError(
                    f"{len(flat)} pictures lie in '{path.name}' without class folders, first '{flat[0]}'",
                    where=str(path),
                    fix=f"{expected}; move each picture into the folder of its class (the validation pictures of the "
                    "challenge come flat, and their classes in a separate list), or use parquet files or tars",
                )
            raise DataError(f"'{path.name}' holds no pictures", where=str(path), fix=f"{expected}, or tar or parquet")
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="list") as pool:
            folders = list(pool.map(_list, [path / name for name in classes]))
        self.misplaced = (
            *flat,
            *(f"{name}/{file}" for name, folder in zip(classes, folders, strict=True) for file in folder.deeper),
        )
        if others := sum(folder.others for folder in folders):
            log.warning("%d files in %s are no pictures and are left out", others, path)
        counts = [len(folder.files) for folder in folders]
        self._files = [file for folder in folders for file in folder.files]
        super().__init__(
            path,
            name,
            classes=classes,
            labels=np.repeat(np.arange(len(classes), dtype=np.int64), counts),
            sizes=np.array([size for folder in folders for size in folder.sizes], np.int64),
        )

    def item(self, index: int) -> str:
        """Returns class folder and file."""
        return f"{self.classes[self.labels[index]]}/{self._files[index]}"

    def read_bytes(self, index: int) -> bytes:
        """Returns a file."""
        file = self.path / self.item(index)
        try:
            return file.read_bytes()
        except OSError as error:
            raise DataError(f"it cannot be read: {error.strerror or error}", where=str(file)) from error

    def _identity(self) -> Iterable[str]:
        assert self.sizes is not None
        for file, size in zip(self._files, self.sizes.tolist(), strict=True):
            yield f"{file}\0{size}"  # the class is among the labels


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES)


def _list(folder: Path) -> _Folder:
    found: dict[str, int] = {}
    deeper: list[str] = []
    others = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    for place, _, files in os.walk(entry.path):
                        inside = Path(place).relative_to(folder)
                        deeper += [(inside / file).as_posix() for file in files if _is_picture(file)]
                elif _is_picture(entry.name):
                    found[entry.name] = entry.stat().st_size
                else:
                    others += 1
    except OSError as error:
        raise DataError(
            f"it cannot be read: {error.strerror or error}",
            where=str(error.filename or folder),
            fix="repair the link, or name a folder that you may read",
        ) from error
    files = sorted(found)
    return _Folder(files, [found[file] for file in files], sorted(deeper), others)
