"""Dataclasses to plain JSON values and back, strictly: an unknown, missing or ill-typed field is refused."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


class CodecError(ValueError):
    """A value that does not fit its type; the text starts with the dotted path of the field."""


def encode(value: Any) -> Any:
    """Returns `value` as dicts, lists, strings, numbers, booleans and None.

    Raises:
        CodecError: A float is NaN or infinite, or a value has no JSON form.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        if wrong := [key for key in value if not isinstance(key, str)]:
            raise CodecError(f"the key {wrong[0]!r} is not text")
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise CodecError(f"{value} is not a number that can be stored; use None with a reason")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CodecError(f"a {type(value).__name__} has no JSON form")


def decode(kind: type[T], value: Any, path: str = "") -> T:
    """Builds the dataclass `kind` from what `encode` gave.

    Args:
        kind: A dataclass whose fields are dataclasses, scalars, `tuple[X, ...]`, mappings of text, or unions of them.
        value: Plain JSON value.
        path: Dotted path of `value`, for messages.

    Raises:
        CodecError: A field is unknown, missing or of another type; the text names it.
    """
    return _decode(kind, value, path)


def _decode_dataclass(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, Mapping):
        raise _mismatch(path, "an object", value)
    hints = get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    prefix = f"{path}." if path else ""
    if unknown := sorted(set(value) - set(names)):
        raise CodecError(f"{prefix}{unknown[0]}: unknown field")
    if missing := [name for name in names if name not in value]:
        raise CodecError(f"{prefix}{missing[0]}: missing field")
    return kind(**{name: _decode(hints[name], value[name], f"{prefix}{name}") for name in names})


def _decode(kind: Any, value: Any, path: str) -> Any:
    origin = get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, path)
    if kind is Any:
        return value
    if origin is Literal:
        if value not in get_args(kind):
            raise CodecError(f"{path}: {value!r} is none of {', '.join(map(repr, get_args(kind)))}")
        return value
    if origin in (Union, types.UnionType):
        return _decode_optional(kind, value, path)
    if origin is tuple:
        return _decode_tuple(get_args(kind), value, path)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise _mismatch(path, "an object", value)
        return {key: _decode(get_args(kind)[1], item, f"{path}.{key}") for key, item in value.items()}
    return _decode_scalar(kind, value, path)


def _decode_optional(kind: Any, value: Any, path: str) -> Any:
    inner = [option for option in get_args(kind) if option is not type(None)]
    assert len(inner) == 1, "records hold no union but `X | None`"
    return None if value is None else _decode(inner[0], value, path)


def _decode_tuple(items: tuple[Any, ...], value: Any, path: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _mismatch(path, "a list", value)
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_decode(items[0], item, f"{path}[{index}]") for index, item in enumerate(value))
    if len(items) != len(value):
        raise CodecError(f"{path}: expected {len(items)} entries, found {len(value)}")
    return tuple(
        _decode(kind, item, f"{path}[{index}]") for index, (kind, item) in enumerate(zip(items, value, strict=True))
    )


def _decode_scalar(kind: Any, value: Any, path: str) -> Any:
    # Trap: bool is an int in Python, and JSON writes the float 1.0 as 1.0 but 10**16 may come back as an int.
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise CodecError(f"{path}: {value} is not a finite number")
        return float(value)
    if isinstance(value, kind) and not (kind is int and isinstance(value, bool)):
        return value
    raise _mismatch(path, {str: "text", int: "a whole number", float: "a number", bool: "true or false"}[kind], value)


def _mismatch(path: str, expected: str, value: Any) -> CodecError:
    return CodecError(f"{path or 'the document'}: expected {expected}, found {value!r}"[:300])
