"""Marks and ranks from paired tests, in place of those from intervals: whoever tests hands in what the tests said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ovbench.results.record import MAIN, RunRecord
from ovbench.results.table import Cell, Column, ComparisonTable, Row

PAIRED = "paired tests"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskStanding:
    """What paired tests say of the rows of a table on a task's headline. Names are labels of rows."""

    best: str | None  # told apart from every other; None: nobody is
    tied: tuple[str, ...]  # those that cannot be told from the first, itself among them
    ranks: Mapping[str, tuple[int, int]]  # all hold together at 95%; 1 is best
    untested: Mapping[tuple[str, str], str]  # pair → why there was no test; it counts as not told apart


def contestants(table: ComparisonTable, records: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Returns the rows that compete, by label, with the runs behind them; chance has none."""
    by_id = {record.run_id: record for record in records}
    return {
        row.label: [by_id[run_id] for run_id in row.run_ids if run_id in by_id]
        for row in table.rows
        if row.kind != "chance"
    }


def with_standings(table: ComparisonTable, standings: Mapping[str, TaskStanding]) -> ComparisonTable:
    """Returns the table with marks and rank intervals of headlines from paired tests.

    Columns without a standing keep the marks that their intervals support. A control competes and is never marked.

    Args:
        table: From `build_tables`.
        standings: Task → what the tests said of its headline.
    """
    chosen = {
        column: standings[column.task]
        for column in table.columns
        if column.task in standings
        and column.metric == table.headline(column.task)
        and column.group is None
        and column.control == MAIN
    }
    rows = tuple(
        replace(row, cells={column: _cell(row, column, cell, chosen) for column, cell in row.cells.items()})
        for row in table.rows
    )
    return replace(table, rows=rows, notes=(*table.notes, *_notes(chosen)))


def _cell(row: Row, column: Column, cell: Cell, chosen: Mapping[Column, TaskStanding]) -> Cell:
    standing = chosen.get(column)
    if standing is None or row.kind == "chance":
        return cell
    mark = ""
    if row.kind == "encoder" and cell.value is not None:
        mark = "best" if standing.best == row.label else "tied" if row.label in standing.tied else ""
        mark = "" if mark == "tied" and len(standing.tied) < 2 else mark
    return replace(cell, mark=mark, basis=PAIRED, rank=standing.ranks.get(row.label))


def _notes(chosen: Mapping[Column, TaskStanding]) -> list[str]:
    if not chosen:
        return []
    tasks = ", ".join(column.task for column in chosen)
    notes = [f"marks of {tasks}: paired tests on common items, Holm's correction over all pairs, 5% in all"]
    for column, standing in chosen.items():
        ranks = [
            f"{name} {low}" if low == high else f"{name} {low}–{high}" for name, (low, high) in standing.ranks.items()
        ]
        notes.append(f"ranks on {column.task} that the tests allow: {', '.join(ranks)}")
        reasons: dict[str, int] = {}
        for reason in standing.untested.values():
            reasons[reason] = reasons.get(reason, 0) + 1
        notes += [f"{column.task}: {count} pair(s) not tested: {reason}" for reason, count in reasons.items()]
    return notes
