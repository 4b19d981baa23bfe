"""Tables as long rows, one per encoder, task, metric, control and group: what CSV, JSON, Parquet and frames hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable

# Contract: columns are only ever added, at the end, and never change their type. docs/leaderboard.md explains each.
# Column → type: str, int, float, bool, or the type of what a list holds.
TYPES: dict[str, str] = {
    "suite": "str", "protocol": "str", "protocol_version": "int", "limit": "int", "row": "str", "kind": "str",
    "encoder": "str", "dtype": "str", "weights_digest": "str", "num_params": "int", "num_params_frontend": "int",
    "num_tokens": "int", "dim": "int", "num_seeds": "int", "seeds": "list[int]", "task": "str", "task_version": "int",
    "scorer": "str", "metric": "str", "group": "str", "control": "str", "headline": "bool", "unit": "str",
    "higher_is_better": "bool", "n": "int", "value": "float", "low": "float", "high": "float", "interval": "str",
    "spread": "float", "mark": "str", "reason": "str", "run_ids": "list[str]", "decoder": "str", "guidance": "str",
    "table": "str", "mark_basis": "str", "rank_low": "int", "rank_high": "int", "source": "str",
    "source_version": "str", "source_table": "str", "citation": "str", "framework": "str", "llm": "str",
    "resolution": "str", "params": "str", "reported": "float", "difference": "float", "protocol_differences": "str",
}  # fmt: skip
COLUMNS = tuple(TYPES)


def to_rows(tables: Sequence[ComparisonTable | Sheet]) -> list[dict[str, Any]]:
    """Returns the rows of all tables; scores in their stored unit, so fractions stay fractions."""
    return [row for table in tables for row in _rows_of(table)]


def _rows_of(table: ComparisonTable | Sheet) -> list[dict[str, Any]]:
    empty: dict[str, Any] = dict.fromkeys(COLUMNS)
    found = _compared(table) if isinstance(table, ComparisonTable) else table.long_rows()
    assert all(row.keys() <= empty.keys() for row in found), "every column is in the contract"
    return [empty | row for row in found]


def _compared(table: ComparisonTable) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for row in table.rows:
        encoder = row.encoder
        about = {
            "suite": table.suite,
            "protocol": table.protocol,
            "protocol_version": table.protocol_version,
            "limit": table.limit,
            "row": row.label,
            "kind": row.kind,
            "encoder": encoder.spec if encoder else None,
            "dtype": row.dtype,
            "weights_digest": encoder.weights_digest if encoder else None,
            "num_params": encoder.num_params if encoder else None,
            "num_params_frontend": encoder.num_params_frontend if encoder else None,
            "num_tokens": encoder.num_tokens if encoder else None,
            "dim": encoder.dim if encoder else None,
            "run_ids": list(row.run_ids),
            "decoder": row.decoder,
            "guidance": row.guidance,
            "table": table.title,
        }
        for column in table.columns:
            if row.kind == "chance" and column not in row.cells:
                continue
            cell = row.cell(column)
            rank = cell.rank or (None, None)
            found.append(
                about
                | {
                    "num_seeds": len(cell.seeds),
                    "seeds": list(cell.seeds),
                    "task": column.task,
                    "task_version": column.task_version,
                    "scorer": column.scorer,
                    "metric": column.metric,
                    "group": column.group,
                    "control": column.control,
                    "headline": column.group is None and column.metric == table.headline(column.task),
                    "unit": column.unit,
                    "higher_is_better": column.higher_is_better,
                    "n": column.n,
                    "value": cell.value,
                    "low": cell.low,
                    "high": cell.high,
                    "interval": cell.interval,
                    "spread": cell.spread,
                    "mark": cell.mark,
                    "reason": cell.reason,
                    "mark_basis": cell.basis or None,
                    "rank_low": rank[0],
                    "rank_high": rank[1],
                }
            )
    return found
