"""Errors meant for the reader: what went wrong, where, and how to fix it."""

from __future__ import annotations

from typing import Any


class OvbenchError(Exception):
    """A failure the user can act on; the command line prints it without a traceback and exits with 2.

    Args:
        what: One sentence that says what is wrong, quoting the value that was given.
        where: The flag, file or key that holds the fault; empty when there is none.
        fix: What to do about it; empty when nothing can be suggested.
    """

    def __init__(self, what: str, *, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.what, self.where, self.fix)  # keeps all three parts between processes

    def __str__(self) -> str:
        lines = [f"error: {self.what}"]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.fix:
            lines.append(f"  fix:   {self.fix}")
        return "\n".join(lines)


class ConfigError(OvbenchError):
    """A name, flag or configuration value that cannot be used."""


class DataError(OvbenchError):
    """A file or folder whose content is missing, damaged or not what it claims to be."""


class DependencyError(OvbenchError):
    """A package that was asked for and is not installed, or a device that is not there."""


class RecordError(OvbenchError):
    """A run record that cannot be read, or a run folder that cannot be used."""


def _rebuild(kind: type[OvbenchError], what: str, where: str, fix: str) -> OvbenchError:
    return kind(what, where=where, fix=fix)
