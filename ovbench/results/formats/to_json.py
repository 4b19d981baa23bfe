"""Tables as JSON for machines: scores as they are stored, fractions at full precision."""

from __future__ import annotations

from collections.abc import Sequence

from ovbench._base import files
from ovbench.results.formats.to_rows import to_rows
from ovbench.results.table import ComparisonTable


def render(tables: Sequence[ComparisonTable]) -> str:
    """Returns `{"format": 1, "tables": [{"title", "notes", "rows"}]}`; the rows' keys are those of the CSV."""
    document = {
        "format": 1,
        "tables": [{"title": table.title, "notes": list(table.notes), "rows": to_rows([table])} for table in tables],
    }
    return files.to_json(document)
