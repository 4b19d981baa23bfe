"""Tables as CSV: one line per encoder, task, metric, control and group, fixed columns, fractions as percent."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ovbench.results.formats.to_rows import COLUMNS, to_rows
from ovbench.results.formats.to_wide import to_wide
from ovbench.results.printed import AS_PUBLISHED, Sheet, scale, shown_unit
from ovbench.results.table import ComparisonTable

_SCALED = ("value", "low", "high", "spread", "reported", "difference")
_DECIMALS = 4


def render(tables: Sequence[ComparisonTable | Sheet], *, wide: bool = False) -> str:
    """Returns CSV with a header; a missing value is an empty field and the column `reason` says why.

    Args:
        tables: What is written.
        wide: A row per encoder of the one table, in place of a row per score.
    """
    if wide:
        columns, rows = to_wide(tables, percent=True)
        return _written(columns, [{name: _plain(row[name]) for name in columns} for row in rows])
    return _written(COLUMNS, [{name: _field(name, row) for name in COLUMNS} for row in to_rows(tables)])


def _written(columns: Sequence[str], rows: Sequence[dict[str, str]]) -> str:
    stream = io.StringIO()
    writer = csv.DictWriter(stream, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _field(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return ""
    if name in _SCALED and row["unit"] != AS_PUBLISHED:  # a published number keeps the decimals that were printed
        return f"{round(scale(value, row['unit']), _DECIMALS):.{_DECIMALS}f}"
    return shown_unit(value) if name == "unit" else _plain(value)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
