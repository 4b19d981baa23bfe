"""A table as people see it, whatever it holds: sections of text cells, notes, and how a number looks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from ovbench.results.cells import Mark

MISSING = "—"
AS_PUBLISHED = "as published"  # unit of numbers that keep the scale and the decimals of their publication
_DECIMALS = {"fraction": 1, "points": 1, "count": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """A cell as text: number, interval and the sign of its mark are apart, so that a format can set them."""

    value: str
    interval: str = ""
    mark: Mark = ""
    note: int | None = None  # number of the footnote that says why there is no value
    key: float | None = None  # the number behind the text, by which a page sorts; None: it sorts as text


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One row of a printed table."""

    cells: tuple[Shown, ...]
    muted: bool = False  # a control or a level of chance, not a contestant
    rule: bool = False  # a rule stands above it: another group begins


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """One rectangle of a printed table."""

    title: str
    headers: tuple[tuple[str, ...], ...]  # lines of each column's header
    rows: tuple[Line, ...]
    left: int = 1  # columns of text at the left, set flush left


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """A whole table laid out for people."""

    title: str
    sections: tuple[Section, ...]
    footnotes: tuple[str, ...] = ()  # in the order of their numbers
    legend: tuple[str, ...] = ()


class Sheet(Protocol):
    """Any table beside a comparison table: published, joined, combined or foreign."""

    @property
    def title(self) -> str:
        """What stands above it; no two sheets have the same."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What stands below it."""
        ...

    def lay_out(self) -> Printed:
        """Returns it as people see it."""
        ...

    def long_rows(self) -> list[dict[str, Any]]:
        """Returns one mapping per value, keys among the columns of `formats/to_rows.py`."""
        ...


class Footnotes:
    """Numbers the reasons why values are missing, each once."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, reason: str) -> int:
        """Returns the number of a reason."""
        return self._numbers.setdefault(reason, len(self._numbers) + 1)

    def missing(self, reason: str) -> Shown:
        """Returns the cell of a value that is missing."""
        return Shown(value=MISSING, note=self.number(reason))

    @property
    def lines(self) -> tuple[str, ...]:
        """The reasons in the order of their numbers."""
        return tuple(self._numbers)


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
