"""Files that hold pictures, opened without decoding any: folders, zips, npz arrays (streamed) and parquet."""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.metrics.archives import GET_AGAIN, open_zip, read_array_header

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".gif")


@dataclass(frozen=True, slots=True)
class Item:
    """A picture that has not been decoded."""

    name: str
    key: str | None  # what tells it from others of its source, to find its pair in another; None: its place alone
    load: Callable[[], bytes | np.ndarray]  # the bytes of a file, or uint8 [H, W, 3]; called in a thread


class Reader(Protocol):
    """An open source of pictures."""

    @property
    def kind(self) -> str:
        """`folder`, `zip`, `npz` or `parquet`."""
        ...

    @property
    def expects(self) -> str:
        """What such a source should hold, for the message about an empty one."""
        ...

    @property
    def labels(self) -> np.ndarray | None:
        """Class labels [N], where they are stored."""
        ...

    @property
    def has_keys(self) -> bool:
        """Whether its pictures have keys: all of them, or none."""
        ...

    def __len__(self) -> int: ...

    def stamp(self) -> list[Any]:
        """Returns names, sizes and times of change of the files."""
        ...

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yields pictures in order."""
        ...


def _stamp(path: Path, name: str) -> list[Any]:
    found = path.stat() if path.exists() else path.lstat()
    # The time of change too: archives are unpacked with old times, and uncompressed pictures are all of one size.
    return [name, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _is_picture(name: str) -> bool:
    parts = Path(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and name.lower().endswith(PICTURES)


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"it cannot be read: {error.strerror or error}", where=str(path)) from error


class FolderReader:
    """Pictures of a folder and the folders in it, by path."""

    kind = "folder"
    expects = f"name a folder with pictures ({', '.join(PICTURES)})"
    labels = None
    has_keys = True

    def __init__(self, path: Path) -> None:
        self._path = path
        names = (found.relative_to(path).as_posix() for found in path.rglob("*") if _is_picture(found.name))
        # A link that leads nowhere is a picture that cannot be read, and is named as one.
        self._names = sorted(name for name in names if _is_picture(name) and not (path / name).is_dir())

    def __len__(self) -> int:
        return len(self._names)

    def stamp(self) -> list[Any]:
        """Returns name, size and time of every picture."""
        return [_stamp(self._path / name, name) for name in self._names]

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yields the files."""
        for name in self._names[start:stop]:
            yield Item(name, name, lambda path=self._path / name: _file(path))


