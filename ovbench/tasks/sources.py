"""Task → questions: reads the rows of a task's source, and takes a balanced part where a limit is given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench.tasks.base import Sample, TaskData, TaskSpec
from ovbench.tasks.local import load_local
from ovbench.tasks.prompts import render_prompt
from ovbench.tasks.rows import Row
from ovbench.tasks.source_form import check_source


def check_limit(limit: int | None, *, where: str = "--limit") -> None:
    """Checks a number of questions.

    Raises:
        ConfigError: It is zero or negative.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"{where} must be 1 or more, got {limit}", where=where, fix="leave it out to ask everything")


def load_data(
    spec: TaskSpec,
    *,
    limit: int | None = None,
    where: str = "--limit",
    data_dir: Path | None = None,
    only_there: bool = False,
) -> TaskData:
    """Returns the questions of a task; pictures are opened or drawn only when asked for.

    Args:
        spec: The task.
        limit: At most this many questions, spread evenly over the groups; None: all.
        where: The flag that held the limit, for messages.
        data_dir: Folder of published tables, looked at before `$OVBENCH_DATA` (or what `ovbench data mount`
            remembers) and the hub's cache.
        only_there: Look nowhere else.

    Raises:
        ConfigError: The limit is below 1, or the source does not fit the task.
        DataError: A file, column, row or picture is missing or damaged.
    """
    check_limit(limit, where=where)
    check_source(spec)
    if spec.source["type"] == "world":
        from ovbench.tasks.world.source import load_world

        loaded = load_world(spec.source)
    elif spec.source["type"] == "tables":
        from ovbench.tasks.tables.load import load_tables

        loaded = load_tables(spec, data_dir=data_dir, only_there=only_there)
    else:
        loaded = load_local(spec)
    rows = balanced_subset(loaded.rows, limit, _group_order(spec, loaded.rows))
    samples = tuple(_sample(spec, row) for row in rows)
    images_digest = loaded.digest_images(tuple(dict.fromkeys(row.image_id for row in rows)))
    content = {"samples": [stated(sample) for sample in samples], "images": images_digest, "source": loaded.digest}
    return TaskData(
        spec=spec,
        samples=samples,
        digest=fingerprint(content),
        images_digest=images_digest,
        image=loaded.image,
        num_total=len(loaded.rows),
        provenance=loaded.provenance,
    )


def _group_order(spec: TaskSpec, rows: Sequence[Row]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(row.group for row in rows))
    if spec.groups and (foreign := [group for group in found if group not in spec.groups]):
        raise DataError(
            f"the data hold the group '{foreign[0]}', which the task does not list",
            where=f"task '{spec.name}', groups",
            fix=f"add it to groups, or correct the data; listed: {', '.join(spec.groups)}",
        )
    return spec.groups or found


class _Grouped(Protocol):
    @property
    def group(self) -> str: ...


T = TypeVar("T", bound=_Grouped)


def balanced_subset(rows: Sequence[T], limit: int | None, groups: Sequence[str]) -> list[T]:
    """Returns the first rows of each group in turn until there are `limit`; the order of the rows is kept.

    Args:
        rows: Rows or samples, anything with a group.
        limit: How many; None: all.
        groups: All groups, in the order in which they take turns.
    """
    if limit is None or limit >= len(rows):
        return list(rows)
    rank = {group: place for place, group in enumerate(groups)}
    seen = dict.fromkeys(groups, 0)
    turns: list[tuple[int, int, int]] = []  # (round, group, position)
    for position, row in enumerate(rows):
        turns.append((seen[row.group], rank[row.group], position))
        seen[row.group] += 1
    return [rows[position] for position in sorted(position for _, _, position in sorted(turns)[:limit])]


def stated(sample: Sample) -> dict[str, Any]:
    """Returns a sample without the fields that its kind leaves empty, so that a new field changes no old digest."""
    return {name: value for name, value in asdict(sample).items() if value or name not in ("answers", "extra")}


def _sample(spec: TaskSpec, row: Row) -> Sample:
    return Sample(
        item_id=row.item_id,
        image_id=row.image_id,
        prompt=render_prompt(spec.prompt, row.question, row.options, row.extra),
        question=row.question,
        options=row.options,
        answer=row.answer,
        group=row.group,
        answers=row.answers,
        extra=row.extra,
    )
