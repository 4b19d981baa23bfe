"""Sheets of pictures for people to look at: samples by class, originals above their reconstructions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovbench._base.files import atomic_write_bytes

_GAP_PX = 2
_GREY = 128


def sheet(images_u8: NDArray[np.uint8], columns: int, *, zoom: int = 1) -> NDArray[np.uint8]:
    """Returns one picture of many, uint8 [H', W', 3].

    Args:
        images_u8: uint8 [N, H, W, 3], row by row.
        columns: Pictures side by side.
        zoom: Each pixel becomes a square of so many.
    """
    count, height, width, _ = images_u8.shape
    rows = -(-count // columns)
    high, wide = height * zoom + _GAP_PX, width * zoom + _GAP_PX
    out = np.full((rows * high - _GAP_PX, columns * wide - _GAP_PX, 3), _GREY, dtype=np.uint8)
    for number, image in enumerate(images_u8):
        top, left = number // columns * high, number % columns * wide
        out[top : top + height * zoom, left : left + width * zoom] = image.repeat(zoom, 0).repeat(zoom, 1)
    return out


def by_class(images_u8: NDArray[np.uint8], labels: NDArray[np.int64], columns: int) -> NDArray[np.uint8]:
    """Returns pictures sorted by class, at most `columns` of each, so that a row of a sheet is a class."""
    order: list[int] = []
    for label in np.unique(labels):
        order += np.flatnonzero(labels == label)[:columns].tolist()
    return images_u8[order]


def save_sheet(path: Path, images_u8: NDArray[np.uint8], columns: int, *, zoom: int = 1) -> None:
    """Writes a sheet as PNG, whole or not at all."""
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(sheet(images_u8, columns, zoom=zoom)).save(buffer, "PNG")
    atomic_write_bytes(path, buffer.getvalue())


def zoom_for(side_px: int) -> int:
    """Returns the zoom at which small pictures can be looked at."""
    return max(1, 128 // side_px)
