"""The `source` of a task file: checked, with every default written out; reads no data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.fields import Fields
from ovbench.tasks.local import FILE_TYPES
from ovbench.tasks.prompts import FIELDS
from ovbench.tasks.row_reader import ANSWER_FORMS, COLUMNS, KEYS
from ovbench.tasks.world.questions import KINDS, POPE_SPLITS

GENERATORS = {"seed": ("choice", KINDS, "per_kind"), "pope": ("yesno", POPE_SPLITS, "per_split")}
_WORLD_KEYS = ("type", "generator", "split", "seed", "num_scenes", "per_kind", "per_split")
_ROW_KEYS = ("columns", "answer", "key", "extra", "question", "group_names", "blank")
_FILE_KEYS = ("type", "path", "images", "sha256", *_ROW_KEYS)
_TABLE_KEYS = ("type", "repos", "revision", "folder", "layouts", "where", "num_rows", "not_rows", *_ROW_KEYS)
_ALL_FORMS = tuple(form for forms in ANSWER_FORMS.values() for form in forms)


def parse_source(mapping: Mapping[str, Any], *, folder: Path, where: str) -> dict[str, Any]:
    """Returns a checked source with every default written out; reads no data.

    Args:
        mapping: The `source` of a task file; see docs/add-a-benchmark.md and docs/benchmarks.md.
        folder: What relative paths are relative to.
        where: The file and key, for messages.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type, or a value cannot be used.
    """
    known = dict.fromkeys([*_WORLD_KEYS, *_FILE_KEYS, *_TABLE_KEYS])
    kind = Fields(mapping, known, where).choice("type", ["world", "tables", *FILE_TYPES])
    if kind == "world":
        return _parse_world(mapping, where)
    if kind == "tables":
        return _parse_tables(mapping, where)
    entry = Fields(mapping, _FILE_KEYS, where)
    path = (folder / Path(entry.text("path")).expanduser()).absolute()
    return {
        "type": kind,
        "path": str(path),
        "images": str(
            (folder / Path(entry.text("images")).expanduser()).absolute() if "images" in entry else path.parent
        ),
        "columns": _columns(entry, _key(entry)),
        "sha256": entry.text("sha256", "").lower(),
        **_rows(entry),
    }


def _rows(entry: Fields) -> dict[str, Any]:
    """Returns how rows are read; what was not given is left out, so that a new key changes no old identity."""
    found: dict[str, Any] = {"answer": entry.choice("answer", dict.fromkeys(_ALL_FORMS)), "key": _key(entry)}
    if "extra" in entry:
        found["extra"] = list(entry.texts("extra"))
        if taken := [name for name in found["extra"] if name in FIELDS]:
            raise ConfigError(
                f"'{taken[0]}' is a placeholder of every prompt",
                where=entry.place("extra"),
                fix="a further column needs another name",
            )
    if "question" in entry:
        found["question"] = dict(entry.mapping("question"))
        rules = Fields(found["question"], ("drop", "strip", "capitalize"), entry.place("question"))
        if "drop" in rules:
            rules.text("drop")
        for key in ("strip", "capitalize"):
            if not isinstance(found["question"].get(key, True), bool):
                raise ConfigError(f"'{key}' must be true or false", where=entry.place("question"))
    if "group_names" in entry:
        named = Fields(entry.mapping("group_names"), entry.mapping("group_names"), entry.place("group_names"))
        found["group_names"] = {str(cell): named.text(cell) for cell in entry.mapping("group_names")}
    if "blank" in entry:
        found["blank"] = list(entry.texts("blank"))
    return found


def _key(entry: Fields) -> str:
    return entry.choice("key", KEYS, "id")


def _columns(entry: Fields, key: str) -> dict[str, Any]:
    columns = Fields(entry.mapping("columns"), COLUMNS, entry.place("columns"))
    named: dict[str, Any] = {name: columns.text(name) for name in ("image", "question", "answer")}
    named |= {name: columns.text(name) for name in ("id", "group") if name in columns}
    if "options" in columns:
        listed = isinstance(entry.mapping("columns")["options"], list)
        named["options"] = list(columns.texts("options")) if listed else columns.text("options")
    if key != "row" and "id" not in named:
        raise ConfigError(
            "nothing tells the rows apart",
            where=entry.place("columns"),
            fix="name the column of ids (id: …), or write key: row in the source to count the rows",
        )
    return named


def _parse_tables(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    entry = Fields(mapping, _TABLE_KEYS, where)
    repos = entry.texts("repos", ())
    if not repos and "folder" not in entry:
        raise ConfigError("neither repos nor folder says where the tables are", where=where, fix="add folder: …")
    found: dict[str, Any] = {
        "type": "tables",
        "repos": list(repos),
        "revision": entry.text("revision", ""),
        "folder": entry.text("folder") if "folder" in entry else repos[0].split("/")[-1],
        **_rows(entry),
    }
    found["layouts"] = [
        _layout(entry, layout, found["key"], f"{entry.place('layouts')}, number {number}")
        for number, layout in enumerate(entry.listed("layouts"), start=1)
    ]
    found["where"] = {column: str(value) for column, value in entry.mapping("where", {}).items()}
    found["num_rows"] = entry.integer("num_rows", least=1)
    found["not_rows"] = [_other_release(rule, entry.place("not_rows")) for rule in entry.listed("not_rows", [])]
    return found


def _other_release(mapping: Any, where: str) -> dict[str, Any]:
    rule = Fields(mapping, ("group", "rows", "task"), where)
    return {"group": rule.text("group"), "rows": rule.integer("rows", least=1), "task": rule.text("task")}


def _layout(source: Fields, mapping: Any, key: str, where: str) -> dict[str, Any]:
    entry = Fields(mapping, ("tables", "columns", "images", "pictures"), where)
    return {
        "tables": [_table(table, entry.place("tables")) for table in entry.listed("tables")],
        "columns": _columns(entry if "columns" in entry else source, key),
        "images": entry.text("images", ""),
        "pictures": _pictures(entry),
    }


def _table(mapping: Any, where: str) -> dict[str, str]:
    entry = Fields(mapping, ("config", "split", "file", "group"), where)
    if ("file" in entry) == ("split" in entry):
        raise ConfigError("a table is either a file or a split", where=where, fix="write split: … or file: …")
    place = {"file": entry.text("file")} if "file" in entry else {"split": entry.text("split")}
    return {"config": entry.text("config", "default"), **place, "group": entry.text("group", "")}


def _pictures(layout: Fields) -> dict[str, str]:
    if "pictures" not in layout:
        return {}
    entry = Fields(layout.mapping("pictures"), ("config", "split", "id", "image"), layout.place("pictures"))
    return {"config": entry.text("config", "default"), **{key: entry.text(key) for key in ("split", "id", "image")}}


def _parse_world(mapping: Mapping[str, Any], where: str) -> dict[str, Any]:
    generator = Fields(mapping, mapping, where).choice("generator", GENERATORS)
    count = GENERATORS[generator][2]
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
        kind, groups, _ = GENERATORS[source["generator"]]
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
    has_options = any("options" in columns for columns in _column_sets(source))
    if spec.kind == "choice" and not all("options" in columns for columns in _column_sets(source)):
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
    if spec.kind == "open" and has_options:
        raise ConfigError("a task of kind open has no options", where=where, fix="leave columns.options out")
    if source["answer"] not in ANSWER_FORMS[spec.kind]:
        raise ConfigError(
            f"answer: {source['answer']} does not fit a task of kind {spec.kind}",
            where=where,
            fix=f"write one of: {', '.join(ANSWER_FORMS[spec.kind])}",
        )


def _column_sets(source: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if source["type"] == "tables":
        return [layout["columns"] for layout in source["layouts"]]
    return [source["columns"]]
