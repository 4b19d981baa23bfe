"""Plain values, as a YAML file has them → dataclasses of settings, strictly. Data only."""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from ovbench._base.errors import ConfigError
from ovbench._base.names import suggest

T = TypeVar("T")


def read_config(kind: type[T], document: Any, *, where: str) -> T:
    """Returns a dataclass of settings from plain values: nested mappings become nested dataclasses, lists tuples.

    Raises:
        ConfigError: A key is unknown or missing, or of another type.
    """
    if not isinstance(document, Mapping):
        raise ConfigError(f"expected settings by name, got {document!r}", where=where)
    fields = {entry.name: entry for entry in dataclasses.fields(kind)}  # pyright: ignore[reportArgumentType]
    for key in document:
        if key not in fields:
            near = suggest(str(key), fields)
            raise ConfigError(
                f"unknown key '{key}'",
                where=where,
                fix=f"did you mean '{near}'?" if near else f"known: {', '.join(fields)}",
            )
    hints = typing.get_type_hints(kind)
    given = {key: _value(hints[key], value, f"{where}.{key}") for key, value in document.items()}
    for name, entry in fields.items():
        needed = entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING
        if needed and name not in given:
            raise ConfigError(f"the key '{name}' is missing", where=where)
    return kind(**given)


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (inner,) = (part for part in arguments if part is not type(None))
        return _value(inner, value, where)
    if dataclasses.is_dataclass(hint):
        return read_config(typing.cast(type, hint), value, where=where)
    if origin is Literal:
        if value not in arguments:
            known = ", ".join(str(part) for part in arguments)
            raise ConfigError(f"'{value}' is none of: {known}", where=where)
        return value
    if origin is tuple and isinstance(value, list | tuple):
        inner = arguments[0]
        if Ellipsis not in arguments and len(value) != len(arguments):
            raise ConfigError(f"expected {len(arguments)} values, got {len(value)}", where=where)
        return tuple(_value(inner, part, where) for part in value)
    if origin is not None and issubclass(origin, Mapping) and isinstance(value, Mapping):
        return {key: tuple(part) if isinstance(part, list) else part for key, part in value.items()}
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    raise ConfigError(f"expected {getattr(hint, '__name__', hint)}, got {value!r}", where=where)
