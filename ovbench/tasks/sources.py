"""Task → questions: checks a task's source, reads its rows, and takes a balanced part where a limit is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench.tasks.base import Sample, TaskData, TaskSpec
from ovbench.tasks.fields import Fields
from ovbench.tasks.local import COLUMNS, FILE_TYPES, load_local
from ovbench.tasks.prompts import render_prompt
from ovbench.tasks.rows import Row
from ovbench.tasks.world.questions import KINDS, POPE_SPLITS

_GENERATORS = {"seed": ("choice", KINDS, "per_kind"), "pope": ("yesno", POPE_SPLITS, "per_split")}
_WORLD_KEYS = ("type", "generator", "split", "seed", "num_scenes", "per_kind", "per_split")
_FILE_KEYS = ("type", "path", "images", "columns", "answer", "key", "sha256")


def parse_source(mapping: Mapping[str, Any], *, folder: Path, where: str) -> dict[str, Any]:
    """Returns a checked source with every default written out; reads no data.

    Args:
        mapping: The `source` of a task file; see docs/add-a-benchmark.md.
        folder: What relative paths are relative to.
        where: The file and key, for messages.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type, or a value cannot be used.
    """
    kind = Fields(mapping, dict.fromkeys([*_WORLD_KEYS, *_FILE_KEYS]), where).choice("type", ["world", *FILE_TYPES])
    if kind == "world":
        return _parse_world(mapping, where)
    entry = Fields(mapping, _FILE_KEYS, where)
    path = (folder / Path(entry.text("path")).expanduser()).absolute()
    columns = Fields(entry.mapping("columns"), COLUMNS, entry.place("columns"))
    named: dict[str, Any] = {key: columns.text(key) for key in ("image", "question", "answer")}
    named |= {key: columns.text(key) for key in ("id", "group") if key in columns}
    if "options" in columns:
        listed = isinstance(entry.mapping("columns")["options"], list)
        named["options"] = list(columns.texts("options")) if listed else columns.text("options")
    key = entry.choice("key", ("id", "row"), "id")
    if key == "id" and "id" not in named:
        raise ConfigError(
            "nothing tells the rows apart",
            where=entry.place("columns"),
            fix="name the column of ids (id: …), or write key: row in the source to count the rows",
        )
    return {
        "type": kind,
        "path": str(path),
        "images": str(
            (folder / Path(entry.text("images")).expanduser()).absolute() if "images" in entry else path.parent
        ),
        "columns": named,
        "answer": entry.choice("answer", ("letter", "index", "text")),
        "key": key,
        "sha256": entry.text("sha256", "").lower(),
    }


def _parse_world(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    generator = Fields(mapping, mapping, where).choice("generator", _GENERATORS)
    count = _GENERATORS[generator][2]
    entry = Fields(mapping, ("type", "generator", "split", "seed", "num_scenes", count), where)
    per_group = entry.integer(count, least=1)
    if generator == "pope" and per_group % 2:
        raise ConfigError(
            f"'{count}' must be even, got {per_group}", where=entry.place(count), fix="half of it are yes"
        )
    return {
        "type": "world",
        "generator": generator,
        "split": entry.choice("split", ("train", "test")),
        "seed": entry.integer("seed"),
        "num_scenes": entry.integer("num_scenes", least=1),
        count: per_group,
    }


def check_source(spec: TaskSpec) -> None:
    """Checks that a task's source fits its kind and groups.

    Raises:
        ConfigError: It does not.
    """
    where, source = f"task '{spec.name}', source", spec.source
    if source["type"] == "world":
        kind, groups, _ = _GENERATORS[source["generator"]]
        if kind != spec.kind:
            raise ConfigError(
                f"the generator '{source['generator']}' asks {kind} questions, the task is of kind {spec.kind}",
                where=where,
                fix=f"write kind: {kind}, or use another generator",
            )
        if spec.groups and set(spec.groups) != set(groups):
            raise ConfigError(
                f"the generator makes the groups {', '.join(groups)}",
                where=f"task '{spec.name}', groups",
                fix="list exactly these, or leave groups out",
            )
        return
    has_options = "options" in source["columns"]
    if spec.kind == "choice" and not has_options:
        raise ConfigError(
            "a task of kind choice needs its options",
            where=f"{where}, columns",
            fix="add options: the column that holds the list, or a list of columns, e.g. [A, B, C, D]",
        )
    if spec.kind == "yesno" and (has_options or source["answer"] != "text"):
        raise ConfigError(
            "a task of kind yesno has no options, and its answers are the words yes and no",
            where=where,
            fix="leave columns.options out and write answer: text",
        )


def check_limit(limit: int | None, *, where: str = "--limit") -> None:
    """Checks a number of questions.

    Raises:
        ConfigError: It is zero or negative.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"{where} must be 1 or more, got {limit}", where=where, fix="leave it out to ask everything")


def load_data(spec: TaskSpec, *, limit: int | None = None, where: str = "--limit") -> TaskData:
    """Returns the questions of a task; pictures are opened or drawn only when asked for.

    Args:
        spec: The task.
        limit: At most this many questions, spread evenly over the groups; None: all.
        where: The flag that held the limit, for messages.

    Raises:
        ConfigError: The limit is below 1, or the source does not fit the task.
        DataError: A file, column, row or picture is missing or damaged.
    """
    check_limit(limit, where=where)
    check_source(spec)
    if spec.source["type"] == "world":
        from ovbench.tasks.world.source import load_world

        loaded = load_world(spec.source)
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
        prompt=render_prompt(spec.prompt, row.question, row.options),
        question=row.question,
        options=row.options,
        answer=row.answer,
        group=row.group,
        answers=row.answers,
        extra=row.extra,
    )
