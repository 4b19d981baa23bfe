"""Tables for a terminal, drawn by rich."""

from __future__ import annotations

import io
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ovbench.results.formats.layout import Printed, Section, Shown, lay_out, sign
from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

MIN_WIDTH = 40


def render(tables: Sequence[ComparisonTable | Sheet], *, width: int | None = None, color: bool | None = None) -> str:
    """Returns the tables as text without a final newline.

    Args:
        tables: What `leaderboard` gives.
        width: Columns for prose; None: those of the terminal. Tables take the width they need, whatever it is.
        color: Whether to use colour; None: only on a terminal.
    """
    parts: list[RenderableType] = []
    for table in tables:
        parts += _parts(lay_out(table))
    return _draw(parts, width=width, color=color, whole=True)


def render_rows(rows: Sequence[Mapping[str, Any]], *, width: int | None = None, color: bool | None = None) -> str:
    """Returns plain rows as a table, one column per key of the first row; `nothing to list` where there is none."""
    from rich.table import Table
    from rich.text import Text

    if not rows:
        return "nothing to list"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in rows[0]:
        table.add_column(str(name), overflow="fold")
    for row in rows:
        table.add_row(*[Text(_plain(row[name])) for name in rows[0]])
    return _draw([table], width=width, color=color)


def _plain(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "\n".join(_line(str(key), item) for key, item in value.items())
    if isinstance(value, list | tuple):
        if any(isinstance(item, dict) for item in value):
            return "\n".join(_entry(item) for item in value)
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _line(key: str, value: Any) -> str:
    """Returns `key: value`; what is nested stands below, indented."""
    text = _plain(value)
    return f"{key}:\n{textwrap.indent(text, '  ')}" if "\n" in text else f"{key}: {text}"


def _entry(item: Any) -> str:
    """Returns one entry of a list on a line: its name, and then what else it holds and is not empty."""
    if not isinstance(item, dict):
        return _plain(item)
    fields = {key: value for key, value in item.items() if value not in (None, "", [], ())}
    head = [str(fields.pop(key)) for key in ("name", "role") if key in fields]
    if not item.get("name") or "value" not in fields:
        words = [f"{key} {_plain(value)}" for key, value in fields.items()]
    else:  # a figure: what it is comes first
        value = fields.pop("value")
        unit = f" {fields.pop('unit')}" if "unit" in fields else ""
        words = [f"{_plain(value)}{unit}", *(f"{key} {_plain(other)}" for key, other in fields.items())]
    return f"{' '.join(head)}: {', '.join(words)}" if head else ", ".join(words)


def _parts(printed: Printed) -> list[RenderableType]:
    from rich.text import Text

    parts: list[RenderableType] = [Text(printed.title, style="bold")]
    for section in printed.sections:
        parts += [Text(section.title, style="bold"), _grid(section)]
    notes = [f"[{position}] {note}" for position, note in enumerate(printed.footnotes, start=1)]
    parts += [Text(line, style="dim") for line in (*printed.legend, *notes)]
    return [*parts, Text("")]


def _grid(section: Section) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="bold")
    for position, header in enumerate(section.headers):
        justify = "left" if position < section.left else "right"
        grid.add_column(Text("\n".join(header)), justify=justify, no_wrap=True)
    for line in section.rows:
        if line.rule:
            grid.add_section()
        grid.add_row(*map(_cell, line.cells), style="dim" if line.muted else "")
    return grid


def _cell(shown: Shown) -> Text:
    from rich.text import Text

    note = f" [{shown.note}]" if shown.note is not None else ""
    text = Text(f"{shown.value}{sign(shown.mark)}{note}", style="bold" if shown.mark == "best" else "")
    return text.append(f" {shown.interval}", style="not bold dim") if shown.interval else text


def _draw(parts: Sequence[RenderableType], *, width: int | None, color: bool | None, whole: bool = False) -> str:
    """Draws the parts; `whole` keeps tables at their natural width, so that a narrow terminal never cuts a number."""
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table

    on_terminal = sys.stdout.isatty()
    wide = shutil.get_terminal_size().columns if on_terminal else 200
    stream = io.StringIO()
    colored = on_terminal if color is None else color

    def console_of(columns: int) -> Console:
        return Console(
            file=stream,
            width=columns,
            force_terminal=colored,
            color_system="standard" if colored else None,
            highlight=False,
            emoji=False,
            markup=False,
            legacy_windows=False,
        )

    console, endless = console_of(max(MIN_WIDTH, width or wide)), console_of(10_000)
    for part in parts:
        natural = Measurement.get(endless, endless.options, part).maximum
        fits = not whole or not isinstance(part, Table) or natural <= console.width
        (console if fits else console_of(natural)).print(part, soft_wrap=False)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()).strip("\n")
