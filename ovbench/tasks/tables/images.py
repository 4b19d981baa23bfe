"""The pictures of a task's tables: found, hashed without being decoded, and read one at a time.

A picture is named by the sha256 of its encoded bytes, so that rows with one picture share it whatever copy they hold.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_json, write_json
from ovbench._base.fingerprint import fingerprint
from ovbench._base.paths import cache_dir
from ovbench._base.pictures import open_picture
from ovbench.tasks.tables.shards import Shard

if TYPE_CHECKING:
    import numpy

_INDEX_VERSION = 2
_FOLDER = "picture-index"


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where a picture is."""

    shard: Shard
    column: str
    row: int  # counted from 0 in the shard


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What a cell of pictures holds: the picture's name, or what is wrong with it."""

    sha256: str = ""
    fault: str = ""
    embedded: bool = False  # the bytes are in the table's own file


def picture_bytes(cell: Any, folders: Sequence[Path]) -> bytes:
    """Returns the encoded picture of a cell.

    Args:
        cell: Bytes; `{bytes, path}` as the library datasets stores pictures; a path; or a list that holds one of them.
        folders: What a path may be relative to.

    Raises:
        DataError: There is no picture, or more than one; `what` is short, to be put behind the name of the row.
    """
    if isinstance(cell, list):
        if len(cell) != 1:
            raise DataError(f"{len(cell)} pictures instead of one")
        cell = cell[0]
    path = cell
    if isinstance(cell, Mapping):
        cell, path = cell.get("bytes"), cell.get("path")
    if isinstance(cell, bytes):
        if not cell:
            raise DataError("empty (0 bytes)")
        return cell
    if not isinstance(path, str) or not path:
        raise DataError("missing")
    if os.path.isabs(path) or ".." in Path(path).parts:
        raise DataError(f"'{path}' leads out of the folder")
    for folder in folders:
        if os.path.isfile(folder / path):
            try:
                return (folder / path).read_bytes() or _no_bytes()
            except OSError as error:
                raise DataError(f"'{path}' cannot be read: {error.strerror or error}") from error
    raise DataError(f"'{path}' is missing")


def _no_bytes() -> bytes:
    raise DataError("empty (0 bytes)")


def check_shard(shard: Shard, column: str, rows: Sequence[int], folders: Sequence[Path]) -> list[Checked]:
    """Returns what the pictures of some rows are, without decoding them; remembered for files that hold the bytes.

    Args:
        shard: The file.
        column: Its column of pictures.
        rows: Rows, counted from 0, ascending.
        folders: What paths may be relative to.
    """
    if shard.form == "jsonl":
        return list(_check(shard, column, rows, folders))
    path = shard.path.resolve()
    state = path.stat()
    identity = [str(path), state.st_size, state.st_mtime_ns, column, list(rows), list(map(str, folders))]
    remembered = cache_dir() / _FOLDER / f"{fingerprint([_INDEX_VERSION, *identity])}.json"
    if remembered.is_file():
        return [Checked(sha256=name, embedded=True) for name in read_json(remembered)]
    checked = list(_check(shard, column, rows, folders))
    # Files beside the table can change while the table does not: what was not in it is not remembered.
    if all(each.embedded and not each.fault for each in checked):
        write_json(remembered, [each.sha256 for each in checked])
    return checked


def _is_embedded(cell: Any) -> bool:
    """Whether a cell holds the picture's bytes, not where they are."""
    cell = cell[0] if isinstance(cell, list) and cell else cell
    return isinstance(cell.get("bytes") if isinstance(cell, Mapping) else cell, bytes)


def _check(shard: Shard, column: str, rows: Sequence[int], folders: Sequence[Path]) -> Iterator[Checked]:
    headers: dict[str, str] = {}
    wanted = set(rows)
    for number, cell in enumerate(shard.cells(column)):
        if number not in wanted:
            continue
        try:
            data = picture_bytes(cell, folders)
        except DataError as error:
            yield Checked(fault=error.what)
            continue
        name = hashlib.sha256(data).hexdigest()
        if name not in headers:
            headers[name] = _header_fault(data)
        yield Checked(sha256=name, fault=headers[name], embedded=_is_embedded(cell))


def _header_fault(data: bytes) -> str:
    """Returns what is wrong with the beginning of a picture; the rest is looked at when it is opened."""
    from PIL import Image

    try:
        with Image.open(BytesIO(data)):
            return ""
    except Exception as error:  # Trap: on damaged files some decoders raise RuntimeError, TypeError or IndexError.
        return f"no picture that Pillow can read ({type(error).__name__})"


_FAR = 64  # rows; farther on, going to the row group directly is cheaper than reading what lies between


@dataclass(kw_only=True)
class TablePictures:
    """Pictures by name; a picture is read and decoded when it is asked for."""

    places: Mapping[str, Place]  # sha256 → where it is first found
    folders: tuple[Path, ...]  # what paths may be relative to
    _at: Place | None = field(default=None, repr=False)  # of the cell that `_cells` yields next
    _cells: Iterator[Any] | None = field(default=None, repr=False)
    _process: int = field(default=0, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {"places": self.places, "folders": self.folders}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)

    def digest(self, image_ids: tuple[str, ...]) -> str:
        """Returns a sha256 over the pictures, whatever the order."""
        return fingerprint(sorted(image_ids))

    def encoded(self, image_id: str) -> bytes:
        """Returns a picture as it is stored.

        Raises:
            DataError: There is none of that name, or the file has changed since it was hashed.
        """
        place = self.places.get(image_id)
        if place is None:
            raise DataError(f"there is no picture '{image_id}' in the tables of this task", where="pictures")
        with self._lock:
            cell = self._cell(place)
        try:
            data = picture_bytes(cell, self.folders)
        except DataError:
            data = b""
        if hashlib.sha256(data).hexdigest() != image_id:
            raise DataError(
                f"the picture of row {place.row + 1} has changed while it was in use",
                where=str(place.shard.path),
                fix="start again; files of a benchmark must not be written to during a run",
            )
        return data

    def __call__(self, image_id: str) -> numpy.ndarray:
        """Returns a picture: uint8 [H, W, 3], RGB, in its own size.

        Raises:
            DataError: It cannot be read or decoded; the message names file and row.
        """
        import numpy as np

        data = self.encoded(image_id)
        place = self.places[image_id]
        return np.asarray(open_picture(data, where=f"{place.shard.path}, row {place.row + 1}"))

    def _cell(self, place: Place) -> Any:
        """Returns a cell; going forward in a file costs no more than reading it once."""
        at, cells = self._at, self._cells
        self._cells = None  # a generator that failed is not gone on with
        near = at is not None and (at.shard, at.column) == (place.shard, place.column) and place.row - at.row >= 0
        # After a fork both processes would move the same file.
        if cells is None or at is None or not near or self._process != os.getpid() or place.row - at.row > _FAR:
            cells, row = place.shard.cells(place.column, place.row), place.row
        else:
            row = at.row
        cell = None
        for _ in range(place.row - row + 1):
            cell = next(cells, None)
        self._at = Place(shard=place.shard, column=place.column, row=place.row + 1)
        self._process, self._cells = os.getpid(), cells
        return cell
