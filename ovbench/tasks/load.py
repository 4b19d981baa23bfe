"""YAML → TaskSpec, strictly; the catalogue of tasks and the suites. Reads no data: see sources.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import lookup, unknown
from ovbench.tasks.answers import Kind
from ovbench.tasks.base import Family, Scoring, TaskSpec
from ovbench.tasks.fields import Fields
from ovbench.tasks.source_form import check_source, parse_source

CATALOG = Path(__file__).parent / "catalog"
_SUITES = Path(__file__).parent / "suites.yaml"
_LISTING = "ovbench tasks"
_KEYS = tuple(field.name for field in fields(TaskSpec) if field.name != "origin")


def task_names() -> tuple[str, ...]:
    """Returns the names of the catalogue, sorted."""
    return tuple(sorted(path.stem for path in CATALOG.glob("*.yaml")))


def load_task(name: str, *, where: str = "--tasks") -> TaskSpec:
    """Returns a task.

    Args:
        name: A name of the catalogue, or the path of a YAML file (`./my-bench.yaml`).
        where: The flag that held the name, for messages.

    Raises:
        ConfigError: The name is unknown, or the file's content cannot be used.
        DataError: The file cannot be read.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        spec = load_task_file(Path(name).expanduser())
        if spec.name in task_names():
            raise ConfigError(
                f"the name '{spec.name}' belongs to a task of the catalogue",
                where=f"{name}, name",
                fix="give your task another name: results are told apart by it",
            )
        return spec
    if name not in task_names():
        raise unknown("task", name, task_names(), where=where, listing=_LISTING)
    return _catalogued(name)


@cache
def _catalogued(name: str) -> TaskSpec:
    return replace(load_task_file(CATALOG / f"{name}.yaml"), origin=name)


def load_task_file(path: Path) -> TaskSpec:
    """Returns the task that a YAML file describes; `source.path` is taken relative to the file.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type, or a value cannot be used.
        DataError: The file is absent or not YAML.
    """
    entry = Fields(read_yaml(path), _KEYS, path.name)
    try:
        spec = TaskSpec(
            name=entry.text("name"),
            version=entry.integer("version", least=1),
            title=entry.text("title"),
            kind=cast(Kind, entry.text("kind")),
            source=parse_source(entry.mapping("source"), folder=path.parent, where=entry.place("source")),
            prompt=entry.text("prompt"),
            scoring=cast(Scoring, entry.text("scoring")),
            parser=entry.text("parser"),
            metrics=entry.texts("metrics"),
            headline=entry.text("headline"),
            chance=entry.number("chance"),
            scorer=entry.text("scorer", ""),
            max_new_tokens=entry.integer("max_new_tokens", least=1) if "max_new_tokens" in entry else None,
            groups=entry.texts("groups", ()),
            family=cast(Family, entry.text("family", "local")),
            citation=entry.text("citation", ""),
            licence=entry.text("licence", ""),
            description=entry.text("description", ""),
            origin=str(path),
        )
        check_source(spec)
    except ConfigError as error:
        if path.name in error.where:
            raise
        raise ConfigError(error.what, where=f"{path.name}: {error.where}", fix=error.fix) from None
    return spec


def read_yaml(path: Path) -> Any:
    """Reads a YAML file by `safe_load`, with a key given twice refused.

    Raises:
        DataError: The file is absent, unreadable, not YAML, or gives a key twice.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        pass

    def unique_mapping(loader: Any, node: Any) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(problem=f"the key '{key.value}' is given twice", problem_mark=key.start_mark)
            seen.add(str(key.value))
        return loader.construct_mapping(node, deep=True)

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, unique_mapping)
    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader)  # a SafeLoader: plain values only
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent), fix=f"all names: {_LISTING}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path.name}' cannot be read: {error}", where=str(path)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is not YAML"
        raise DataError(f"'{path.name}' cannot be read as YAML: {problem}", where=f"{path}{line}") from error
    except (ValueError, RecursionError) as error:  # a date that does not exist, lists within lists without end
        raise DataError(f"'{path.name}' cannot be read as YAML: {error}", where=str(path)) from error


@cache
def _suites() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    table = read_yaml(_SUITES)
    return {
        suite: {protocol: Fields(tasks, tasks, _SUITES.name).texts(protocol) for protocol in tasks}
        for suite, tasks in table.items()
    }


def suite_names() -> tuple[str, ...]:
    """Returns the names of the suites."""
    return tuple(_suites())


def load_suite(name: str, protocol: str) -> tuple[str, ...]:
    """Returns the names of a suite's tasks under a protocol, in the order of tables.

    Raises:
        ConfigError: The suite is unknown, or the protocol has no tasks for it.
    """
    suite = lookup(_suites(), name, kind="suite", where="--suite")
    if protocol not in suite:
        raise ConfigError(
            f"the suite '{name}' has no tasks under the protocol '{protocol}'",
            where="--protocol",
            fix=f"use one of: {', '.join(suite)}",
        )
    return suite[protocol]
