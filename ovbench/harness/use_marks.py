"""Marks that say "a process is using this": shared locks, which the operating system frees when the process dies.

A reader holds the mark of what it reads; who removes takes it for itself, and leaves alone what it does not get.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import weakref
from collections.abc import Iterator
from pathlib import Path


class UseMark:
    """A shared lock on a file, held until `close` or until nobody knows this object any more.

    Args:
        handle: Of the open and locked file; it is this object's from now on.
    """

    def __init__(self, handle: int) -> None:
        self._close = weakref.finalize(self, os.close, handle)

    def close(self) -> None:
        """Lets what is marked be removed."""
        self._close()


def mark_in_use(path: Path) -> UseMark | None:
    """Returns the mark of a file; None where it is not there, or was removed while this waited for its remover."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    mark = UseMark(handle)
    fcntl.flock(handle, fcntl.LOCK_SH)
    if is_at(handle, path):
        return mark
    mark.close()
    return None


@contextlib.contextmanager
def unused(path: Path) -> Iterator[bool]:
    """Yields whether no process marks a file; while it is so, marks wait. A file that is gone is not used."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        yield True
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(handle)


def is_at(handle: int, path: Path) -> bool:
    """Whether an open file is still the one at its path."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
