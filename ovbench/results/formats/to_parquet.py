"""Tables as Parquet: the rows and columns of JSON, typed; scores as they are stored, fractions at full precision."""

from __future__ import annotations

import io
from collections.abc import Sequence

from ovbench._base.lazy import require
from ovbench.results.formats.to_rows import TYPES, to_rows
from ovbench.results.formats.to_wide import ABOUT, to_wide
from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable


def render_bytes(tables: Sequence[ComparisonTable | Sheet], *, wide: bool = False) -> bytes:
    """Returns the file's content; the same tables give the same bytes under one version of pyarrow.

    Args:
        tables: What is written.
        wide: A row per encoder of the one table, in place of a row per score.
    """
    pyarrow = require("pyarrow", purpose="--export FILE.parquet")
    require("pyarrow.parquet", purpose="--export FILE.parquet")
    types = {
        "str": pyarrow.string(),
        "int": pyarrow.int64(),
        "float": pyarrow.float64(),
        "bool": pyarrow.bool_(),
        "list[int]": pyarrow.list_(pyarrow.int64()),
        "list[str]": pyarrow.list_(pyarrow.string()),
    }
    if wide:
        columns, rows = to_wide(tables, percent=False)
        schema = pyarrow.schema([(name, types[TYPES[name] if name in ABOUT else "float"]) for name in columns])
    else:
        rows = to_rows(tables)
        schema = pyarrow.schema([(name, types[kind]) for name, kind in TYPES.items()])
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows, schema=schema), stream)
    return stream.getvalue()
