r"""Tables as LaTeX with booktabs: \usepackage{booktabs} is all that the document needs."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.formats.layout import Printed, Section, Shown, label, lay_out, seeds, sign
from ovbench.results.table import ComparisonTable

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "—": "---", "–": "--", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "·": r"$\cdot$", "×": r"$\times$",
    "…": r"\ldots{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Returns text in which no character has a meaning to LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def render(tables: Sequence[ComparisonTable]) -> str:
    """Returns one `table` environment per comparison table; the best values are bold."""
    return "\n".join(_float(lay_out(table)) for table in tables)


def _float(printed: Printed) -> str:
    lines = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{escape(printed.title)}}}"]
    for section in printed.sections:
        lines += [rf"\par\medskip {escape(section.title)}\par\smallskip"] if section.title else []
        lines += _grid(section, first=not section.title)
    notes = [f"({position}) {note}" for position, note in enumerate(printed.footnotes, start=1)]
    lines += [rf"\par\smallskip\footnotesize {escape('; '.join((*printed.legend, *notes)))}."]
    return "\n".join([*lines, r"\end{table}", ""])


def _grid(section: Section, *, first: bool) -> list[str]:
    count = len(section.headers) + first
    lines = [rf"\begin{{tabular}}{{l{'r' * count}}}", r"\toprule"]
    depth = max(len(header) for header in section.headers)
    for level in range(depth):
        words = ["encoder" if level == 0 else "", *(["seeds" if level == 0 else ""] if first else [])]
        words += [escape(header[level]) if level < len(header) else "" for header in section.headers]
        lines.append(_line(words))
    lines.append(r"\midrule")
    for row, cells in section.rows:
        lines.append(_line([escape(label(row)), *([seeds(row)] if first else []), *map(_cell, cells)]))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _line(fields: Sequence[str]) -> str:
    return f"{' & '.join(fields)} \\\\"


def _cell(shown: Shown) -> str:
    value = rf"\textbf{{{escape(shown.value)}}}" if shown.mark == "best" else escape(shown.value)
    note = rf"\,({shown.note})" if shown.note is not None else ""
    # Trap: a [ right after \\ would be its argument; here it always follows a value.
    interval = f" {escape(shown.interval)}" if shown.interval else ""
    return f"{value}{sign(shown.mark)}{note}{interval}"
