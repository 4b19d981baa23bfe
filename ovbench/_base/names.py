"""Look a name up in a table: the entry, or an error that suggests the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from ovbench._base.errors import ConfigError

T = TypeVar("T")


def suggest(name: str, known: Iterable[str]) -> str | None:
    """Returns the known name closest to `name`, or None when nothing is close."""
    matches = difflib.get_close_matches(name.lower(), list(known), n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown(kind: str, name: str, known: Iterable[str], *, where: str, listing: str = "") -> ConfigError:
    """Builds the error for a name that is not in a table.

    Args:
        kind: What the name should have been, e.g. `encoder`.
        name: The name that was given.
        known: All names that would have been accepted.
        where: The flag or key that held the name.
        listing: The command that lists all names; without one the names are listed in the error.
    """
    names = sorted(known)
    near = suggest(name, names)
    everything = f"all names: {listing}" if listing else f"known: {', '.join(names)}"
    fix = f"did you mean '{near}'? {everything[0].upper()}{everything[1:]}" if near else everything
    return ConfigError(f"unknown {kind} '{name}'", where=where, fix=fix)


def lookup(table: Mapping[str, T], name: str, *, kind: str, where: str, listing: str = "") -> T:
    """Returns `table[name]`; raises the `unknown` error when it is absent."""
    if name not in table:
        raise unknown(kind, name, table, where=where, listing=listing)
    return table[name]
