"""Tables as wide rows: one per encoder, a column per task, metric, group and control."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench.results.formats.to_rows import to_rows
from ovbench.results.printed import AS_PUBLISHED, Sheet, scale
from ovbench.results.record import MAIN
from ovbench.results.table import ComparisonTable

# Columns about the row; the scores follow.
ABOUT = (
    "table", "suite", "protocol", "protocol_version", "limit", "row", "kind", "encoder", "dtype", "weights_digest",
    "num_params", "num_params_frontend", "num_tokens", "dim",
)  # fmt: skip
_BOUNDS = ("low", "high")


def to_wide(tables: Sequence[ComparisonTable | Sheet], *, percent: bool) -> tuple[list[str], list[dict[str, Any]]]:
    """Returns the columns and one row per row of the table.

    A score's column is `task/metric`, with `/group` and `@control` where there is one; `:low` and `:high` behind it are
    its interval.

    Args:
        tables: One table: columns of two would mix what may not be compared.
        percent: Fractions become percent, as CSV has them.

    Raises:
        ConfigError: More or less than one table.
    """
    if len(tables) != 1:
        titles = "; ".join(table.title for table in tables) or "none"
        raise ConfigError(
            f"--pivot wide takes one table, there are {len(tables)}",
            where="--pivot wide",
            fix=f"choose one with --suite, --protocol or --table. Tables: {titles}",
        )
    names: dict[str, None] = {}
    rows: dict[str, dict[str, Any]] = {}
    for entry in to_rows(tables):
        name = _name(entry)
        key = _key(entry)
        row = rows.setdefault(key, {column: entry[column] for column in ABOUT})
        row[name] = _scaled(entry, "value", percent)
        names[name] = None
        for bound in _BOUNDS:
            if entry[bound] is not None:
                row[f"{name}:{bound}"] = _scaled(entry, bound, percent)
    columns: list[str] = [*ABOUT]
    for name in names:
        columns += [
            name,
            *(f"{name}:{bound}" for bound in _BOUNDS if any(f"{name}:{bound}" in row for row in rows.values())),
        ]
    return columns, [{column: row.get(column) for column in columns} for row in rows.values()]


def _key(entry: dict[str, Any]) -> str:
    """Returns what is one row: of published tables the settings of a row belong to it."""
    settings = [entry[name] for name in ("row", "dtype", "framework", "llm", "resolution", "params", "num_tokens")]
    return "\n".join(map(str, settings))


def _name(entry: dict[str, Any]) -> str:
    words = [entry["task"], entry["metric"], entry["group"]]
    text = "/".join(word for word in words if word)
    return text if entry["control"] in (None, MAIN) else f"{text}@{entry['control']}"


def _scaled(entry: dict[str, Any], name: str, percent: bool) -> float | None:
    value = entry[name]
    if value is None or not percent or entry["unit"] == AS_PUBLISHED:
        return value
    return round(scale(value, entry["unit"]), 4)
