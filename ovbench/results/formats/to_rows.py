"""Tables as long rows, one per encoder, task, metric, control and group: what CSV, JSON and data frames hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovbench.results.table import ComparisonTable

# Contract: columns are only ever added, at the end. docs/records.md explains each.
COLUMNS = (
    "suite", "protocol", "protocol_version", "limit", "row", "kind", "encoder", "dtype", "weights_digest", "num_params",
    "num_params_frontend", "num_tokens", "dim", "num_seeds", "seeds", "task", "task_version", "scorer", "metric",
    "group", "control", "headline", "unit", "higher_is_better", "n", "value", "low", "high", "interval", "spread",
    "mark", "reason", "run_ids", "decoder", "guidance", "table",
)  # fmt: skip


def to_rows(tables: Sequence[ComparisonTable]) -> list[dict[str, Any]]:
    """Returns the rows of all tables; scores in their stored unit, so fractions stay fractions."""
    return [row for table in tables for row in _rows_of(table)]


def _rows_of(table: ComparisonTable) -> list[dict[str, Any]]:
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
                }
            )
    return found
