"""Tables for a terminal; plain text when piped."""

from __future__ import annotations

import io
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ovbench.results.formats.layout import MISSING, Grid, TextCell, grids
from ovbench.results.table import ComparisonTable

if TYPE_CHECKING:
    from rich.console import Console

_MARKS = {"": "", "best": " *", "tied": " ="}
_WIDE = 200  # columns when the output is no terminal: nothing is folded


def render(
    tables: Sequence[ComparisonTable], *, width: int | None = None, color: bool = False, detail: bool = False
) -> str:
    """Returns the tables as text: `*` marks the best of a column, `=` those that cannot be told apart from it.

    Args:
        tables: From `leaderboard`.
        width: Columns of the terminal; None: as the terminal says, wide when there is none.
        color: Emit terminal codes.
        detail: Add each task's main score by dimension or split.
    """
    stream = io.StringIO()
    console = _console(stream, width, color)
    for grid in grids(tables, detail=detail):
        _print(console, grid)
    return _tidy(stream)


def render_rows(rows: Sequence[Mapping[str, Any]], *, width: int | None = None, color: bool = False) -> str:
    """Returns plain rows as one table; the columns are the keys in order of first appearance.

    Args:
        rows: Mappings of scalars; None prints as a dash.
        width: As for `render`.
        color: Emit terminal codes.
    """
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return "nothing to show"
    stream = io.StringIO()
    console = _console(stream, width, color)
    table = Table(box=None, pad_edge=False, header_style="bold")
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in names:
        table.add_column(Text(name), overflow="fold")
    for row in rows:
        table.add_row(*(Text(_plain(row.get(name))) for name in names))
    console.print(table)
    return _tidy(stream)


def _console(stream: io.StringIO, width: int | None, color: bool) -> Console:
    from rich.console import Console

    columns = width if width is not None else shutil.get_terminal_size((_WIDE, 24)).columns
    return Console(
        file=stream,
        width=columns,
        force_terminal=color,
        color_system="standard" if color else None,
        highlight=False,
        emoji=False,
        markup=False,
        legacy_windows=False,
    )


def _tidy(stream: io.StringIO) -> str:
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip("\n").split("\n"))


def _plain(value: Any) -> str:
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _print(console: Console, grid: Grid) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(grid.title, style="bold"), title_justify="left")
    for index, lines in enumerate(grid.headers):
        table.add_column(Text("\n".join(lines)), justify="left" if index == 0 else "right")
    first_control = next((index for index, row in enumerate(grid.rows) if row.kind != "encoder"), None)
    for index, row in enumerate(grid.rows):
        if index == first_control and index > 0:
            table.add_section()
        table.add_row(Text(row.label), *(_cell(cell) for cell in row.cells))
    console.print(table)
    marks = {cell.mark for row in grid.rows for cell in row.cells}
    for note in grid.notes:
        sign = {"best": "* ", "tied": "= "}.get(note.partition(":")[0], "") if marks - {""} else ""
        console.print(Text(f"{sign}{note}", style="dim"))
    console.print()


def _cell(cell: TextCell) -> Any:
    from rich.text import Text

    return Text(cell.text + _MARKS[cell.mark], style="bold" if cell.mark == "best" else "")
