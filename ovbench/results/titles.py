"""Titles of tables: two tables that may not be compared never have the same one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ovbench.results.record import TaskRecord

if TYPE_CHECKING:
    from ovbench.results.table import ComparisonTable

_SHOWN_DIGITS = 8


def told_apart(tables: Sequence[ComparisonTable]) -> list[ComparisonTable]:
    """Returns the tables; those whose titles would be equal say in addition in what they differ."""
    same: dict[str, list[ComparisonTable]] = {}
    for table in tables:
        same.setdefault(table.title, []).append(table)

    def told(table: ComparisonTable) -> ComparisonTable:
        others = same[table.title]
        return table if len(others) == 1 else replace(table, details=(*table.details, *_differences(table, others)))

    return [told(table) for table in tables]


def _differences(table: ComparisonTable, others: Sequence[ComparisonTable]) -> list[str]:
    """Returns what a table has and not all the others have: counts, scorers, headlines, data, recipe."""
    parts: list[str] = []
    for task in table.tasks:
        same = [entry for other in others for entry in other.tasks if entry.name == task.name]
        found: list[str] = []
        if _differ(same, "n"):
            found.append(f"n={task.n}")
        if _differ(same, "scorer"):
            found.append(_own_words(task, same))
        if _differ(same, "headline"):
            found.append(task.headline)
        if _differ(same, "data_digest"):
            found.append(f"data {task.data_digest[:_SHOWN_DIGITS]}")
        if found:
            parts.append(f"{task.name}: {', '.join(found)}")
    if len({other.recipe for other in others}) > 1:
        parts.append(f"recipe {table.recipe[:_SHOWN_DIGITS]}")
    if len({tuple(task.name for task in other.tasks) for other in others}) > 1:
        parts.append(", ".join(task.name for task in table.tasks))
    return parts


def _differ(tasks: Sequence[TaskRecord], field: str) -> bool:
    return len({getattr(task, field) for task in tasks}) > 1


def _own_words(task: TaskRecord, same: Sequence[TaskRecord]) -> str:
    """Returns the parts of a scorer that not all have."""
    words = task.scorer.split(", ")
    common = set(words).intersection(*(other.scorer.split(", ") for other in same))
    return ", ".join(word for word in words if word not in common) or task.scorer
