"""One encoder's scores in the layout of lmms-eval's results file, for tools that read those."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.files import to_json
from ovbench.results.printed import Sheet
from ovbench.results.quantile import t_quantile
from ovbench.results.record import MAIN
from ovbench.results.table import Column, ComparisonTable, Row


def render(tables: Sequence[ComparisonTable | Sheet]) -> str:
    """Returns the scores of the one encoder; a file of lmms-eval is of one model.

    `_stderr` is half the 95% interval over 1.96, since the layout has no place for an interval; the whole interval is
    beside it under `ovbench`, which readers of lmms-eval's files pass over.

    Raises:
        ConfigError: There is not exactly one measured row.
    """
    found = [
        (table, row)
        for table in tables
        if isinstance(table, ComparisonTable)
        for row in table.rows
        if row.kind != "chance"
    ]
    if len(found) != 1:
        names = ", ".join(sorted({row.label for _, row in found})) or "none"
        raise ConfigError(
            f"a file of lmms-eval's layout is of one encoder in one table, there are {len(found)} rows",
            where="--export FILE.lmms.json",
            fix=f"choose with --suite, --protocol and --encoder. Rows: {names}",
        )
    ((table, row),) = found
    return to_json(_document(table, row))


def _document(table: ComparisonTable, row: Row) -> dict[str, Any]:
    shown = [column for column in table.columns if column.control == MAIN and column in row.cells]
    results: dict[str, dict[str, Any]] = {}
    whole: dict[str, dict[str, Any]] = {}
    better: dict[str, dict[str, Any]] = {}
    for column in shown:
        cell, name = row.cell(column), _name(column)
        result = results.setdefault(column.task, {"alias": column.task})
        result[f"{name},none"] = "N/A" if cell.value is None else cell.value
        result[f"{name}_stderr,none"] = "N/A"
        if cell.low is not None and cell.high is not None:
            result[f"{name}_stderr,none"] = (cell.high - cell.low) / 2 / t_quantile(float("inf"))
        better.setdefault(column.task, {})[name] = column.higher_is_better
        whole.setdefault(column.task, {})[name] = {
            "low": cell.low, "high": cell.high, "interval": cell.interval, "unit": column.unit, "n": column.n,
            "reason": cell.reason,
        }  # fmt: skip
    tasks = {task.name: task for task in table.tasks if task.name in results}
    spec = row.encoder.spec if row.encoder else row.label
    return {
        "results": results,
        "group_subtasks": {name: [] for name in tasks},
        "configs": {name: {"task": name, "metadata": {"version": task.version}} for name, task in tasks.items()},
        "versions": {name: task.version for name, task in tasks.items()},
        "n-shot": dict.fromkeys(tasks, 0),
        "higher_is_better": better,
        "n-samples": {name: {"original": task.num_total, "effective": task.n} for name, task in tasks.items()},
        "config": {"model": "ovbench", "model_args": f"encoder={spec},protocol={table.protocol}", "limit": table.limit},
        "model_name": spec,
        "ovbench": {"title": table.title, "run_ids": list(row.run_ids), "scores": whole, **_encoder(row)},
    }


def _encoder(row: Row) -> Mapping[str, Any]:
    if row.encoder is None:
        return {}
    return {"weights_digest": row.encoder.weights_digest, "dtype": row.dtype}


def _name(column: Column) -> str:
    return column.metric if column.group is None else f"{column.metric}[{column.group}]"
