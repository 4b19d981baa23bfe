"""Parts of comparison tables: filters of rows and columns, and another order of rows. No mark or value changes."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import suggest
from ovbench.results.record import MAIN
from ovbench.results.table import Column, ComparisonTable, Row

ALL_QUESTIONS = "all"  # the group that is none
_COSTS: dict[str, Callable[[Row], Any]] = {
    "encoder": lambda row: row.label,
    "params": lambda row: row.encoder.num_params if row.encoder else None,
    "tokens": lambda row: row.encoder.num_tokens if row.encoder else None,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What is kept; an empty tuple keeps all. Patterns may hold * and ?, and letter case does not count."""

    encoders: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()  # none, shuffled, blind
    groups: tuple[str, ...] = ()  # `all`: all questions

    @property
    def empty(self) -> bool:
        """Whether everything is kept."""
        return not (self.encoders or self.tasks or self.metrics or self.controls or self.groups)


def keep(tables: Sequence[ComparisonTable], wanted: Wanted) -> list[ComparisonTable]:
    """Returns the tables with the rows and columns that are wanted; a table without any is left out.

    Chance stays where a column of its own does. Marks stay as they are: they were made against all rows.

    Raises:
        ConfigError: A pattern fits nothing at all; lists what there is.
    """
    _check("--encoder", wanted.encoders, {name for table in tables for row in table.rows for name in _names(row)})
    columns = [column for table in tables for column in table.columns]
    _check("--task", wanted.tasks, {column.task for column in columns})
    _check("--metric", wanted.metrics, {column.metric for column in columns})
    _check("--control", wanted.controls, {column.control for column in columns})
    _check("--group", wanted.groups, {_group(column) for column in columns})
    kept = [_part(table, wanted) for table in tables]
    found = [table for table in kept if table.columns and any(row.kind != "chance" for row in table.rows)]
    if not found:
        raise ConfigError("no score fits all filters together", where=_said(wanted), fix="leave one of them out")
    return found


def in_order(tables: Sequence[ComparisonTable], sort: str) -> list[ComparisonTable]:
    """Returns the tables with rows in another order; missing values last, chance stays below.

    Args:
        tables: From `build_tables`.
        sort: `encoder`, `params`, `tokens`, a task (its headline), or `task/metric`; best first, and `:asc` or `:desc`
            behind it decides otherwise.

    Raises:
        ConfigError: No table has such a column.
    """
    name, _, direction = sort.partition(":")
    if direction not in ("", "asc", "desc"):
        raise ConfigError(f"'{direction}' is no order", where=f"--sort {sort}", fix="end it with :asc or :desc")
    if name in _COSTS:
        return [_sorted(table, _COSTS[name], descending=direction == "desc") for table in tables]
    found = [(table, _column(table, name)) for table in tables]
    if all(column is None for _, column in found):
        known = {word for table in tables for word in _sortable(table)} | set(_COSTS)
        near = suggest(name, known)
        hint = f"did you mean '{near}'? " if near else ""
        raise ConfigError(f"no column '{name}'", where="--sort", fix=f"{hint}Columns: {', '.join(sorted(known))}")
    tables = []
    for table, column in found:
        if column is None:
            tables.append(table)
            continue
        best_down = column.higher_is_better is not False
        descending = best_down if not direction else direction == "desc"
        tables.append(_sorted(table, lambda row, column=column: row.cell(column).value, descending=descending))
    return tables


def _part(table: ComparisonTable, wanted: Wanted) -> ComparisonTable:
    columns = tuple(
        column
        for column in table.columns
        if _fits(wanted.tasks, column.task)
        and _fits(wanted.metrics, column.metric)
        and _fits(wanted.controls, column.control)
        and _fits(wanted.groups, _group(column))
    )
    rows = tuple(
        row
        for row in table.rows
        if row.kind == "chance" or not wanted.encoders or any(_fits(wanted.encoders, name) for name in _names(row))
    )
    rows = tuple(row for row in rows if row.kind != "chance" or any(column in row.cells for column in columns))
    cut = len(rows) < len(table.rows) and bool(wanted.encoders)
    note = ("marks were made against all rows, of which only some are shown",) if cut else ()
    return replace(table, columns=columns, rows=rows, notes=(*table.notes, *note))


def _names(row: Row) -> tuple[str, ...]:
    if row.encoder is None:
        return ()
    return row.label, row.encoder.spec, row.encoder.family


def _group(column: Column) -> str:
    return column.group or ALL_QUESTIONS


def _fits(patterns: Sequence[str], name: str) -> bool:
    low = name.casefold()
    return not patterns or any(fnmatch.fnmatchcase(low, pattern.casefold()) for pattern in patterns)


def _check(flag: str, patterns: Sequence[str], known: set[str]) -> None:
    for pattern in patterns:
        if not any(_fits((pattern,), name) for name in known):
            near = suggest(pattern, known)
            hint = f"did you mean '{near}'? " if near else ""
            raise ConfigError(
                f"nothing fits '{pattern}'", where=flag, fix=f"{hint}There are: {', '.join(sorted(known))}"
            )


def _said(wanted: Wanted) -> str:
    flags = (
        ("--encoder", wanted.encoders), ("--task", wanted.tasks), ("--metric", wanted.metrics),
        ("--control", wanted.controls), ("--group", wanted.groups),
    )  # fmt: skip
    return " ".join(f"{flag} {word}" for flag, words in flags for word in words)


def _sortable(table: ComparisonTable) -> list[str]:
    main = [column for column in table.columns if column.control == MAIN and column.group is None]
    return [*(column.task for column in main), *(f"{column.task}/{column.metric}" for column in main)]


def _column(table: ComparisonTable, name: str) -> Column | None:
    for column in table.columns:
        if column.control != MAIN or column.group is not None:
            continue
        if name == f"{column.task}/{column.metric}":
            return column
        if name == column.task and column.metric == table.headline(column.task):
            return column
    return None


def _sorted(table: ComparisonTable, value: Callable[[Row], Any], *, descending: bool) -> ComparisonTable:
    contest = [row for row in table.rows if row.kind != "chance"]
    known = sorted((row for row in contest if value(row) is not None), key=lambda row: row.label)
    known.sort(key=value, reverse=descending)
    missing = [row for row in contest if value(row) is None]
    chance = [row for row in table.rows if row.kind == "chance"]
    return replace(table, rows=(*known, *missing, *chance))
