"""Questions out of a local file (JSONL, CSV, TSV, Parquet) with pictures beside it; nothing is downloaded."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_jsonl
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench._base.lazy import require
from ovbench._base.names import suggest
from ovbench._base.pictures import open_picture
from ovbench.tasks.answers import LETTERS, YES_NO
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.rows import Loaded, Row

if TYPE_CHECKING:
    import numpy

FILE_TYPES = ("jsonl", "csv", "tsv", "parquet")
COLUMNS = ("id", "image", "question", "options", "answer", "group")
_ONE_GROUP = "all"
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
    rows = tuple(_Reader(spec, path, number, cells).row() for number, cells in enumerate(table, start=1))
    _refuse_duplicates(rows, path)
    pictures = Pictures(folder=source["images"])
    for number, row in enumerate(rows, start=1):
        pictures.check(row.image_id, f"{path.name}, row {number}")
    return Loaded(rows=rows, digest=digest, image=pictures, digest_images=pictures.digest)


@dataclass(frozen=True, slots=True)
class _Reader:
    """One row of the file, as the reader found it → Row."""

    spec: TaskSpec
    path: Path
    number: int  # counted from 1, without the header
    cells: Mapping[str, Any]

    def row(self) -> Row:
        columns = self.spec.source["columns"]
        options = self._options() if self.spec.kind == "choice" else YES_NO
        return Row(
            item_id=f"row-{self.number:06d}" if self.spec.source["key"] == "row" else self._text(columns["id"]),
            image_id=self._text(columns["image"]),
            question=self._text(columns["question"]),
            options=options,
            answer=self._answer(options),
            group=self._text(columns["group"]) if "group" in columns else _ONE_GROUP,
        )

    def _fault(self, what: str, *, fix: str = "") -> DataError:
        return DataError(f"row {self.number}: {what}", where=str(self.path), fix=fix)

    def _cell(self, column: str) -> Any:
        if column not in self.cells:
            near = suggest(column, self.cells)
            there = f"columns: {', '.join(self.cells)}"
            raise self._fault(
                f"there is no column '{column}'",
                fix=f"did you mean '{near}'? C{there[1:]}" if near else f"correct source.columns; {there}",
            )
        return self.cells[column]

    def _text(self, column: str) -> str:
        value = self._cell(column)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise self._fault(f"'{column}' must hold a text, found {type(value).__name__}")
        if not value.strip():
            raise self._fault(f"'{column}' is empty")
        return self._whole(value.strip())

    def _whole(self, text: str) -> str:
        try:
            text.encode()
        except UnicodeEncodeError:  # JSON can write half of a surrogate pair, which no file or digest can hold
            raise self._fault(f"{text!a} holds half a character", fix="write the row again as UTF-8") from None
        return text

    def _options(self) -> tuple[str, ...]:
        named = self.spec.source["columns"]["options"]
        if isinstance(named, list):
            values = [self._cell(column) for column in named]
            while values and values[-1] in (None, ""):
                values.pop()  # MMBench's way to ask with fewer than four options
        else:
            values = self._cell(named)
            if isinstance(values, str):
                values = self._json_list(named, values)
        if not isinstance(values, list) or len(values) < 2:
            raise self._fault(
                "fewer than two options were found", fix="a cell holds a list of texts (JSON in CSV and TSV)"
            )
        options = tuple(self._whole(str(value).strip()) for value in values if value is not None)
        if len(options) < len(values) or "" in options:
            raise self._fault("an option is empty")
        if len(set(options)) < len(options):
            raise self._fault(f"an option is given twice: {', '.join(options)}")
        if len(options) > len(LETTERS):
            raise self._fault(f"{len(options)} options are more than there are letters")
        return options

    def _json_list(self, column: str, text: str) -> Any:
        try:
            return json.loads(text)
        except json.JSONDecodeError as error:
            raise self._fault(f"'{column}' is not a JSON list: {error}") from None

    def _answer(self, options: tuple[str, ...]) -> str:
        form = self.spec.source["answer"]
        text = self._text(self.spec.source["columns"]["answer"])
        if form == "text":
            wanted = text.lower() if options == YES_NO else text
            if wanted in options:
                return wanted
            raise self._fault(f"the answer '{text}' is none of the options", fix=f"options: {', '.join(options)}")
        if form == "letter":
            place = LETTERS.find(text.upper()) if len(text) == 1 else -1
        else:
            place = int(text) if text.isdecimal() else -1
        if not 0 <= place < len(options):
            last = LETTERS[len(options) - 1] if form == "letter" else str(len(options) - 1)
            first = "A" if form == "letter" else "0"
            raise self._fault(f"the answer '{text}' is no {form} of an option", fix=f"it must be {first} to {last}")
        return options[place]


def _refuse_duplicates(rows: tuple[Row, ...], path: Path) -> None:
    first: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        if row.item_id in first:
            raise DataError(
                f"the id '{row.item_id}' occurs twice, in rows {first[row.item_id]} and {number}",
                where=str(path),
                fix="make the ids unique, or write key: row in the source to count the rows instead",
            )
        first[row.item_id] = number


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


def _read_jsonl(path: Path) -> list[Mapping[str, Any]]:
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
    "jsonl": _read_jsonl,
    "csv": lambda path: _read_delimited(path, ","),
    "tsv": lambda path: _read_delimited(path, "\t"),
    "parquet": _read_parquet,
}
