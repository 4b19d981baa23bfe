"""Comparison tables as the page shows them: cells with intervals as bars, and every number as the CSV has it.

The shown text comes from the module that prints all tables, the values by which a column is sorted from the CSV
itself, so that page, console and CSV cannot differ.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ovbench.results.formats import layout, to_csv
from ovbench.results.record import MAIN
from ovbench.results.report.marks import Bar, bar_of, shade_of
from ovbench.results.table import COSTS, PICTURE_KINDS, Column, ComparisonTable, Row

_KINDS = {
    "control": "control",
    "untrained": "random weights",
    "published": "published",
    "chance": "by chance",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class CellView:
    """One cell."""

    text: str  # as all printed tables have it
    sign: str = ""  # best or tied
    mark: str = ""
    interval: str = ""
    value: str = ""  # as the CSV has it; empty: missing
    note: int | None = None  # number of the footnote that says why there is no value
    about: str = ""  # how the interval was made, seeds
    bar: Bar | None = None
    shade: int | None = None  # in maps: 0 to 100, the lowest to the highest value


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnView:
    """The head of a column."""

    lines: tuple[str, ...]
    about: str
    better: str  # ascending or descending: which order puts the better ones first


@dataclass(frozen=True, kw_only=True, slots=True)
class RowView:
    """One row: an encoder, a control or chance."""

    label: str
    kind: str
    badge: str
    seeds: str
    params: str  # millions; empty: not an encoder
    params_value: str
    tokens: str
    about: str
    cells: tuple[CellView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Grid:
    """One rectangle."""

    name: str  # an id on the page
    title: str
    columns: tuple[ColumnView, ...]
    rows: tuple[RowView, ...]
    is_map: bool = False  # cells are shaded by value


@dataclass(frozen=True, kw_only=True, slots=True)
class TableView:
    """One comparison table with everything in it."""

    name: str
    title: str
    badges: tuple[str, ...]
    tasks: tuple[str, ...]  # what was asked, in words
    main: Grid
    maps: tuple[Grid, ...]
    others: tuple[Grid, ...]
    footnotes: tuple[str, ...]
    legend: tuple[str, ...]


def table_views(tables: Sequence[ComparisonTable]) -> list[TableView]:
    """Returns the tables as the page shows them, in their order."""
    values = _csv_values(tables)
    return [_view(table, f"table-{place}", values) for place, table in enumerate(tables, 1)]


_Key = tuple[str, ...]


def _csv_values(tables: Sequence[ComparisonTable]) -> Mapping[_Key, str]:
    """Returns the CSV's value of each cell."""
    reader = csv.DictReader(io.StringIO(to_csv.render(tables)))
    names = ("table", "row", "task", "metric", "group", "control", "n", "scorer", "unit")
    return {tuple(line[name] for name in names): line["value"] for line in reader}


def _key(title: str, row: Row, column: Column) -> _Key:
    unit = layout.shown_unit(column.unit)
    about = (column.task, column.metric, column.group or "", column.control, str(column.n), column.scorer, unit)
    return (title, row.label, *about)


def badges_of(table: ComparisonTable) -> tuple[str, ...]:
    """Returns what a reader must know before any number of a table: mini, limited, untrained or published rows."""
    found: list[str] = []
    families = {task.family for task in table.tasks}
    if "mini" in families:
        found.append("mini: small made scenes, not comparable with published numbers")
    if "local" in families:
        found.append("a task of your own")
    if table.limit is not None:
        found.append(f"limited to {table.limit} questions per task")
    kinds = {row.kind for row in table.rows}
    if "untrained" in kinds:
        found.append("holds random weights: a trial of the pipeline, no result")
    if "published" in kinds:
        found.append("holds published numbers, not measured here")
    return tuple(found)


def _view(table: ComparisonTable, name: str, values: Mapping[_Key, str]) -> TableView:
    notes: dict[str, int] = {}
    title_of_table = table.title  # it is put together anew each time

    def grid(key: str, title: str, columns: Sequence[Column], *, main: bool = False, is_map: bool = False) -> Grid:
        shown = [row for row in table.rows if row.kind != "chance" or any(c in row.cells for c in columns)]
        ranges = [_map_range(shown, columns)] * len(columns) if is_map else [_range(shown, c) for c in columns]
        with_ranges = list(zip(columns, ranges, strict=True))
        lines = [
            _row(row, [_cell(title_of_table, row, c, values, notes, r, main, is_map) for c, r in with_ranges])
            for row in shown
        ]
        heads = tuple(_head(column, main=main) for column in columns)
        return Grid(name=f"{name}-{key}", title=title, columns=heads, rows=tuple(lines), is_map=is_map)

    main_columns = [c for c in table.columns if c.group is None and c.metric in (table.headline(c.task), *COSTS)]
    main = grid("main", "headline scores", main_columns, main=True)
    maps: list[Grid] = []
    others: list[Grid] = []
    for place, task in enumerate(table.tasks, 1):
        own = [c for c in table.columns if c.task == task.name and c.control == MAIN]
        groups = [c for c in own if c.group is not None and c.metric == task.headline]
        rest = [c for c in own if c.group is None and c.metric not in (task.headline, *COSTS)]
        if groups and task.kind in PICTURE_KINDS:  # moments of training, which the curves show
            others.append(grid(f"group-{place}", f"{task.name}: {task.headline} by moment", groups))
        elif groups:
            maps.append(grid(f"map-{place}", f"{task.name}: {task.headline} by group", groups, is_map=True))
        if rest:
            others.append(grid(f"other-{place}", f"{task.name}: other metrics", rest))
    asked = tuple(
        f"{task.name} v{task.version}: {task.title}; {task.n:,} of {task.num_total:,}; scorer {task.scorer}; "
        f"{task.citation}; {task.licence}"
        for task in table.tasks
    )
    return TableView(
        name=name,
        title=title_of_table,
        badges=badges_of(table),
        tasks=asked,
        main=main,
        maps=tuple(maps),
        others=tuple(others),
        footnotes=tuple(notes),
        legend=layout.lay_out(table).legend,
    )


