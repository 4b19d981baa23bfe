"""Resizing equals PIL, and the aspect policies do what their names say."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from ovbench.encoders.base import PreprocessSpec
from ovbench.encoders.preprocess import resize, to_01, u8_to_01


@pytest.fixture
def picture() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    return Image.fromarray(values)


def test_squash_equals_pil_bit_for_bit(picture: Image.Image) -> None:
    ours = resize(picture, PreprocessSpec(size=(24, 24), resample="bicubic"))
    assert np.array_equal(np.asarray(ours), np.asarray(picture.resize((24, 24), Image.Resampling.BICUBIC)))


def test_pad_keeps_the_whole_picture_centred_on_the_colour(picture: Image.Image) -> None:
    padded = np.asarray(resize(picture, PreprocessSpec(size=(50, 50), aspect="pad", pad_colour=(1, 2, 3))))
    assert (padded[:10] == (1, 2, 3)).all()
    assert (padded[40:] == (1, 2, 3)).all()
    assert np.array_equal(padded[10:40], np.asarray(picture))


def test_crop_takes_the_middle_of_the_short_side(picture: Image.Image) -> None:
    cropped = np.asarray(resize(picture, PreprocessSpec(size=(30, 30), aspect="crop")))
    assert np.array_equal(cropped, np.asarray(picture)[:, 10:40])


def test_a_picture_of_the_right_size_is_left_alone(picture: Image.Image) -> None:
    assert np.array_equal(np.asarray(resize(picture, PreprocessSpec(size=(30, 50)))), np.asarray(picture))


def test_ranges_are_0_to_1(picture: Image.Image) -> None:
    one = to_01(picture)
    assert one.shape == (3, 30, 50)
    assert float(one[0, 0, 0]) == pytest.approx(np.asarray(picture)[0, 0, 0] / 255)
    assert u8_to_01(np.full((1, 2, 2, 3), 255, np.uint8)).max() == 1.0
