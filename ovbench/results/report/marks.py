"""Small marks inside cells: an interval as a bar, a value as a shade."""

from __future__ import annotations

from dataclasses import dataclass

WIDTH = 96  # of a bar's drawing, in its own units
_EDGE = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class Bar:
    """Places from the left, in units of a drawing that is `WIDTH` wide."""

    start: str
    length: str
    point: str


def bar_of(value: float, low: float | None, high: float | None, ends: tuple[float, float]) -> Bar | None:
    """Returns where value and interval lie between the ends of the column; None without an interval."""
    if low is None or high is None:
        return None
    start, end, point = (_place(number, ends) for number in (low, high, value))
    return Bar(start=f"{start:.1f}", length=f"{max(1.0, end - start):.1f}", point=f"{point:.1f}")


def shade_of(value: float, ends: tuple[float, float]) -> int:
    """Returns 0 for the lowest end, 100 for the highest, 50 where both are one."""
    low, high = ends
    return 50 if high == low else round(100 * (value - low) / (high - low))


def _place(value: float, ends: tuple[float, float]) -> float:
    low, high = ends
    part = 0.5 if high == low else (value - low) / (high - low)
    return _EDGE + (WIDTH - 2 * _EDGE) * part
