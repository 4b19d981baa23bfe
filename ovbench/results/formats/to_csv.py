"""Tables as CSV: one line per encoder, task, metric, control and group, fixed columns, fractions as percent."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ovbench.results.formats.layout import scale, shown_unit
from ovbench.results.formats.to_rows import COLUMNS, to_rows
from ovbench.results.table import ComparisonTable

_SCALED = ("value", "low", "high", "spread")
_DECIMALS = 4


def render(tables: Sequence[ComparisonTable]) -> str:
    """Returns CSV with a header; a missing value is an empty field and the column `reason` says why."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in to_rows(tables):
        writer.writerow({name: _field(name, row) for name in COLUMNS})
    return stream.getvalue()


def _field(name: str, row: dict[str, Any]) -> str:
    value = row[name]
    if value is None:
        return ""
    if name in _SCALED:
        return f"{round(scale(value, row['unit']), _DECIMALS):.{_DECIMALS}f}"
    if name == "unit":
        return shown_unit(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
