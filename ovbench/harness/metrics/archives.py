"""Zip and npz files of others, opened with care: damage is said, no pickle runs, shapes cost no numbers."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ovbench._base.errors import DataError

GET_AGAIN = "get the file again, and compare its size with the one it was published with"


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip.

    Raises:
        DataError: It is none, or is cut off.
    """
    try:
        return zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise DataError(f"'{path.name}' is truncated or no zip: {error}", where=str(path), fix=GET_AGAIN) from error
    except OSError as error:
        raise DataError(f"'{path.name}' cannot be read: {error.strerror or error}", where=str(path)) from error


@dataclass(frozen=True, slots=True)
class ArrayHeader:
    """What stands before the numbers of an npz member."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int  # bytes of the header


def read_array_header(archive: zipfile.ZipFile, name: str) -> ArrayHeader:
    """Returns shape and type of an array in an npz, without its numbers.

    Raises:
        DataError: There is no such array, it is damaged, or it holds pickled objects.
    """
    where = f"{archive.filename}: {name}"
    try:
        with archive.open(f"{name}.npy") as stream:
            version = np.lib.format.read_magic(stream)  # type: ignore[arg-type]
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)  # type: ignore[arg-type]
            offset = stream.tell()
    except KeyError:
        raise DataError(f"there is no array '{name}'", where=str(archive.filename)) from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(f"the array '{name}' is damaged: {error}", where=where, fix=GET_AGAIN) from error
    if dtype.hasobject:
        raise DataError(
            f"the array '{name}' holds pickled objects, which can run code and are not opened",
            where=where,
            fix="store numbers only",
        )
    return ArrayHeader(shape=shape, dtype=dtype, fortran=fortran, offset=offset)


def read_array(archive: zipfile.ZipFile, name: str) -> np.ndarray:
    """Returns an array of an npz.

    Raises:
        DataError: As `read_array_header`, or its numbers are damaged.
    """
    read_array_header(archive, name)
    try:
        with archive.open(f"{name}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)  # type: ignore[arg-type]
    except Exception as error:  # zlib.error, BadZipFile, ValueError, EOFError: the member is damaged
        raise DataError(
            f"the array '{name}' is damaged: {error}", where=f"{archive.filename}: {name}", fix=GET_AGAIN
        ) from error
