"""Questions out of a local file (JSONL, CSV, TSV, Parquet) with pictures beside it; nothing is downloaded."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_jsonl
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench._base.lazy import require
from ovbench._base.pictures import open_picture
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.row_reader import RowForm, RowReader, refuse_duplicates
from ovbench.tasks.rows import Loaded

if TYPE_CHECKING:
    import numpy

FILE_TYPES = ("jsonl", "csv", "tsv", "parquet")
_MAX_CELL_BYTES = 1 << 26


def load_local(spec: TaskSpec) -> Loaded:
    """Reads the rows of a file task; see docs/add-a-benchmark.md for what a file may hold.

    Raises:
        DataError: The file, a column, a value or a picture is missing or cannot be used; the message names the row.
    """
    source = spec.source
    path = Path(source["path"])
    if not path.is_file():
        raise DataError(
            f"no such file '{path.name}'", where=str(path.parent), fix=f"correct source.path of '{spec.name}'"
        )
    digest = file_sha256(path)
    if source["sha256"] not in ("", digest):
        raise DataError(
            f"'{path.name}' has the sha256 {digest[:12]}…, the task expects {source['sha256'][:12]}…",
            where=str(path),
            fix="get the file that the task was written for, or correct source.sha256 and raise the version",
        )
    table = _READERS[source["type"]](path)
    if not table:
        raise DataError(f"'{path.name}' holds no rows", where=str(path))
    form = RowForm.of(spec.kind, source)
    rows = tuple(
        RowReader(form=form, file=str(path), number=number, cells=cells).row()
        for number, cells in enumerate(table, start=1)
    )
    refuse_duplicates(rows, str(path))
    pictures = Pictures(folder=source["images"])
    for number, row in enumerate(rows, start=1):
        pictures.check(row.image_id, f"{path.name}, row {number}")
    return Loaded(rows=rows, digest=digest, image=pictures, digest_images=pictures.digest)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Pictures in a folder, named by their path in it; opened only when asked for."""

    folder: str

    def check(self, image_id: str, where: str) -> None:
        """Raises DataError where the picture is not there."""
        if not os.path.isfile(Path(self.folder) / image_id):  # Path.is_file raises where the name is too long
            raise DataError(
                f"the picture '{image_id}' is missing",
                where=where,
                fix=f"paths are relative to {self.folder}; source.images names another folder",
            )

    def digest(self, image_ids: tuple[str, ...]) -> str:
        """Returns a sha256 over names, sizes and contents, whatever the order."""
        paths = {image_id: Path(self.folder) / image_id for image_id in sorted(image_ids)}
        return fingerprint([[name, path.stat().st_size, file_sha256(path)] for name, path in paths.items()])

    def __call__(self, image_id: str) -> numpy.ndarray:
        """Returns a picture: uint8 [H, W, 3], RGB, in its own size.

        Raises:
            DataError: It is missing or cannot be decoded.
        """
        import numpy as np

        self.check(image_id, "pictures")
        return np.asarray(open_picture(Path(self.folder) / image_id))


def read_rows(path: Path) -> list[Mapping[str, Any]]:
    """Reads a JSONL file whose lines are objects.

    Raises:
        DataError: A line is not JSON, or is no object; the message names it.
    """
    rows = read_jsonl(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"row {number}: expected an object, found {type(row).__name__}", where=str(path))
    return rows


def _read_delimited(path: Path, delimiter: str) -> list[Mapping[str, Any]]:
    limit = csv.field_size_limit(_MAX_CELL_BYTES)
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            lines = [line for line in csv.reader(stream, delimiter=delimiter, strict=True) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path.name}' cannot be read: {error}", where=str(path)) from error
    finally:
        csv.field_size_limit(limit)
    header = lines[0] if lines else []
    if len(set(header)) < len(header):
        raise DataError("a column name occurs twice in the header", where=str(path))
    for number, line in enumerate(lines[1:], start=1):
        if len(line) != len(header):
            raise DataError(f"row {number}: {len(line)} cells, the header has {len(header)}", where=str(path))
    return [dict(zip(header, line, strict=True)) for line in lines[1:]]


def _read_parquet(path: Path) -> list[Mapping[str, Any]]:
    parquet, arrow = require("pyarrow.parquet", purpose="reading Parquet"), require("pyarrow")
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, arrow.ArrowException) as error:
        raise DataError(f"'{path.name}' cannot be read as Parquet: {error}", where=str(path)) from error


_READERS = {
    "jsonl": read_rows,
    "csv": lambda path: _read_delimited(path, ","),
    "tsv": lambda path: _read_delimited(path, "\t"),
    "parquet": _read_parquet,
}