def _head(column: Column, *, main: bool) -> ColumnView:
    unit = "%" if column.unit == "fraction" else column.unit
    sign = f" {column.direction}" if column.direction else ""
    if not main:
        lines = (column.group or column.metric, f"{unit}{sign}", f"n={column.n}")
    elif column.control == MAIN:
        lines = (column.task, f"{column.metric} {unit}{sign}", f"n={column.n}")
    else:
        lines = (column.task, column.control, unit)
    better = "ascending" if column.higher_is_better is False else "descending"
    return ColumnView(lines=lines, about=f"{column.task}: {column.metric}; {column.scorer}", better=better)


def _row(row: Row, cells: Sequence[CellView]) -> RowView:
    encoder = row.encoder
    params = encoder.num_params + encoder.num_params_frontend if encoder else 0
    about = ""
    if encoder:
        frontend = f" of which {encoder.num_params_frontend:,} in front" if encoder.num_params_frontend else ""
        size, grid = ("×".join(map(str, pair)) for pair in (encoder.resolution_px, encoder.grid))
        about = f"{encoder.title}; {encoder.objective}; {params:,} parameters{frontend}; input {size}, tokens {grid}"
    return RowView(
        label=row.label,
        kind=row.kind,
        badge=", ".join(
            word for word in (_KINDS.get(row.kind, ""), "native decoder" if row.decoder == "native" else "") if word
        ),
        seeds=layout.seeds(row),
        params=f"{params / 1e6:.1f} M" if encoder else "",
        params_value=str(params) if encoder else "",
        tokens=str(encoder.num_tokens) if encoder else "",
        about=about,
        cells=tuple(cells),
    )


def _range(rows: Sequence[Row], column: Column) -> tuple[float, float] | None:
    """Returns the lowest and highest end of a column; None: no value."""
    ends: list[float] = []
    for row in rows:
        cell = row.cell(column)
        ends += [end for end in (cell.value, cell.low, cell.high) if end is not None]
    return (min(ends), max(ends)) if ends else None


def _map_range(rows: Sequence[Row], columns: Sequence[Column]) -> tuple[float, float] | None:
    """Returns the lowest and highest value of a map, whose columns share a unit: one scale for all of it."""
    values = [value for row in rows for column in columns if (value := row.cell(column).value) is not None]
    return (min(values), max(values)) if values else None


def _cell(
    title: str,
    row: Row,
    column: Column,
    values: Mapping[_Key, str],
    notes: dict[str, int],
    ends: tuple[float, float] | None,
    main: bool,
    is_map: bool,
) -> CellView:
    if row.kind == "chance" and column not in row.cells and not main:
        return CellView(text="")
    cell = row.cell(column)
    if cell.value is None or ends is None:
        reason = cell.reason or "not known"
        return CellView(text=layout.MISSING, note=notes.setdefault(reason, len(notes) + 1), about=reason)
    number: Callable[[float], str] = lambda value: layout.number(value, column.unit)  # noqa: E731
    text, interval = number(cell.value), ""
    own = main and column.control == MAIN
    if cell.low is not None and cell.high is not None:
        interval = f"[{number(cell.low)}, {number(cell.high)}]"
    if own and cell.spread is not None and column.metric not in COSTS:
        text += f" ±{number(cell.spread)}"
    about = f"{text} {interval}; {cell.interval}" if interval else f"{text}; {cell.interval}"
    if len(cell.by_seed) > 1:
        about += "; by seed " + ", ".join(number(value) for value in cell.by_seed)
    return CellView(
        text=text,
        sign=layout.sign(cell.mark),
        mark=cell.mark,
        interval=interval if own else "",
        value=values[_key(title, row, column)],
        about=about,
        bar=bar_of(cell.value, cell.low, cell.high, ends) if own and cell.low is not None else None,
        shade=shade_of(cell.value, ends) if is_map else None,
    )