class ZipReader:
    """Pictures of a zip, by path inside it."""

    kind = "zip"
    expects = f"name a zip with pictures ({', '.join(PICTURES)})"
    labels = None
    has_keys = True

    def __init__(self, path: Path) -> None:
        self._path = path
        # Open for as long as the reader lives: pictures are loaded by threads after `items` has ended.
        self._archive = open_zip(path)
        self._names = sorted({name for name in self._archive.namelist() if _is_picture(name)})

    def __len__(self) -> int:
        return len(self._names)

    def stamp(self) -> list[Any]:
        """Returns name, size and time of the zip."""
        return _stamp(self._path, self._path.name)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yields the members."""
        for name in self._names[start:stop]:
            yield Item(name, name, lambda name=name: self._member(name))

    def _member(self, name: str) -> bytes:
        try:
            return self._archive.read(name)
        except Exception as error:  # BadZipFile, zlib.error, EOFError, RuntimeError for an encrypted one
            raise DataError(f"the member is damaged: {error}", where=name) from error


class NpzReader:
    """Pictures of an npz's `arr_0`, uint8 [N, H, W, 3], as ADM and RAE write it; labels in `arr_1`.

    The array is never in memory as a whole: 50,000 pictures of 256 pixels take 9.8 GB.
    """

    kind = "npz"
    expects = "store uint8 pictures [N, H, W, 3] as 'arr_0'"
    has_keys = False

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_zip(path) as archive:
            self._header = header = read_array_header(archive, "arr_0")
            shape = header.shape
            if header.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape[1:] or header.fortran:
                order = " in Fortran order" if header.fortran else ""
                raise DataError(
                    f"the pictures are {header.dtype} {list(shape)}{order}, not uint8 [N, H, W, 3]",
                    where=f"{path}: arr_0",
                    fix=self.expects,
                )
            info = archive.getinfo("arr_0.npy")
            wanted = header.offset + int(np.prod(shape, dtype=np.int64))
            if info.file_size != wanted:
                raise DataError(
                    f"'{path.name}' is truncated: arr_0 has {info.file_size} bytes instead of {wanted}",
                    where=str(path),
                    fix=GET_AGAIN,
                )
            self._stored_at = _data_offset(path, info) if info.compress_type == zipfile.ZIP_STORED else None
            self.labels = _labels(archive, shape[0])

    def __len__(self) -> int:
        return self._header.shape[0]

    def stamp(self) -> list[Any]:
        """Returns name, size and time of the file."""
        return _stamp(self._path, self._path.name)

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yields the pictures: from their place in the file, or by unpacking what lies before them."""
        shape = self._header.shape[1:]
        size = int(np.prod(shape))

        def picture(data: bytes) -> np.ndarray:
            if len(data) != size:
                raise DataError("the file ends inside this picture", where=str(self._path))
            return np.frombuffer(data, dtype=np.uint8).reshape(shape)

        if self._stored_at is not None:
            handle = os.open(self._path, os.O_RDONLY)
            try:
                first = self._stored_at + self._header.offset
                for index in range(start, stop):
                    data = os.pread(handle, size, first + index * size)
                    yield Item(f"arr_0[{index}]", None, lambda data=data: picture(data))
            finally:
                os.close(handle)
            return
        with open_zip(self._path) as archive, archive.open("arr_0.npy") as stream:
            try:
                stream.read(self._header.offset)
                for _ in range(start):
                    stream.read(size)
                for index in range(start, stop):
                    data = stream.read(size)
                    yield Item(f"arr_0[{index}]", None, lambda data=data: picture(data))
            except Exception as error:  # zlib.error, BadZipFile, EOFError: the archive is damaged
                raise DataError(f"arr_0 is damaged: {error}", where=str(self._path), fix=GET_AGAIN) from error


def _data_offset(path: Path, info: zipfile.ZipInfo) -> int:
    """Returns where the bytes of a stored member begin: its local header may be longer than the directory says."""
    with path.open("rb") as stream:
        stream.seek(info.header_offset)
        local = stream.read(30)
    if len(local) != 30 or local[:4] != b"PK\x03\x04":
        raise DataError(f"'{path.name}' is damaged: no member where its directory says", where=str(path), fix=GET_AGAIN)
    name_length, extra_length = struct.unpack("<HH", local[26:30])
    return info.header_offset + 30 + name_length + extra_length


def _labels(archive: zipfile.ZipFile, count: int) -> np.ndarray | None:
    if "arr_1.npy" not in archive.namelist():
        return None
    header = read_array_header(archive, "arr_1")
    if header.shape != (count,) or header.dtype.kind not in "iu":
        return None
    with archive.open("arr_1.npy") as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)  # type: ignore[arg-type]


