"""What the printed formats have in common: which columns stand where, how a number looks, and what the notes say.

A printed table shows each task's headline with its controls, then per task the headline by group and the other metrics.
Everything else is in CSV and JSON.
"""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.picture_settings import CUT
from ovbench.results.printed import (
    MISSING,
    Footnotes,
    Line,
    Printed,
    Section,
    Sheet,
    Shown,
    number,
    scale,
    shown_unit,
)
from ovbench.results.record import MAIN
from ovbench.results.standings import PAIRED
from ovbench.results.table import COSTS, PICTURE_KINDS, Cell, Column, ComparisonTable, Mark, Row

__all__ = [
    "MISSING", "Line", "Printed", "Section", "Shown", "label", "lay_out", "number", "scale", "seeds", "shown_unit",
    "sign",
]  # fmt: skip


def label(row: Row) -> str:
    """Returns how a row is named in print."""
    words = {"control": ["control"], "untrained": ["UNTRAINED"]}.get(row.kind, [])
    words += ["native decoder"] if row.decoder == "native" else []
    return row.label + (f" ({', '.join(words)})" if words else "")


def seeds(row: Row) -> str:
    """Returns the number of seeds behind a row's values, as a range where they differ; nothing for chance."""
    counts = {len(cell.seeds) for cell in row.cells.values() if cell.seeds}
    return "–".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else ""


def lay_out(table: ComparisonTable | Sheet) -> Printed:
    """Returns the sections of a printed table with their notes."""
    if not isinstance(table, ComparisonTable):
        return table.lay_out()
    notes = Footnotes()
    main = [
        column
        for column in table.columns
        if column.group is None and column.metric in (table.headline(column.task), *COSTS)
    ]
    sections = [_section(table, "", main, notes, main=True)] if main else []
    for task in table.tasks:
        own = [column for column in table.columns if column.task == task.name and (column.control == MAIN or not main)]
        groups = [column for column in own if column.group is not None and column.metric == task.headline]
        shown = {*main, *groups}
        others = [column for column in own if column not in shown and (column.group is None or not main)]
        if groups:
            sections.append(_section(table, f"{task.name}: {task.headline} by group", groups, notes, main=False))
        if others:
            sections.append(_section(table, f"{task.name}: other metrics", others, notes, main=False))
    return Printed(title=table.title, sections=tuple(sections), footnotes=notes.lines, legend=_legend(table, sections))


def _section(table: ComparisonTable, title: str, columns: Sequence[Column], notes: Footnotes, *, main: bool) -> Section:
    rows = [row for row in table.rows if row.kind != "chance" or any(column in row.cells for column in columns)]
    heads = (("encoder",), ("seeds",)) if main else (("encoder",),)
    return Section(
        title=title,
        headers=(*heads, *(_header(column, main=main) for column in columns)),
        rows=tuple(_line(row, columns, notes, main=main) for row in rows),
    )


def _line(row: Row, columns: Sequence[Column], notes: Footnotes, *, main: bool) -> Line:
    heads = [Shown(value=label(row)), *([Shown(value=seeds(row))] if main else [])]
    cells = [_cell(row, column, notes, main=main) for column in columns]
    return Line(cells=(*heads, *cells), muted=row.kind != "encoder")


def _cell(row: Row, column: Column, notes: Footnotes, *, main: bool) -> Shown:
    if row.kind == "chance" and column not in row.cells and not main:
        return Shown(value="")
    return _shown(row.cell(column), column, notes, main=main)


def _header(column: Column, *, main: bool) -> tuple[str, ...]:
    unit = "%" if column.unit == "fraction" else column.unit
    sign = f" {column.direction}" if column.direction else ""
    if not main:
        return (column.group or column.metric, f"{unit}{sign}", f"n={column.n}")
    if column.control == MAIN:
        return (column.task, f"{column.metric} {unit}{sign}", f"n={column.n}")
    return (column.task, column.control, unit)


def _shown(cell: Cell, column: Column, notes: Footnotes, *, main: bool) -> Shown:
    if cell.value is None:
        assert cell.reason is not None, "a missing value has a reason"
        return notes.missing(cell.reason)
    interval = ""
    if main and column.control == MAIN and cell.low is not None and cell.high is not None:
        interval = f"[{number(cell.low, column.unit)}, {number(cell.high, column.unit)}]"
    value = number(cell.value, column.unit)
    if main and column.control == MAIN and cell.spread is not None and column.metric not in COSTS:
        value += f" ±{number(cell.spread, column.unit)}"
    return Shown(value=value, interval=interval, mark=cell.mark, key=scale(cell.value, column.unit))


def _legend(table: ComparisonTable, sections: Sequence[Section]) -> tuple[str, ...]:
    cells = [cell for section in sections for line in section.rows for cell in line.cells]
    lines: list[str] = []
    if any(cell.interval for cell in cells):
        several = any(len(row.seeds) > 1 for row in table.rows)
        pictures = any(task.kind in PICTURE_KINDS for task in table.tasks)
        what, how = ("pictures", "") if pictures else ("questions", "clustered by image, ")
        scope = f"over {what} and seeds" if several else f"over the {what}; it does not cover the seed"
        lines.append(f"[low, high]: 95% interval, {how}{scope}")
    if any(CUT in cell.interval for row in table.rows for cell in row.cells.values()):
        lines.append("an interval of a distance that would reach below 0 begins at 0")
    if any("±" in cell.value for cell in cells):
        lines.append("±: standard deviation over seeds")
    controls = {column.control for column in table.columns}
    if "shuffled" in controls:
        lines.append("shuffled: each question gets another image")
    if "blind" in controls:
        lines.append("blind: no image")
    marks = {cell.mark for cell in cells}
    paired = any(cell.basis == PAIRED for row in table.rows for cell in row.cells.values())
    if "best" in marks:
        lines.append(
            "*: best, told apart from every other row" if paired else "*: best, its interval overlaps no other"
        )
    if "tied" in marks:
        lines.append("=: not told apart from the first" if paired else "=: not separated from the best")
    if any(column.metric in COSTS for column in table.columns):
        lines.append("NFE: velocities that the solver asked for; network passes: how often the network ran for them")
    return (*lines, *table.notes)


def sign(mark: Mark) -> str:
    """Returns the sign that stands behind a marked value."""
    return {"best": "*", "tied": "=", "": ""}[mark]
