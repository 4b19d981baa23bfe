"""Tables in LaTeX for the booktabs package: the best of a column in bold, ties underlined."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench.results.formats.layout import Grid, TextCell, grids
from ovbench.results.table import ComparisonTable

_MARKS = {"": "{}", "best": r"\textbf{{{}}}", "tied": r"\underline{{{}}}"}
_LEGEND = {"best": r"\textbf{bold}: ", "tied": r"\underline{underlined}: "}
_ESCAPED = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "$": r"\$",
        "#": r"\#",
        "_": r"\_",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "—": "---",
        "±": r"$\pm$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "·": r"$\cdot$",
        "<": r"$<$",
        ">": r"$>$",
        # Trap: a bracket at the start of a line of cells would be read as an option of the \\ before it.
        "[": "{[}",
        "]": "{]}",
    }
)


def render(tables: Sequence[ComparisonTable], *, detail: bool = False) -> str:
    r"""Returns one `table` environment per table; the document needs `\usepackage{booktabs}`.

    Args:
        tables: From `leaderboard`.
        detail: Add each task's main score by dimension or split.
    """
    return "\n".join(_grid(grid) for grid in grids(tables, detail=detail))


def escape(text: str) -> str:
    """Returns text that LaTeX prints as it is."""
    return text.translate(_ESCAPED)


def _grid(grid: Grid) -> str:
    depth = max(len(lines) for lines in grid.headers)
    heads = [[escape(lines[index]) if index < len(lines) else "" for lines in grid.headers] for index in range(depth)]
    first_control = next((index for index, row in enumerate(grid.rows) if row.kind != "encoder"), None)
    body: list[str] = []
    for index, row in enumerate(grid.rows):
        if index == first_control and index > 0:
            body.append(r"\midrule")
        body.append(_line([escape(row.label), *(_cell(cell) for cell in row.cells)]))
    notes = [f"{_note(note)}\\par" for note in grid.notes]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{escape(grid.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.headers) - 1)}}}",
            r"\toprule",
            *(_line(line) for line in heads),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *([r"\par\smallskip\footnotesize", *notes] if notes else []),
            r"\end{table}",
            "",
        ]
    )


def _note(note: str) -> str:
    word, colon, rest = note.partition(": ")
    return f"{_LEGEND[word]}{escape(rest)}" if colon and word in _LEGEND else escape(note)


def _line(cells: Sequence[str]) -> str:
    return f"{' & '.join(cells)} \\\\"


def _cell(cell: TextCell) -> str:
    return _MARKS[cell.mark].format(escape(cell.text))
