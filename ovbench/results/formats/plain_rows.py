"""Rows that are no comparison table, as CSV and as Markdown: one line a row, columns as the first row has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ovbench.results.formats.to_markdown import escaped, table_line


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows of equal keys as CSV with a header; None is an empty field. Without a row there is no header."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, _columns(rows), lineterminator="\n")
    if rows:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Returns rows of equal keys as a GitHub Markdown table without markup in its cells; nothing without rows."""
    if not rows:
        return ""
    lines = [table_line([escaped(name) for name in _columns(rows)]), table_line(["---"] * len(rows[0]))]
    lines += [table_line([_cell(value) for value in row.values()]) for row in rows]
    return "\n".join(lines) + "\n"


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(rows[0]) if rows else []


def _cell(value: Any) -> str:
    return "" if value is None else escaped(" ".join(str(value).split()))
