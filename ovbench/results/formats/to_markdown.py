"""Tables as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.formats.layout import Printed, Section, Shown, lay_out, sign
from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable


def render(tables: Sequence[ComparisonTable | Sheet]) -> str:
    """Returns one heading, its tables and notes per comparison table; the best values are bold."""
    return "\n".join(_document(lay_out(table)) for table in tables)


def escaped(text: str) -> str:
    """Returns text in which no character has a meaning to Markdown."""
    for character in "\\|*_`<[":
        text = text.replace(character, f"\\{character}")
    return text


def _document(printed: Printed) -> str:
    lines = [f"### {escaped(printed.title)}", ""]
    for section in printed.sections:
        lines += [f"**{escaped(section.title)}**", ""] if section.title else []
        lines += [*_grid(section), ""]
    notes = [f"({position}) {note}" for position, note in enumerate(printed.footnotes, start=1)]
    lines += [f"- {escaped(line)}" for line in (*printed.legend, *notes)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _grid(section: Section) -> list[str]:
    heads = ["<br>".join(escaped(line) for line in header) for header in section.headers]
    sides = ["---"] * section.left + ["---:"] * (len(heads) - section.left)
    return [table_line(heads), table_line(sides), *(table_line([*map(_cell, line.cells)]) for line in section.rows)]


def table_line(fields: Sequence[str]) -> str:
    """Returns one line of a table."""
    return f"| {' | '.join(fields)} |"


def _cell(shown: Shown) -> str:
    text = escaped(shown.value)
    value = f"**{text}**" if shown.mark == "best" else text
    note = f" ({shown.note})" if shown.note is not None else ""
    interval = f" {escaped(shown.interval)}" if shown.interval else ""
    return f"{value}{escaped(sign(shown.mark))}{note}{interval}"
