"""Tables as JSON: everything a table holds, at full precision."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench._base.files import to_json
from ovbench.results.codec import encode
from ovbench.results.table import ComparisonTable

FORMAT_VERSION = 1


def render(tables: Sequence[ComparisonTable]) -> str:
    """Returns a JSON document with `format_version` and `tables`; the cells of a row follow the table's columns."""
    return to_json({"format_version": FORMAT_VERSION, "tables": [encode(table) for table in tables]})
