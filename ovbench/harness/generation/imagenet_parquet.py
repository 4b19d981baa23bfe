"""Labelled pictures in parquet shards as the Hugging Face hub stores them: `image` {bytes, path} and `label`."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.generation.labelled_source import LabelledSource
from ovbench.harness.metrics.archives import GET_AGAIN

_KEPT_BYTES = 512 * 2**20  # of row groups that were read last
_LAYOUT = "store the picture's file in 'image' (bytes, or {bytes, path}) and the number of its class in 'label'"


class ParquetSource(LabelledSource):
    """Pictures of parquet files: files by path, rows in their order.

    A picture is read with its whole row group, 100 pictures as the hub writes them, and the last groups are kept. In
    order that costs nothing; at random places, as the first stage reads, it is a hundred times the bytes: unpack the
    set into class folders or tars for that.

    Args:
        path: What was named, for messages.
        name: For people.
        shards: Files, in order.
        num_classes: Classes there should be; None: as many as the largest class tells.

    Raises:
        DataError: A file is damaged, or has not these columns.
    """

    kind = "parquet"

    def __init__(self, path: Path, name: str, shards: Sequence[Path], *, num_classes: int | None) -> None:
        self._shards = list(shards)
        self._sizes = [shard.stat().st_size for shard in self._shards]
        labels = [np.zeros(0, np.int64)]
        first, self._groups, starts = 0, [], []
        for number, shard in enumerate(self._shards):
            found, rows_bytes = _open(shard)
            labels.append(found)
            for group, (rows, num_bytes) in enumerate(rows_bytes):
                starts.append(first)
                self._groups.append((number, group, num_bytes))
                first += rows
        self._starts = np.array(starts, np.int64)  # number of the first picture of each row group
        self._shard_starts = np.cumsum([len(part) for part in labels])  # and of each shard: [0] is the empty part
        self._lock, self._kept = Lock(), OrderedDict[int, Future[Any]]()
        together = np.concatenate(labels)
        count = num_classes if num_classes is not None else int(together.max(initial=-1)) + 1
        super().__init__(path, name, classes=[str(i) for i in range(count)], labels=together, sizes=None)

    def item(self, index: int) -> str:
        """Returns file and row."""
        shard = int(np.searchsorted(self._shard_starts, index, side="right")) - 1
        return f"{self._shards[shard].name}[{index - self._shard_starts[shard]}]"

    def read_bytes(self, index: int) -> bytes:
        """Returns the file of a picture, from its row group."""
        place = int(np.searchsorted(self._starts, index, side="right")) - 1
        value = self._column(place)[index - int(self._starts[place])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not data:
            raise DataError("the row holds no bytes", where=str(self.path / self.item(index)), fix=_LAYOUT)
        return data

    def _column(self, place: int) -> Any:
        """Returns a row group's pictures; read once, also when several threads ask for it at the same time."""
        with self._lock:
            future = self._kept.get(place)
            mine = future is None
            if future is None:
                future = self._kept[place] = Future()
            self._kept.move_to_end(place)
            while len(self._kept) > 1 and sum(self._groups[kept][2] for kept in self._kept) > _KEPT_BYTES:
                self._kept.popitem(last=False)
        if mine:
            number, group, _ = self._groups[place]
            try:
                future.set_result(_read_group(self._shards[number], group))
            except BaseException as error:
                future.set_exception(error)
                with self._lock:
                    if self._kept.get(place) is future:
                        del self._kept[place]
        return future.result()

    def _identity(self) -> Iterable[str]:
        for shard, size in zip(self._shards, self._sizes, strict=True):
            yield f"{shard.name}\0{size}"


def _damaged(shard: Path, error: Exception) -> DataError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return DataError(f"'{shard.name}' is damaged or no parquet: {first}", where=str(shard), fix=GET_AGAIN)


def _open(shard: Path) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """Returns the classes of a file, and rows and bytes of each of its row groups."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(shard) as table:
            _check_columns(table.schema_arrow, shard)
            labels = table.read(columns=["label"]).column("label")
            groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
            sizes = [(group.num_rows, group.total_byte_size) for group in groups]
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(shard, error) from error
    if labels.null_count:
        row = labels.is_null().to_pylist().index(True)
        raise DataError(f"row {row} of '{shard.name}' has no class", where=str(shard), fix=_LAYOUT)
    return labels.to_numpy().astype(np.int64), sizes


def _check_columns(schema: Any, shard: Path) -> None:
    import pyarrow

    def holds_bytes(kind: Any) -> bool:
        if pyarrow.types.is_struct(kind):
            return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
        return pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind)

    names = set(schema.names)
    if "image" not in names or not holds_bytes(schema.field("image").type):
        raise DataError(
            f"'{shard.name}' has no column 'image' of picture files (it has: {', '.join(schema.names[:8])})",
            where=str(shard),
            fix=_LAYOUT,
        )
    if "label" not in names or not pyarrow.types.is_integer(schema.field("label").type):
        raise DataError(
            f"'{shard.name}' has no column 'label' of whole numbers (it has: {', '.join(schema.names[:8])})",
            where=str(shard),
            fix=_LAYOUT,
        )


def _read_group(shard: Path, group: int) -> Any:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(shard) as table:
            return table.read_row_group(group, columns=["image"]).column("image")
    except (pyarrow.ArrowException, OSError) as error:
        raise _damaged(shard, error) from error
