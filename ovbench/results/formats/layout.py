"""What the printed formats have in common: which columns stand where, how a number looks, and what the notes say.

A printed table shows each task's headline with its controls, then per task the headline by group and the other metrics.
Everything else is in CSV and JSON.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovbench.results.picture_settings import CUT
from ovbench.results.record import MAIN
from ovbench.results.table import COSTS, PICTURE_KINDS, Cell, Column, ComparisonTable, Mark, Row

MISSING = "—"
_DECIMALS = {"fraction": 1, "points": 1, "count": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A cell as text: number, interval and the sign of its mark are apart, so that a format can set them."""

    value: str
    interval: str = ""
    mark: Mark = ""
    note: int | None = None  # number of the footnote that says why there is no value


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One rectangle of a printed table."""

    title: str
    headers: tuple[tuple[str, ...], ...]  # lines of each column's header
    rows: tuple[tuple[Row, tuple[Shown, ...]], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """A comparison table laid out for people."""

    title: str
    sections: tuple[Section, ...]
    footnotes: tuple[str, ...]  # in the order of their numbers
    legend: tuple[str, ...]


def scale(value: float, unit: str) -> float:
    """Returns a value as it is shown: fractions become percent."""
    return 100 * value if unit == "fraction" else value


def shown_unit(unit: str) -> str:
    """Returns the unit of `scale`d values."""
    return "percent" if unit == "fraction" else unit


def number(value: float, unit: str) -> str:
    """Returns a value with one decimal in percent and points, none in counts, two in other units; never `-0.0`."""
    text = f"{scale(value, unit):.{_DECIMALS.get(unit, 2)}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def label(row: Row) -> str:
    """Returns how a row is named in print."""
    words = {"control": ["control"], "untrained": ["UNTRAINED"]}.get(row.kind, [])
    words += ["native decoder"] if row.decoder == "native" else []
    return row.label + (f" ({', '.join(words)})" if words else "")


def seeds(row: Row) -> str:
    """Returns the number of seeds behind a row's values, as a range where they differ; nothing for chance."""
    counts = {len(cell.seeds) for cell in row.cells.values() if cell.seeds}
    return "–".join(str(count) for count in sorted({min(counts), max(counts)})) if counts else ""


def lay_out(table: ComparisonTable) -> Printed:
    """Returns the sections of a printed table with their notes."""
    notes: dict[str, int] = {}
    main = [
        column
        for column in table.columns
        if column.group is None and column.metric in (table.headline(column.task), *COSTS)
    ]
    sections = [_section(table, "", main, notes, main=True)]
    for task in table.tasks:
        own = [column for column in table.columns if column.task == task.name and column.control == MAIN]
        groups = [column for column in own if column.group is not None and column.metric == task.headline]
        others = [column for column in own if column.group is None and column.metric not in (task.headline, *COSTS)]
        if groups:
            sections.append(_section(table, f"{task.name}: {task.headline} by group", groups, notes, main=False))
        if others:
            sections.append(_section(table, f"{task.name}: other metrics", others, notes, main=False))
    return Printed(title=table.title, sections=tuple(sections), footnotes=tuple(notes), legend=_legend(table, sections))


def _section(
    table: ComparisonTable, title: str, columns: Sequence[Column], notes: dict[str, int], *, main: bool
) -> Section:
    rows = [row for row in table.rows if row.kind != "chance" or any(column in row.cells for column in columns)]
    return Section(
        title=title,
        headers=tuple(_header(column, main=main) for column in columns),
        rows=tuple((row, tuple(_cell(row, column, notes, main=main) for column in columns)) for row in rows),
    )


def _cell(row: Row, column: Column, notes: dict[str, int], *, main: bool) -> Shown:
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


def _shown(cell: Cell, column: Column, notes: dict[str, int], *, main: bool) -> Shown:
    if cell.value is None:
        assert cell.reason is not None, "a missing value has a reason"
        return Shown(value=MISSING, note=notes.setdefault(cell.reason, len(notes) + 1))
    interval = ""
    if main and column.control == MAIN and cell.low is not None and cell.high is not None:
        interval = f"[{number(cell.low, column.unit)}, {number(cell.high, column.unit)}]"
    value = number(cell.value, column.unit)
    if main and column.control == MAIN and cell.spread is not None and column.metric not in COSTS:
        value += f" ±{number(cell.spread, column.unit)}"
    return Shown(value=value, interval=interval, mark=cell.mark)


def _legend(table: ComparisonTable, sections: Sequence[Section]) -> tuple[str, ...]:
    cells = [cell for section in sections for _, row in section.rows for cell in row]
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
    if "best" in marks:
        lines.append("*: best, its interval overlaps no other")
    if "tied" in marks:
        lines.append("=: not separated from the best")
    if any(column.metric in COSTS for column in table.columns):
        lines.append("NFE: velocities that the solver asked for; network passes: how often the network ran for them")
    return (*lines, *table.notes)


def sign(mark: Mark) -> str:
    """Returns the sign that stands behind a marked value."""
    return {"best": "*", "tied": "=", "": ""}[mark]
