"""Tables as one static page: no network and no library; a click on a head sorts, and without scripts it still reads."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ovbench.results.formats.layout import Line, Printed, Section, Shown, lay_out, sign
from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --soft: #8882; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem; }
section { margin-bottom: 3rem; overflow-x: auto; }
h2 { font-size: 1.1rem; } h3 { font-size: 1rem; margin: 1.2rem 0 .4rem; }
table { border-collapse: collapse; border-top: 2px solid; border-bottom: 2px solid; }
th, td { padding: .25rem .7rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; vertical-align: bottom; }
th.text, td.text { text-align: left; }
thead th { border-bottom: 1px solid; }
th button { all: unset; cursor: pointer; } th button:focus-visible { outline: 2px solid; }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tr.rule td { border-top: 1px solid var(--line); } tr.muted { opacity: .65; } tbody tr:hover { background: var(--soft); }
.interval { opacity: .7; font-size: .85em; } ol, ul { max-width: 75ch; font-size: .9em; }
"""
# Rows without a number stay below in both directions; a second click turns the order round.
_SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, at) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
    const first = head.classList.contains("text") && !head.hasAttribute("aria-sort") ? 1 : down;
    heads.forEach(other => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", first > 0 ? "ascending" : "descending");
    const body = table.tBodies[0];
    const key = row => row.cells[at].dataset.key;
    const rows = [...body.rows].sort((a, b) => {
      const x = key(a), y = key(b);
      if (x === undefined && y === undefined)
        return first * row_text(a, at).localeCompare(row_text(b, at)) * (head.classList.contains("text") ? 1 : 0);
      if (x === undefined) return 1;
      if (y === undefined) return -1;
      return first * (Number(x) - Number(y));
    });
    rows.forEach(row => { row.classList.remove("rule"); body.append(row); });
  }));
}
function row_text(row, at) { return row.cells[at].textContent; }
"""


def render(tables: Sequence[ComparisonTable | Sheet]) -> str:
    """Returns a whole page."""
    title = "ovbench: comparison of vision encoders"
    body = "\n".join(_table(lay_out(table)) for table in tables)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{title}</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n{body}\n<script>{_SCRIPT}</script>\n"
        "</body>\n</html>\n"
    )


def _table(printed: Printed) -> str:
    lines = ["<section>", f"<h2>{escape(printed.title)}</h2>"]
    for section in printed.sections:
        lines += [f"<h3>{escape(section.title)}</h3>"] if section.title else []
        lines += _grid(section)
    if printed.footnotes:
        lines += ["<ol>", *(f"<li>{escape(note)}</li>" for note in printed.footnotes), "</ol>"]
    if printed.legend:
        lines += ["<ul>", *(f"<li>{escape(line)}</li>" for line in printed.legend), "</ul>"]
    return "\n".join([*lines, "</section>"])


def _grid(section: Section) -> list[str]:
    heads = []
    for position, header in enumerate(section.headers):
        words = "<br>".join(escape(line) for line in header)
        heads.append(f'<th scope="col"{_side(position, section)}><button type="button">{words}</button></th>')
    rows = [_row(line, section) for line in section.rows]
    return ["<table>", f"<thead><tr>{''.join(heads)}</tr></thead>", "<tbody>", *rows, "</tbody>", "</table>"]


def _side(position: int, section: Section) -> str:
    return ' class="text"' if position < section.left else ""


def _row(line: Line, section: Section) -> str:
    kinds = " ".join(name for name, holds in (("rule", line.rule), ("muted", line.muted)) if holds)
    cells = "".join(_cell(shown, _side(position, section)) for position, shown in enumerate(line.cells))
    return f"<tr{f' class={chr(34)}{kinds}{chr(34)}' if kinds else ''}>{cells}</tr>"


def _cell(shown: Shown, side: str) -> str:
    key = f' data-key="{shown.key!r}"' if shown.key is not None else ""
    value = f"<strong>{escape(shown.value)}</strong>" if shown.mark == "best" else escape(shown.value)
    note = f"<sup>({shown.note})</sup>" if shown.note is not None else ""
    interval = f' <span class="interval">{escape(shown.interval)}</span>' if shown.interval else ""
    return f"<td{side}{key}>{value}{sign(shown.mark)}{note}{interval}</td>"
