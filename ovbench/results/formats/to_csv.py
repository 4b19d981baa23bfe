"""One line per table, encoder, task, metric, control and group, with fixed columns, for programs and spreadsheets.

Values stay as stored: the column `unit` says `fraction` where the tables for people print percent.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from ovbench.results.table import ComparisonTable

# Contract: names and order are stable; a new column goes to the end. docs/records.md describes each.
COLUMNS = (
    "table", "suite", "protocol", "protocol_version", "limit", "encoder", "kind", "task", "task_version", "scorer",
    "data_digest", "metric", "group", "control", "headline", "unit", "higher_is_better", "n", "value", "low", "high",
    "interval", "num_seeds", "seeds", "spread", "mark", "reason", "run_ids",
)  # fmt: skip


def long_rows(tables: Sequence[ComparisonTable]) -> list[dict[str, Any]]:
    """Returns one mapping per number, with the keys of `COLUMNS`; what is missing is None.

    Args:
        tables: From `leaderboard`; `table` counts them from 1, since numbers of two tables are not comparable.
    """
    found: list[dict[str, Any]] = []
    for count, table in enumerate(tables, start=1):
        for row in table.rows:
            for column, cell in zip(table.columns, row.cells, strict=True):
                if row.kind == "chance" and cell.value is None:
                    continue  # chance has one number per task
                values = (
                    count, table.suite, table.protocol, table.protocol_version, table.limit, row.label, row.kind,
                    column.task, column.task_version, column.scorer, column.data_digest, column.metric, column.group,
                    column.control, column.headline, column.unit, column.higher_is_better, column.n, cell.value,
                    cell.low, cell.high, cell.interval, len(cell.seeds), " ".join(map(str, cell.seeds)), cell.spread,
                    cell.mark or None, cell.reason, " ".join(cell.run_ids),
                )  # fmt: skip
                found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def render(tables: Sequence[ComparisonTable]) -> str:
    """Returns the CSV text with a header line; a missing value is an empty field, with its reason in `reason`."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in long_rows(tables):
        writer.writerow([_field(row[name]) for name in COLUMNS])
    return stream.getvalue()


def _field(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)
