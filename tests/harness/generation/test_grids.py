"""Sheets of pictures: where each one lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ovbench.harness.generation.grids import by_class, save_sheet, sheet, zoom_for


def flat(*levels: int) -> np.ndarray:
    return np.stack([np.full((4, 3, 3), level, dtype=np.uint8) for level in levels])


def test_pictures_lie_row_by_row_with_a_gap() -> None:
    made = sheet(flat(10, 20, 30), 2)
    assert made.shape == (4 + 2 + 4, 3 + 2 + 3, 3)
    assert made[0, 0, 0] == 10
    assert made[0, 5, 0] == 20
    assert made[6, 0, 0] == 30
    assert made[6, 5, 0] == 128


def test_zoom_makes_squares_of_pixels() -> None:
    made = sheet(flat(10), 1, zoom=3)
    assert made.shape == (12, 9, 3)
    assert (made == 10).all()


def test_a_row_is_a_class() -> None:
    chosen = by_class(flat(1, 2, 3, 4, 5), np.array([1, 0, 1, 0, 1]), 2)
    assert chosen[:, 0, 0, 0].tolist() == [2, 4, 1, 3]


def test_the_file_holds_the_sheet(tmp_path: Path) -> None:
    save_sheet(tmp_path / "x.png", flat(10, 20), 2)
    with Image.open(tmp_path / "x.png") as image:
        assert np.array_equal(np.asarray(image), sheet(flat(10, 20), 2))


def test_small_pictures_are_zoomed() -> None:
    assert (zoom_for(32), zoom_for(256)) == (4, 1)
