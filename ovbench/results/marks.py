"""Which values of a table are the best, and which cannot be told from the best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovbench.results.record import MAIN

if TYPE_CHECKING:
    from ovbench.results.cells import Cell, Mark
    from ovbench.results.table import Column, Row


def mark_best(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Marks the best row of each column where the difference is supported, and those that cannot be told from it.

    Supported means: no other row's 95% interval overlaps the best one's, and with several seeds no seed of another row
    reaches the worst seed of the best. A control competes and is never marked.
    """
    marks: dict[tuple[str, Column], Mark] = {}
    for column in columns:
        if column.control != MAIN or column.higher_is_better is None:
            continue
        sign = 1.0 if column.higher_is_better else -1.0
        ranked = sorted(
            ((sign * cell.value, row, cell) for row in rows if (cell := row.cell(column)).value is not None),
            key=lambda item: (-item[0], item[1].label),
        )
        if len(ranked) < 2:
            continue
        _, top_row, top = ranked[0]
        rivals = [row for _, row, cell in ranked[1:] if not separated(top, cell, sign)]
        if not rivals and top_row.kind == "encoder":
            marks[top_row.label, column] = "best"
        for row in [top_row, *rivals] if rivals else []:
            if row.kind == "encoder":
                marks[row.label, column] = "tied"
    return [
        replace(
            row,
            cells={
                column: replace(
                    cell,
                    mark=marks.get((row.label, column), ""),
                    basis="intervals" if (row.label, column) in marks else "",
                )
                for column, cell in row.cells.items()
            },
        )
        for row in rows
    ]


def separated(top: Cell, other: Cell, sign: float) -> bool:
    """Whether the best cell's interval and seeds stay clear of another's; `sign` is -1 where lower is better."""
    if top.low is None or top.high is None or other.low is None or other.high is None:
        return False
    near, far = (top.low, other.high) if sign > 0 else (-top.high, -other.low)
    worst, reached = min(sign * value for value in top.by_seed), max(sign * value for value in other.by_seed)
    return near > far and worst > reached
