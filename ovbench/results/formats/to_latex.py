r"""Tables as LaTeX with booktabs: \usepackage{booktabs} is all that the document needs."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.formats.layout import Printed, Section, Shown, lay_out, sign
from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "—": "---", "–": "--", "±": r"$\pm$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "·": r"$\cdot$", "×": r"$\times$",
    "…": r"\ldots{}", "−": "$-$", "§": r"\S{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Returns text in which no character has a meaning to LaTeX."""
    return "".join(_SPECIAL.get(character, character) for character in text)


def render(tables: Sequence[ComparisonTable | Sheet]) -> str:
    """Returns one `table` environment per comparison table; the best values are bold."""
    return "\n".join(_float(lay_out(table)) for table in tables)


def _float(printed: Printed) -> str:
    lines = [r"\begin{table}", r"\centering", r"\small", rf"\caption{{{escape(printed.title)}}}"]
    for section in printed.sections:
        lines += [rf"\par\medskip {escape(section.title)}\par\smallskip"] if section.title else []
        lines += _grid(section)
    notes = [f"({position}) {note}" for position, note in enumerate(printed.footnotes, start=1)]
    lines += [rf"\par\smallskip\footnotesize {escape('; '.join((*printed.legend, *notes)))}."]
    return "\n".join([*lines, r"\end{table}", ""])


def _grid(section: Section) -> list[str]:
    sides = "l" * section.left + "r" * (len(section.headers) - section.left)
    lines = [rf"\begin{{tabular}}{{{sides}}}", r"\toprule"]
    depth = max(len(header) for header in section.headers)
    for level in range(depth):
        lines.append(_line([escape(header[level]) if level < len(header) else "" for header in section.headers]))
    lines.append(r"\midrule")
    for line in section.rows:
        lines += [r"\midrule"] if line.rule else []
        lines.append(_line([*map(_cell, line.cells)]))
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _line(fields: Sequence[str]) -> str:
    return f"{' & '.join(fields)} \\\\"


def _cell(shown: Shown) -> str:
    value = rf"\textbf{{{escape(shown.value)}}}" if shown.mark == "best" else escape(shown.value)
    note = rf"\,({shown.note})" if shown.note is not None else ""
    # Trap: a [ right after \\ would be its argument; here it always follows a value.
    interval = f" {escape(shown.interval)}" if shown.interval else ""
    return f"{value}{sign(shown.mark)}{note}{interval}"
