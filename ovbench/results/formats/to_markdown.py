"""Tables in GitHub's Markdown: the best of a column in bold, ties in italics."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.formats.layout import Grid, TextCell, grids
from ovbench.results.table import ComparisonTable

_MARKS = {"": "{}", "best": "**{}**", "tied": "*{}*"}
_LEGEND = {"best": "**bold**: ", "tied": "*italic*: "}
_ESCAPED = str.maketrans({"|": "\\|", "*": "\\*", "_": "\\_", "<": "&lt;", "\\": "\\\\", "\n": " "})


def render(tables: Sequence[ComparisonTable], *, detail: bool = False) -> str:
    """Returns the tables, each under its own heading.

    Args:
        tables: From `leaderboard`.
        detail: Add each task's main score by dimension or split.
    """
    return "\n\n".join(_grid(grid) for grid in grids(tables, detail=detail)) + "\n"


def _escape(text: str) -> str:
    return text.translate(_ESCAPED)


def _grid(grid: Grid) -> str:
    heads = [_escape(" ".join(lines)) for lines in grid.headers]
    rules = [":---", *(["---:"] * (len(heads) - 1))]
    lines = [f"### {_escape(grid.title)}", "", _line(heads), _line(rules)]
    lines += [_line([_escape(row.label), *(_cell(cell) for cell in row.cells)]) for row in grid.rows]
    notes = [f"- {_note(note)}" for note in grid.notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])])


def _note(note: str) -> str:
    word, colon, rest = note.partition(": ")
    return f"{_LEGEND[word]}{_escape(rest)}" if colon and word in _LEGEND else _escape(note)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: TextCell) -> str:
    return _MARKS[cell.mark].format(_escape(cell.text))