class ParquetReader:
    """Pictures of parquet files: a column of file bytes, or of `{bytes, path}` as Hugging Face datasets store it."""

    kind = "parquet"
    expects = "store the bytes of picture files in a column, best named 'image'"
    labels = None
    _has_keys: bool | None = None

    def __init__(self, path: Path, files: list[Path]) -> None:
        import pyarrow
        import pyarrow.parquet

        self._path, self._files = path, files
        self._errors = (pyarrow.ArrowException, OSError)
        self._counts: list[int] = []
        self._columns: list[str] = []
        self._have_paths = True
        for file in files:
            try:
                with pyarrow.parquet.ParquetFile(file) as table:
                    self._counts.append(table.metadata.num_rows)
                    self._columns.append(_image_column(table.schema_arrow, file))
                    self._have_paths &= _has_path(table.schema_arrow.field(self._columns[-1]).type)
            except self._errors as error:
                raise DataError(
                    f"'{file.name}' is damaged or no parquet: {str(error).splitlines()[0]}",
                    where=str(file),
                    fix=GET_AGAIN,
                ) from error

    def __len__(self) -> int:
        return sum(self._counts)

    def stamp(self) -> list[Any]:
        """Returns name, size and time of every file."""
        return [_stamp(file, file.name) for file in self._files]

    @property
    def has_keys(self) -> bool:
        """Whether every row has a path, and no two the same; read from the paths alone, when it is first asked for."""
        if self._has_keys is None:
            self._has_keys = self._have_paths and self._paths_differ()
        return self._has_keys

    def _paths_differ(self) -> bool:
        import pyarrow.parquet

        seen: set[str] = set()
        for file, column in zip(self._files, self._columns, strict=True):
            try:
                with pyarrow.parquet.ParquetFile(file) as table:
                    for batch in table.iter_batches(columns=[f"{column}.path"]):
                        for value in batch.column(0).to_pylist():
                            path = (value or {}).get("path")
                            if not path or path in seen:
                                return False
                            seen.add(path)
            except self._errors as error:
                raise DataError(f"'{file.name}' is damaged: {error}", where=str(file), fix=GET_AGAIN) from error
        return True

    def items(self, start: int, stop: int) -> Iterator[Item]:
        """Yields the rows; files before the first row are not opened."""
        import pyarrow.parquet

        first = 0
        for file, column, count in zip(self._files, self._columns, self._counts, strict=True):
            if first + count > start and first < stop:
                index = 0
                try:
                    with pyarrow.parquet.ParquetFile(file) as table:
                        for batch in table.iter_batches(batch_size=32, columns=[column]):
                            if first + index + len(batch) > start and first + index < stop:
                                rows = batch.column(0).to_pylist()
                                for row, value in enumerate(rows, start=index):
                                    if start <= first + row < stop:
                                        yield _row(file.name, row, value, keyed=self.has_keys)
                            index += len(batch)
                except self._errors as error:
                    raise DataError(f"'{file.name}' is damaged: {error}", where=str(file), fix=GET_AGAIN) from error
            first += count


def _row(file: str, row: int, value: Any, *, keyed: bool) -> Item:
    path = value.get("path") if isinstance(value, dict) else None
    data = value.get("bytes") if isinstance(value, dict) else value
    name = f"{file}[{row}]" + (f" ({path})" if path else "")

    def load() -> bytes:
        if not data:
            raise DataError("the row holds no bytes", where=name)
        return data

    return Item(name, path if keyed else None, load)


def _has_path(kind: Any) -> bool:
    import pyarrow

    if not pyarrow.types.is_struct(kind) or kind.get_field_index("path") < 0:
        return False
    path = kind.field("path").type
    return pyarrow.types.is_string(path) or pyarrow.types.is_large_string(path)


def _image_column(schema: Any, file: Path) -> str:
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return any(
                kind.field(i).name == "bytes" and holds_bytes(kind.field(i).type) for i in range(kind.num_fields)
            )
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    found = [entry.name for entry in schema if holds_bytes(entry.type)]
    for name in ("image", "img", "jpg", "png", "jpeg", "bytes"):
        if name in found:
            return name
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"'{file.name}' has {len(found) or 'no'} columns of bytes"
        + (f" ({', '.join(found)})" if found else f" (it has: {', '.join(schema.names[:8])})"),
        where=str(file),
        fix=ParquetReader.expects,
    )


def open_reader(path: Path) -> Reader:
    """Opens a source of pictures by what it is.

    Raises:
        DataError: There is no such source, it is damaged, or it holds statistics instead of pictures.
    """
    if path.is_dir():
        files = sorted(file for file in path.rglob("*.parquet") if not file.name.startswith("."))
        folder = FolderReader(path)
        return ParquetReader(path, files) if files and not len(folder) else folder
    if not path.is_file():
        raise DataError(
            f"no such file or folder '{path.name}'", where=str(path.parent), fix="name a folder, zip, npz or parquet"
        )
    match path.suffix.lower():
        case ".zip":
            return ZipReader(path)
        case ".npz":
            with open_zip(path) as archive:
                names = set(archive.namelist())
            if "arr_0.npy" not in names and "mu.npy" in names:
                raise DataError(
                    f"'{path.name}' holds statistics (mu, sigma) and no pictures",
                    where=str(path),
                    fix="name it where a reference is asked for, or name the pictures",
                )
            return NpzReader(path)
        case ".parquet":
            return ParquetReader(path, [path])
        case suffix:
            raise DataError(
                f"'{path.name}' is no source of pictures (its name ends in '{suffix}')",
                where=str(path),
                fix="name a folder, .zip, .npz or .parquet",
            )
