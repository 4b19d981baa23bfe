"""Tables as JSON for machines: scores as they are stored, fractions at full precision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovbench._base import files
from ovbench.results.formats.to_rows import to_rows
from ovbench.results.formats.to_wide import to_wide
from ovbench.results.printed import Sheet
from ovbench.results.table import ComparisonTable


def render(tables: Sequence[ComparisonTable | Sheet], *, wide: bool = False) -> str:
    """Returns `{"format": 1, "tables": [{"title", "notes", "rows"}]}`; the rows' keys are those of the CSV.

    Args:
        tables: What is written.
        wide: A row per encoder of the one table, in place of a row per score.
    """

    def rows_of(table: ComparisonTable | Sheet) -> list[dict[str, Any]]:
        return to_wide(tables, percent=False)[1] if wide else to_rows([table])

    document = {
        "format": 1,
        "tables": [{"title": table.title, "notes": list(table.notes), "rows": rows_of(table)} for table in tables],
    }
    return files.to_json(document)
