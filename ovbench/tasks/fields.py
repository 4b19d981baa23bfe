"""Typed reading of a YAML mapping: unknown keys, wrong types and missing keys become errors that name the key."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ovbench._base.errors import ConfigError
from ovbench._base.names import suggest

T = TypeVar("T")
_WORDS = {str: "text", int: "a whole number", float: "a number", list: "a list", dict: "a mapping"}


class Fields:
    """One mapping out of a YAML file, read key by key.

    Args:
        mapping: What YAML gave.
        known: Every key that may be in it.
        where: The file and the place in it, for messages.

    Raises:
        ConfigError: It is no mapping, or it holds a key that is not known.
    """

    def __init__(self, mapping: Any, known: Iterable[str], where: str) -> None:
        if not isinstance(mapping, Mapping):
            raise ConfigError(
                f"expected a mapping, found {_describe(mapping)}", where=where, fix="write lines key: value"
            )
        names = list(known)
        for key in mapping:
            if key not in names:
                near = suggest(str(key), names)
                everything = f"known keys: {', '.join(names)}"
                fix = f"did you mean '{near}'? K{everything[1:]}" if near else everything
                raise ConfigError(f"unknown key '{key}'", where=where, fix=fix)
        self._mapping, self._where = mapping, where

    def __contains__(self, key: str) -> bool:
        return key in self._mapping

    def place(self, key: str) -> str:
        """Returns where a key is, for messages."""
        return f"{self._where}, {key}"

    def _take(self, key: str, kind: type[T], default: T | None) -> T:
        if key not in self._mapping:
            if default is None:
                raise ConfigError(f"the key '{key}' is missing", where=self._where, fix=f"add: {key}: …")
            return default
        value = self._mapping[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ConfigError(f"'{key}' must be {_WORDS[kind]}, found {_describe(value)}", where=self.place(key))
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Returns a text; required where no default is given."""
        return self._take(key, str, default)

    def integer(self, key: str, default: int | None = None, *, least: int = 0) -> int:
        """Returns a whole number of at least `least`."""
        value = self._take(key, int, default)
        if value < least:
            raise ConfigError(f"'{key}' must be {least} or more, got {value}", where=self.place(key))
        return value

    def number(self, key: str) -> float:
        """Returns a number."""
        if type(self._mapping.get(key)) is int:
            return float(self._mapping[key])
        return self._take(key, float, None)

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        """Returns a list of texts as a tuple."""
        values = self._take(key, list, None if default is None else list(default))
        for value in values:
            if not isinstance(value, str):
                raise ConfigError(
                    f"'{key}' must be a list of texts, found {_describe(value)} in it", where=self.place(key)
                )
        return tuple(values)

    def mapping(self, key: str, default: dict[str, Any] | None = None) -> Mapping[str, Any]:
        """Returns a mapping as it is."""
        return self._take(key, dict, default)

    def listed(self, key: str, default: list[Any] | None = None) -> list[Any]:
        """Returns a list as it is."""
        return self._take(key, list, default)

    def choice(self, key: str, allowed: Iterable[str], default: str | None = None) -> str:
        """Returns one of the allowed texts."""
        value, names = self.text(key, default), list(allowed)
        if value not in names:
            near = suggest(value, names)
            everything = f"known: {', '.join(names)}"
            raise ConfigError(
                f"unknown {key} '{value}'",
                where=self.place(key),
                fix=f"did you mean '{near}'? K{everything[1:]}" if near else everything,
            )
        return value


def _describe(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"{str(value).lower()} (quote it, if a text is meant)"
    word = next((word for kind, word in _WORDS.items() if isinstance(value, kind)), type(value).__name__)
    return word if isinstance(value, dict | list) else f"{word} ({value!r})"
