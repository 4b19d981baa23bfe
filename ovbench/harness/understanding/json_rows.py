"""A JSON list of a gigabyte, row by row: its places are found in one pass, rows are read when they are asked for."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ovbench._base.errors import DataError

_BLOCK_BYTES = 1 << 24
_BLANK = " \t\r\n"


class JsonRows:
    """The elements of a file that holds one JSON list. Reading is safe from several threads.

    Args:
        path: The file.

    Raises:
        DataError: It is missing, is no list, or a row is not JSON; the row is named, counted from 1.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._handle = os.open(path, os.O_RDONLY)
        except OSError as error:
            what = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {error.strerror}"
            raise DataError(
                f"the list of conversations '{path.name}' {what}",
                where=str(path),
                fix="put it there, or name another data folder with --data",
            ) from error
        close = weakref.finalize(self, os.close, self._handle)
        try:
            places, images = [], []
            for start, end, row in _scan(self._handle, path):
                places.append((start, end))
                images.append(row.get("image") if isinstance(row, dict) else None)
            self._places = np.array(places, np.int64).reshape(-1, 2)
            # Trap: see `_scan` for why a name beyond ASCII is read again.
            self.images: list[Any] = [
                self._image(number) if isinstance(image, str) and not image.isascii() else image
                for number, image in enumerate(images)
            ]
        except BaseException:
            close()
            raise

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> Any:
        """Returns row `number`, counted from 0.

        Raises:
            DataError: The file has changed since it was opened, or the row is not UTF-8.
        """
        start, end = (int(place) for place in self._places[number])
        data = os.pread(self._handle, end - start, start)
        try:
            return json.loads(data.decode())
        except ValueError as error:
            raise DataError(
                f"row {number + 1} is not valid JSON: {error}", where=str(self.path), fix="write the row again as UTF-8"
            ) from error

    def _image(self, number: int) -> Any:
        return self[number].get("image")


def _may_go_on(error: json.JSONDecodeError, text: str) -> bool:
    """Whether a row may only be cut off at the end of what was read."""
    # No word or escape of JSON is longer than six characters.
    return error.pos >= len(text) - 8 or error.msg.startswith("Unterminated string")


def _scan(handle: int, path: Path) -> Iterator[tuple[int, int, Any]]:
    """Yields begin and end of each row, in bytes, and the row as Latin-1 reads it.

    Trap: Latin-1 makes one character of each byte, so that places in the text are places in the file. JSON's own marks
    are ASCII, and no byte of a longer UTF-8 character is; texts that hold such characters are wrong here.
    """
    decode = json.JSONDecoder().raw_decode
    text, first, at, number = "", 0, 0, 0  # `text` begins at byte `first` of the file; `at` is a place in it
    ended = False

    def more() -> bool:
        nonlocal text, first, at, ended
        block = os.pread(handle, max(_BLOCK_BYTES, len(text) - at), first + len(text))
        ended = not block
        text, first, at = text[at:] + block.decode("latin-1"), first + at, 0
        return not ended

    def mark() -> str:
        """Returns the next character that is not blank, empty at the end of the file."""
        nonlocal at
        while True:
            while at < len(text) and text[at] in _BLANK:
                at += 1
            if at < len(text):
                return text[at]
            if not more():
                return ""

    def fault(what: str) -> DataError:
        return DataError(
            what, where=f"{path}, byte {first + at}", fix="get the file again, or correct it there; nothing was read"
        )

    more()
    if text.startswith("\xef\xbb\xbf"):  # a byte-order mark
        at = 3
    if mark() != "[":
        raise fault(f"'{path.name}' is no JSON list")
    at += 1
    if mark() == "]":
        return
    while True:
        mark()
        while True:
            try:
                row, end = decode(text, at)
            except json.JSONDecodeError as error:
                if _may_go_on(error, text) and not ended and more():
                    continue
                raise fault(f"row {number + 1} is not valid JSON: {error.msg}") from error
            if end < len(text) or ended or not more():  # a number could go on in the next block
                break
        yield first + at, first + end, row
        at, number = end, number + 1
        if (found := mark()) == "]":
            return
        if found != ",":
            what = "the list is cut off" if not found else f"expected a comma, found '{found}'"
            raise fault(f"after row {number}: {what}")
        at += 1
