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


def _from_1_to_2(document: dict[str, Any]) -> dict[str, Any]:
    """Encoders say where their weights are from, whether they are untrained, and their depth and prefix tokens."""
    added = {"weights": "not recorded (schema 1)", "untrained": False, "depth": None, "num_prefix": None}
    encoder = document.get("encoder")
    if not isinstance(encoder, dict):
        return {**document, "schema_version": 2}  # damaged: `decode` says what is missing
    return {**document, "schema_version": 2, "encoder": {**encoder, **added}}


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
    try:
        return _reader(kind)(document)
    except _Misfit as misfit:
        raise RecordError(f"damaged record: {misfit.said()}", where=where) from misfit


class _Misfit(Exception):
    """A value that does not fit; it learns on its way up where it stands, so that values that fit cost nothing."""

    def __init__(self, form: str) -> None:
        super().__init__(form)
        self.form = form  # with {at} for the place
        self.path: list[str] = []  # innermost first: `.key` or `[0]`

    def under(self, step: str) -> _Misfit:
        """Returns itself, one level further out."""
        self.path.append(step)
        return self

    def said(self) -> str:
        """Returns the fault with its place."""
        at = "".join(reversed(self.path)).removeprefix(".")
        return self.form.format(at=at or "the document")


def _unfit(expected: str, value: Any) -> _Misfit:
    got = type(value).__name__ if isinstance(value, dict | list) else repr(value)
    return _Misfit("'{at}' should be " + f"{expected}, got {got}".replace("{", "{{").replace("}", "}}"))


@functools.cache
def _reader(hint: Any) -> Callable[[Any], Any]:
    """Returns the function that reads values of a type; made once, since looking types up is slow."""
    origin = get_origin(hint)
    if hint is Any:
        return lambda value: value
    if dataclasses.is_dataclass(hint):
        return _dataclass_reader(hint)
    if origin in (Union, types.UnionType):
        arms = [arm for arm in get_args(hint) if arm is not type(None)]
        assert len(arms) == 1, "records use unions with None only"
        inner = _reader(arms[0])
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_reader(get_args(hint))
    if origin is Mapping:
        return _mapping_reader(_reader(get_args(hint)[1]))
    return _float if hint is float else _plain_reader(hint)


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _unfit("a finite number", value)
    return float(value)


def _plain_reader(hint: Any) -> Callable[[Any], Any]:
    expected = {int: "a whole number", str: "a text", bool: "true or false"}[hint]

    def read(value: Any) -> Any:
        if type(value) is not hint:  # Contract: exact, since True is an int too
            raise _unfit(expected, value)
        return value

    return read


def _mapping_reader(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _unfit("an object", value)
        found: dict[str, Any] = {}
        for key, item in value.items():
            try:
                found[key] = inner(item)
            except _Misfit as misfit:
                raise misfit.under(f".{key}") from None
        return found

    return read


def _tuple_reader(arms: tuple[Any, ...]) -> Callable[[Any], Any]:
    many = len(arms) == 2 and arms[1] is Ellipsis
    readers = [_reader(arms[0])] if many else [_reader(arm) for arm in arms]

    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise _unfit("a list", value)
        if not many and len(readers) != len(value):
            raise _unfit(f"a list of {len(readers)}", value)
        found: list[Any] = []
        for index, item in enumerate(value):
            try:
                found.append(readers[0 if many else index](item))
            except _Misfit as misfit:
                raise misfit.under(f"[{index}]") from None
        return tuple(found)

    return read


def _dataclass_reader(kind: Any) -> Callable[[Any], Any]:
    hints = get_type_hints(kind)
    readers = {field.name: _reader(hints[field.name]) for field in dataclasses.fields(kind)}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise _unfit("an object", value)
        if value.keys() != readers.keys():
            raise _keys_fault(value, readers)
        fields: dict[str, Any] = {}
        for name, reader in readers.items():
            try:
                fields[name] = reader(value[name])
            except _Misfit as misfit:
                raise misfit.under(f".{name}") from None
        try:
            return kind(**fields)
        except RecordError as error:
            raise _Misfit("'{at}': " + error.what.replace("{", "{{").replace("}", "}}")) from error

    return read


def _keys_fault(value: Mapping[str, Any], readers: Mapping[str, Any]) -> _Misfit:
    for name in readers:
        if name not in value:
            return _Misfit("'{at}' is missing").under(f".{name}")
    name = next(name for name in value if name not in readers)
    return _Misfit("unknown key '{at}'").under(f".{name}")
