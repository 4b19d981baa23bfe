"""Tables as GitHub Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.formats.layout import Printed, Section, Shown, label, lay_out, seeds, sign
from ovbench.results.table import ComparisonTable


def render(tables: Sequence[ComparisonTable]) -> str:
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
        lines += [*_grid(section, first=not section.title), ""]
    notes = [f"({position}) {note}" for position, note in enumerate(printed.footnotes, start=1)]
    lines += [f"- {escaped(line)}" for line in (*printed.legend, *notes)]
    return "\n".join(lines).rstrip("\n") + "\n"


def _grid(section: Section, *, first: bool) -> list[str]:
    heads = ["encoder", *(["seeds"] if first else [])]
    heads += ["<br>".join(escaped(line) for line in header) for header in section.headers]
    lines = [table_line(heads), table_line(["---", *["---:"] * (len(heads) - 1)])]
    for row, cells in section.rows:
        lines.append(table_line([escaped(label(row)), *([seeds(row)] if first else []), *map(_cell, cells)]))
    return lines


def table_line(fields: Sequence[str]) -> str:
    """Returns one line of a table."""
    return f"| {' | '.join(fields)} |"


def _cell(shown: Shown) -> str:
    value = f"**{shown.value}**" if shown.mark == "best" else shown.value
    note = f" ({shown.note})" if shown.note is not None else ""
    interval = f" {escaped(shown.interval)}" if shown.interval else ""
    return f"{value}{escaped(sign(shown.mark))}{note}{interval}"
