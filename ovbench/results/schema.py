"""Strict decoding of JSON into dataclasses, and the migrations that keep every past schema version readable."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from ovbench._base.errors import RecordError

SCHEMA_VERSION = 3
T = TypeVar("T")
ADDED_TO_ENCODERS_BY_2: Mapping[str, Any] = {
    "weights": "not recorded (schema 1)", "untrained": False, "depth": None, "num_prefix": None,
}  # fmt: skip


def _from_1_to_2(document: dict[str, Any]) -> dict[str, Any]:
    """Encoders say where their weights are from, whether they are untrained, and their depth and prefix tokens."""
    encoder = document.get("encoder")
    if not isinstance(encoder, dict):
        return {**document, "schema_version": 2}  # damaged: `decode` says what is missing
    return {**document, "schema_version": 2, "encoder": {**encoder, **ADDED_TO_ENCODERS_BY_2}}


def _from_2_to_3(document: dict[str, Any]) -> dict[str, Any]:
    """Runs of pictures say which pictures and foreign weights their figures rest on."""
    return {"sources": [], **document, "schema_version": 3}


# version → function that turns a document of that version into one of the next. Contract: entries are never removed,
# and tests/golden/records/ keeps one record of every version.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1_to_2, 2: _from_2_to_3}


def migrate(document: Any, *, where: str) -> dict[str, Any]:
    """Returns a record document in the newest schema.

    Raises:
        RecordError: Not a record, a schema newer than this ovbench knows, or a version without a migration.
    """
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecordError("this is not a run record: it has no schema_version", where=where)
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"this record has schema version {version}; this ovbench reads up to {SCHEMA_VERSION}",
            where=where,
            fix="upgrade ovbench: python -m pip install --upgrade ovbench",
        )
    while version < SCHEMA_VERSION:
        document = MIGRATIONS[version](document)
        version += 1
    return document


def decode(kind: type[T], document: Any, *, where: str) -> T:
    """Builds a dataclass from JSON; every key must be there, none may be unknown, every type must fit.

    Args:
        kind: A dataclass whose hints use str, int, float, bool, None, tuples, mappings, Any and other dataclasses.
        document: What `json.loads` gave.
        where: The file, for the message.

    Raises:
        RecordError: The document does not fit; the message names the key.
    """
    return _decode(kind, document, "", where)


def _fault(at: str, expected: str, value: Any, where: str) -> RecordError:
    got = type(value).__name__ if isinstance(value, dict | list) else repr(value)
    return RecordError(f"damaged record: '{at or 'the document'}' should be {expected}, got {got}", where=where)


def _decode(hint: Any, value: Any, at: str, where: str) -> Any:
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _decode_dataclass(hint, value, at, where)
    if origin in (Union, types.UnionType):
        arms = [arm for arm in get_args(hint) if arm is not type(None)]
        assert len(arms) == 1, "records use unions with None only"
        return None if value is None else _decode(arms[0], value, at, where)
    if origin is tuple:
        return _decode_tuple(get_args(hint), value, at, where)
    if origin is Mapping:
        if not isinstance(value, dict):
            raise _fault(at, "an object", value, where)
        inner = get_args(hint)[1]
        return {key: _decode(inner, item, f"{at}.{key}", where) for key, item in value.items()}
    if hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise _fault(at, "a finite number", value, where)
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise _fault(at, {int: "a whole number", str: "a text", bool: "true or false"}[hint], value, where)
    return value


def _decode_tuple(arms: tuple[Any, ...], value: Any, at: str, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _fault(at, "a list", value, where)
    if len(arms) == 2 and arms[1] is Ellipsis:
        arms = (arms[0],) * len(value)
    if len(arms) != len(value):
        raise _fault(at, f"a list of {len(arms)}", value, where)
    pairs = zip(arms, value, strict=True)
    return tuple(_decode(arm, item, f"{at}[{index}]", where) for index, (arm, item) in enumerate(pairs))


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """Returns field → type of a dataclass, in the order of the fields; kept, since looking them up is slow."""
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind)}


def _decode_dataclass(kind: Any, value: Any, at: str, where: str) -> Any:
    if not isinstance(value, dict):
        raise _fault(at, "an object", value, where)
    hints = _hints(kind)
    names = list(hints)
    prefix = f"{at}." if at else ""
    for name in names:
        if name not in value:
            raise RecordError(f"damaged record: '{prefix}{name}' is missing", where=where)
    for name in value:
        if name not in names:
            raise RecordError(f"damaged record: unknown key '{prefix}{name}'", where=where)
    fields = {name: _decode(hints[name], value[name], f"{prefix}{name}", where) for name in names}
    try:
        return kind(**fields)
    except RecordError as error:
        raise RecordError(f"damaged record: '{at or 'the document'}': {error.what}", where=where) from error
