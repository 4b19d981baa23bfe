"""The contact sheet."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import ConfigError
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from ovbench.tasks.world.sheet import draw_sheet


@pytest.fixture(scope="module")
def data() -> TaskData:
    """Seven questions, one of each kind."""
    return load_data(load_task("mini-seed"), limit=7)


def _drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_sheet_shows_the_scenes_three_times_as_large(data: TaskData, tmp_path: Path) -> None:
    draw_sheet(data, tmp_path / "new" / "out.png", columns=3)
    sheet = _drawn(tmp_path / "new" / "out.png")
    scene = data.image(data.samples[0].image_id).repeat(3, axis=0).repeat(3, axis=1)
    windows = np.lib.stride_tricks.sliding_window_view(sheet[:, :, 0], scene.shape[:2])
    places = np.argwhere(windows[:, :, 0, 0] == scene[0, 0, 0])
    assert any(np.array_equal(sheet[y : y + 192, x : x + 192], scene) for y, x in places)


def test_sheet_grows_with_the_questions(data: TaskData, tmp_path: Path) -> None:
    draw_sheet(data, tmp_path / "one.png", columns=1, count=1)
    draw_sheet(data, tmp_path / "six.png", columns=2, count=6)
    one, six = _drawn(tmp_path / "one.png"), _drawn(tmp_path / "six.png")
    assert six.shape[1] == 2 * one.shape[1]
    assert six.shape[0] > 2 * one.shape[0]


def test_right_answer_is_green(data: TaskData, tmp_path: Path) -> None:
    draw_sheet(data, tmp_path / "out.png", columns=1, count=1)
    text = _drawn(tmp_path / "out.png")[:, 210:].astype(int)
    assert ((text[..., 1] - text[..., 0] > 80) & (text[..., 1] - text[..., 2] > 40)).sum() > 20


def test_same_data_give_the_same_bytes(data: TaskData, tmp_path: Path) -> None:
    draw_sheet(data, tmp_path / "a.png")
    draw_sheet(data, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_other_suffix_is_refused(data: TaskData, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        draw_sheet(data, tmp_path / "out.jpg")
    assert "'out.jpg' does not end in .png" in str(caught.value)
    assert "--samples" in caught.value.where
    assert not list(tmp_path.iterdir())


def test_unwritable_path_is_said(data: TaskData, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        draw_sheet(data, tmp_path / "file" / "out.png")
    assert "cannot write" in caught.value.what
    assert "--samples" in caught.value.where


@pytest.mark.parametrize("numbers", [{"columns": 0}, {"count": 0}])
def test_number_below_one_is_refused(data: TaskData, tmp_path: Path, numbers: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="must be 1 or more, got 0"):
        draw_sheet(data, tmp_path / "out.png", **numbers)
