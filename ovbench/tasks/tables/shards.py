"""One file of a table: its rows without pictures, and its pictures one at a time.

Contract: a few pictures are in memory at once, and what pyarrow needs to read them: of Parquet one page, which in the
hub's tables is less than a hundred pictures; an Arrow file is mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench._base.errors import DataError
from ovbench._base.lazy import require
from ovbench.tasks.local import read_rows
from ovbench.tasks.tables.layouts import Form

if TYPE_CHECKING:
    import pyarrow

_BATCH_ROWS = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Shard:
    """A file of a table."""

    path: Path
    form: Form

    def columns(self) -> tuple[str, ...]:
        """Returns the names of the columns; of JSON lines, those of the first row."""
        if self.form == "jsonl":
            return tuple(self._lines()[0]) if self._lines() else ()
        if self.form == "arrow":
            return tuple(self._arrow().schema.names)
        with self._guard():
            return tuple(self._parquet().schema_arrow.names)

    def rows(self, columns: Sequence[str]) -> list[dict[str, Any]]:
        """Returns the rows with those of the columns that are there.

        Raises:
            DataError: The file is damaged or is none of its form.
        """
        if self.form == "jsonl":
            return [{name: row[name] for name in columns if name in row} for row in self._lines()]
        there = [name for name in self.columns() if name in columns]
        with self._guard():
            if self.form == "arrow":
                return self._arrow().select(there).to_pylist()
            # Trap: with no column left pyarrow gives a table of no rows.
            file = self._parquet()
            return file.read(columns=there).to_pylist() if there else [{} for _ in range(file.metadata.num_rows)]

    def cells(self, column: str, start: int = 0) -> Iterator[Any]:
        """Yields the cells of one column from the row `start` on, as Python values.

        Raises:
            DataError: The file is damaged.
        """
        if self.form == "jsonl":
            yield from (row.get(column) for row in self._lines()[start:])
            return
        with self._guard():
            for skip, batch in self._batches(column, start):
                for place in range(skip, len(batch)):
                    yield batch[place].as_py()

    def _batches(self, column: str, start: int) -> Iterator[tuple[int, pyarrow.Array]]:
        """Yields small pieces of a column, each with the number of its first rows that come before `start`."""
        if self.form == "arrow":
            for chunk in self._arrow().column(column).chunks:  # mapped, not read
                if start < len(chunk):
                    yield max(0, start), chunk
                start -= len(chunk)
            return
        file = self._parquet()
        for group in range(file.num_row_groups):
            count = file.metadata.row_group(group).num_rows
            if start < count:
                for batch in file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=[column], use_threads=False):
                    if start < batch.num_rows:
                        yield max(0, start), batch.column(0)
                    start -= batch.num_rows
            else:
                start -= count

    def _lines(self) -> Sequence[Mapping[str, Any]]:
        state = self.path.stat() if self.path.is_file() else None
        return _lines_of(self.path, None if state is None else (state.st_size, state.st_mtime_ns))

    def _parquet(self) -> Any:
        parquet = require("pyarrow.parquet", purpose="reading Parquet")
        return parquet.ParquetFile(self.path, memory_map=True, pre_buffer=False)

    def _arrow(self) -> pyarrow.Table:
        arrow = require("pyarrow", purpose="reading Arrow files")
        with self._guard():
            return arrow.ipc.open_stream(arrow.memory_map(str(self.path))).read_all()

    def _guard(self) -> _Guard:
        return _Guard(self.path, "Parquet" if self.form == "parquet" else "Arrow")


@lru_cache(maxsize=4)
def _lines_of(path: Path, state: tuple[int, int] | None) -> Sequence[Mapping[str, Any]]:
    """Returns the rows of JSON lines; a file of the same size and time is not read again."""
    del state
    return read_rows(path)


@dataclass(frozen=True, slots=True)
class _Guard:
    """Turns what pyarrow says about a damaged file into an error for the user."""

    path: Path
    form: str

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not isinstance(error, Exception):  # none; or a generator that is closed, perhaps when Python itself ends
            return
        if isinstance(error, (OSError, require("pyarrow").ArrowException)):
            raise DataError(
                f"'{self.path.name}' cannot be read as {self.form}, it is cut off or damaged: {error}",
                where=str(self.path),
                fix="get the file again; a pack is checked by: ovbench data verify DIR",
            ) from error
