"""Understanding against generation against cost: the points of the charts of trade-offs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovbench.results.formats import layout
from ovbench.results.record import MAIN
from ovbench.results.report.charts import Axis, Point, scatter
from ovbench.results.table import Cell, Column, ComparisonTable, Row

MAX_CHARTS = 12
_PARAMETERS = "parameters"
_Who = tuple[str, str]  # encoder spec, number format


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """A drawing with its words."""

    title: str
    svg: str
    note: str
    legend: tuple[tuple[int, str], ...] = ()  # colour, name
    data: tuple[str, ...] = ()  # the points in words


@dataclass(frozen=True, kw_only=True, slots=True)
class _Score:
    """A headline of a table."""

    table: ComparisonTable
    column: Column

    @property
    def axis(self) -> Axis:
        unit = layout.shown_unit(self.column.unit)
        unit = "%" if unit == "percent" else unit
        better = {True: 1, False: -1, None: 0}[self.column.higher_is_better]
        return Axis(title=f"{self.column.task}: {self.column.metric}, {unit}", better=better)

    @property
    def kind(self) -> str:
        return self.table.suite


def tradeoffs(tables: Sequence[ComparisonTable], colours: Mapping[str, int]) -> tuple[list[Chart], str]:
    """Returns charts of understanding against pictures, and of each against parameters, and what was left out.

    Scores are set against each other only within one protocol; a table with a limit, a sweep, or settings that depart
    from the protocol stays out.

    Args:
        tables: All tables.
        colours: Label of a row → number of its colour.
    """
    whole = [table for table in tables if table.limit is None and not table.details and "," not in table.protocol]
    by_protocol: dict[tuple[str, int], list[_Score]] = {}
    for table in whole:
        found = by_protocol.setdefault((table.protocol, table.protocol_version), [])
        found += [
            _Score(table=table, column=column)
            for column in table.columns
            if column.control == MAIN and column.group is None and column.metric == table.headline(column.task)
        ]
    charts: list[Chart] = []
    for scores in by_protocol.values():
        asked = [score for score in scores if score.kind == "understanding"]
        drawn = [score for score in scores if score.kind != "understanding"]
        drawn.sort(key=lambda score: score.kind != "generation")
        pairs = [(one, two) for two in drawn for one in asked]
        charts += [chart for one, two in pairs if (chart := _pair(one, two, colours)) is not None]
        charts += [chart for score in (*asked, *drawn) if (chart := _cost(score, colours)) is not None]
    left = len(charts) - MAX_CHARTS
    return charts[:MAX_CHARTS], f"{left} more pairs of scores are not drawn" if left > 0 else ""


def _rows(table: ComparisonTable) -> dict[_Who, Row]:
    return {(row.encoder.spec, row.dtype or ""): row for row in table.rows if row.encoder is not None}


def _pair(one: _Score, two: _Score, colours: Mapping[str, int]) -> Chart | None:
    first, second = _rows(one.table), _rows(two.table)
    points: list[Point] = []
    for who, row in first.items():
        other = second.get(who)
        if other is None:
            continue
        a, b = row.cell(one.column), other.cell(two.column)
        if a.value is None or b.value is None:
            continue
        points.append(
            Point(
                label=row.label,
                x=layout.scale(a.value, one.column.unit),
                y=layout.scale(b.value, two.column.unit),
                x_ends=_ends(a, one.column),
                y_ends=_ends(b, two.column),
                about=f"{row.label}: {_words(a, one.column)}; {_words(b, two.column)}; {_size(row)}",
                radius=_radius(row),
                series=colours.get(row.label, 0),
                hollow=row.kind != "encoder",
            )
        )
    title = f"{two.column.task} against {one.column.task} · {one.table.protocol} v{one.table.protocol_version}"
    note = "the area of a point grows with the parameters; hollow: a control; the line joins those that nothing beats"
    return _chart(points, one.axis, two.axis, title, note)


def _cost(score: _Score, colours: Mapping[str, int]) -> Chart | None:
    points: list[Point] = []
    for row in _rows(score.table).values():
        cell = row.cell(score.column)
        if cell.value is None or row.encoder is None:
            continue
        points.append(
            Point(
                label=row.label,
                x=float(max(1, _parameters(row))),
                y=layout.scale(cell.value, score.column.unit),
                y_ends=_ends(cell, score.column),
                about=f"{row.label}: {_words(cell, score.column)}; {_size(row)}",
                series=colours.get(row.label, 0),
                hollow=row.kind != "encoder",
            )
        )
    title = f"{score.column.task} against {_PARAMETERS} · {score.table.protocol} v{score.table.protocol_version}"
    note = "parameters with those of a VAE in front; hollow: a control; the line joins those that nothing beats"
    return _chart(points, Axis(title=_PARAMETERS, log=True, better=-1), score.axis, title, note)


def _chart(points: Sequence[Point], x: Axis, y: Axis, title: str, note: str) -> Chart | None:
    if len(points) < 2:
        return None
    data = tuple(point.about for point in points)
    return Chart(title=title, svg=scatter(points, x, y, title=title), note=note, data=data)


def _ends(cell: Cell, column: Column) -> tuple[float, float] | None:
    if cell.low is None or cell.high is None:
        return None
    return layout.scale(cell.low, column.unit), layout.scale(cell.high, column.unit)


def _words(cell: Cell, column: Column) -> str:
    assert cell.value is not None, "only what has a value is drawn"
    return f"{column.task} {column.metric} {layout.number(cell.value, column.unit)}"


def _parameters(row: Row) -> int:
    assert row.encoder is not None, "chance is not drawn"
    return row.encoder.num_params + row.encoder.num_params_frontend


def _size(row: Row) -> str:
    return f"{_parameters(row):,} parameters"


def _radius(row: Row) -> float:
    """Returns 4 to 13, growing with the square root of the parameters: 1e5 to 1e9."""
    return min(13.0, max(4.0, 4.0 + 9.0 * (_parameters(row) / 1e9) ** 0.5))
