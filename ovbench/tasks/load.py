"""YAML → TaskSpec, strictly; tasks by name or by path, and suites."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import lookup, suggest, unknown
from ovbench.tasks.answers import PARSERS
from ovbench.tasks.base import TaskSpec

_FOLDER = Path(__file__).resolve().parent
_FIELDS = {field.name: field for field in fields(TaskSpec) if field.name != "origin"}
_TYPES: dict[str, type | tuple[type, ...]] = {
    "version": int,
    "chance": (int, float),
    "source": Mapping,
    "metrics": list,
    "groups": list,
}


def task_names() -> tuple[str, ...]:
    """Returns the names of the catalogue."""
    return tuple(sorted(path.stem for path in (_FOLDER / "catalog").glob("*.yaml")))


def _read_yaml(path: Path) -> Any:
    import yaml

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"'{path.name}' cannot be read as YAML: {error}", where=str(path)) from error


def load_task_file(path: Path) -> TaskSpec:
    """Reads one task file.

    Raises:
        DataError: The file is missing or not YAML.
        ConfigError: An unknown, missing or wrongly typed key, named.
    """
    content = _read_yaml(path)
    where = str(path)
    if not isinstance(content, Mapping):
        raise ConfigError("a task file must hold keys and values", where=where, fix="see docs/add-a-benchmark.md")
    for key in content:
        if key not in _FIELDS:
            near = suggest(str(key), _FIELDS)
            known = f"known keys: {', '.join(_FIELDS)}"
            raise ConfigError(
                f"unknown key '{key}' in a task file", where=where, fix=f"did you mean '{near}'? {known}" if near else known
            )
    for name, field in _FIELDS.items():
        if name not in content:
            if field.default is MISSING and field.default_factory is MISSING:
                raise ConfigError(f"the key '{name}' is missing", where=where, fix="see docs/add-a-benchmark.md")
            continue
        expected = _TYPES.get(name, str)
        if not isinstance(content[name], expected) or isinstance(content[name], bool):
            wanted = " or ".join(t.__name__ for t in (expected if isinstance(expected, tuple) else (expected,)))
            raise ConfigError(
                f"the key '{name}' must be of type {wanted}, got {type(content[name]).__name__}", where=where
            )
    lookup(PARSERS, content["parser"], kind="parser", where=where)
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}
    return TaskSpec(**values, origin=str(path))


@cache
def _catalogued(name: str) -> TaskSpec:
    from dataclasses import replace

    return replace(load_task_file(_FOLDER / "catalog" / f"{name}.yaml"), origin=name)


def load_task(name: str, *, where: str = "--tasks") -> TaskSpec:
    """Returns a task of the catalogue, or of a YAML file when `name` is a path.

    Raises:
        ConfigError: An unknown name (with a suggestion), or a fault in the file.
        DataError: The file is missing or not YAML.
    """
    if name.endswith((".yaml", ".yml")):
        return load_task_file(Path(name).expanduser())
    if name not in task_names():
        raise unknown("task", name, task_names(), where=where, listing="ovbench tasks")
    return _catalogued(name)


@cache
def _suites() -> dict[str, dict[str, list[str]]]:
    return _read_yaml(_FOLDER / "suites.yaml")


def suite_names() -> tuple[str, ...]:
    """Returns the names of the suites."""
    return tuple(_suites())


def load_suite(name: str, protocol: str) -> tuple[str, ...]:
    """Returns the task names of a suite under a protocol.

    Raises:
        ConfigError: An unknown suite, or one that the protocol does not have.
    """
    suite = lookup(_suites(), name, kind="suite", where="--suite")
    if protocol not in suite:
        raise ConfigError(
            f"the suite '{name}' has no tasks under the protocol '{protocol}'",
            where="--protocol",
            fix=f"use one of: {', '.join(suite)}",
        )
    return tuple(suite[protocol])
