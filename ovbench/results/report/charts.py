"""Charts as inline SVG: points with intervals and a front, and lines. Colours are classes that the page's style sets.

Numbers are written with two decimals, so that equal input gives equal bytes. Every text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 640, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 24, 34, 52
NUM_COLOURS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Axis:
    """What runs along one side."""

    title: str
    log: bool = False
    better: int = 0  # 1: more is better, -1: less is better, 0: neither


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One encoder."""

    label: str
    x: float
    y: float
    about: str  # shown when it is pointed at
    x_ends: tuple[float, float] | None = None  # 95% interval
    y_ends: tuple[float, float] | None = None
    radius: float = 6.0
    series: int = 0
    hollow: bool = False  # a control


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One series over one axis."""

    label: str
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    ends: tuple[tuple[float, float] | None, ...] = ()  # 95% intervals; empty: none
    series: int = 0


def scatter(points: Sequence[Point], x: Axis, y: Axis, *, title: str) -> str:
    """Returns a chart of points; where both axes have a better side, the front of those that nothing beats is drawn."""
    frame = _Frame(
        x,
        y,
        [value for point in points for value in (point.x, *(point.x_ends or ()))],
        [value for point in points for value in (point.y, *(point.y_ends or ()))],
    )
    parts = frame.grid()
    edge = front(points, x.better, y.better)
    if len(edge) > 1:
        path = " ".join(f"{frame.x(point.x):.2f},{frame.y(point.y):.2f}" for point in edge)
        parts.append(f'<polyline class="front" points="{path}"/>')
    for point in points:
        across, down = frame.x(point.x), frame.y(point.y)
        colour = f"c{point.series % NUM_COLOURS}"
        parts.append(f'<g class="{colour}"><title>{escape(point.about)}</title>')
        if point.x_ends is not None:
            left, right = (frame.x(end) for end in point.x_ends)
            parts.append(f'<path class="whisker" d="M{left:.2f} {down:.2f}H{right:.2f}"/>')
        if point.y_ends is not None:
            low, high = (frame.y(end) for end in point.y_ends)
            parts.append(f'<path class="whisker" d="M{across:.2f} {low:.2f}V{high:.2f}"/>')
        style = "dot hollow" if point.hollow else "dot"
        parts.append(f'<circle class="{style}" cx="{across:.2f}" cy="{down:.2f}" r="{point.radius:.2f}"/>')
        anchor, shift = ("end", -1) if across > WIDTH * 0.7 else ("start", 1)
        place = across + shift * (point.radius + 5)
        where = f'x="{place:.2f}" y="{down - 6:.2f}" text-anchor="{anchor}"'
        parts.append(f'<text class="name" {where}>{escape(point.label)}</text></g>')
    return _svg(parts, title)


def front(points: Sequence[Point], x_better: int, y_better: int) -> list[Point]:
    """Returns the encoders, controls apart, that no other one beats in one axis without losing in the other, by x."""
    if not (x_better and y_better):
        return []
    own = [point for point in points if not point.hollow]

    def beaten(point: Point) -> bool:
        return any(
            x_better * other.x >= x_better * point.x
            and y_better * other.y >= y_better * point.y
            and (other.x, other.y) != (point.x, point.y)
            for other in own
        )

    return sorted((point for point in own if not beaten(point)), key=lambda point: (point.x, point.y, point.label))


def lines(series: Sequence[Line], x: Axis, y: Axis, *, title: str) -> str:
    """Returns a chart of lines with a legend below it."""
    ends = [end for line in series for pair in line.ends if pair is not None for end in pair]
    frame = _Frame(
        x, y, [value for line in series for value in line.xs], [*(v for line in series for v in line.ys), *ends]
    )
    parts = frame.grid()
    for line in series:
        parts.append(f'<g class="c{line.series % NUM_COLOURS}"><title>{escape(line.label)}</title>')
        for across, pair in zip(line.xs, line.ends, strict=False):
            if pair is not None:
                low, high = (frame.y(end) for end in pair)
                parts.append(f'<path class="whisker" d="M{frame.x(across):.2f} {low:.2f}V{high:.2f}"/>')
        path = " ".join(f"{frame.x(a):.2f},{frame.y(b):.2f}" for a, b in zip(line.xs, line.ys, strict=True))
        dash = " dashed" if line.series >= NUM_COLOURS else ""
        parts.append(f'<polyline class="line{dash}" points="{path}"/>')
        if len(line.xs) <= 24:
            parts += [
                f'<circle class="dot" cx="{frame.x(a):.2f}" cy="{frame.y(b):.2f}" r="3"/>'
                for a, b in zip(line.xs, line.ys, strict=True)
            ]
        parts.append("</g>")
    return _svg(parts, title)


def _svg(parts: Sequence[str], title: str) -> str:
    label = escape(title, quote=True)
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


class _Frame:
    """Maps values to places and draws axes."""

    def __init__(self, x: Axis, y: Axis, xs: Sequence[float], ys: Sequence[float]) -> None:
        self._x, self._y = x, y
        self._xs, self._ys = _span(xs, x.log), _span(ys, y.log)

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * _part(value, self._xs, self._x.log)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * _part(value, self._ys, self._y.log)

    def grid(self) -> list[str]:
        parts: list[str] = []
        bottom, right = HEIGHT - _BOTTOM, WIDTH - _RIGHT
        for tick in ticks(self._xs, self._x.log):
            place = self.x(tick)
            parts.append(f'<path class="grid" d="M{place:.2f} {_TOP}V{bottom}"/>')
            parts.append(f'<text x="{place:.2f}" y="{bottom + 18}" text-anchor="middle">{short(tick)}</text>')
        for tick in ticks(self._ys, self._y.log):
            place = self.y(tick)
            parts.append(f'<path class="grid" d="M{_LEFT} {place:.2f}H{right}"/>')
            parts.append(f'<text x="{_LEFT - 8}" y="{place + 4:.2f}" text-anchor="end">{short(tick)}</text>')
        parts.append(f'<path class="axis" d="M{_LEFT} {_TOP}V{bottom}H{right}"/>')
        middle = (_LEFT + right) / 2
        parts.append(
            f'<text x="{middle:.2f}" y="{HEIGHT - 10}" text-anchor="middle">{escape(_named(self._x))} →</text>'
        )
        parts.append(f'<text x="8" y="{_TOP - 14}">↑ {escape(_named(self._y))}</text>')
        return parts


def _named(axis: Axis) -> str:
    return axis.title + {1: " (more is better)", -1: " (less is better)", 0: ""}[axis.better]


def _span(values: Sequence[float], log: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if log:
        return (low / 1.5, high * 1.5)
    room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
    return low - room, high + room


def _part(value: float, span: tuple[float, float], log: bool) -> float:
    low, high = (math.log(end) for end in span) if log else span
    return ((math.log(value) if log else value) - low) / (high - low)


def ticks(span: tuple[float, float], log: bool) -> list[float]:
    """Returns round numbers inside a span: about five, or 1, 2 and 5 times powers of ten on a logarithmic axis."""
    low, high = span
    if log:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        found = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
        inside = [tick for tick in found if low <= tick <= high]
        return inside if len(inside) <= 7 else [tick for tick in inside if math.log10(tick).is_integer()]
    raw = (high - low) / 5
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw)
    return [round(place * step, 10) for place in range(math.ceil(low / step), math.floor(high / step) + 1)]


def short(value: float) -> str:
    """Returns a tick's number: k, M and G for thousands, millions and thousands of millions."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"
