"""Pictures of scenes. The stored digests are what the shipped encoders were trained on."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovbench._base.errors import DataError
from ovbench.tasks.world.draw import draw_scene, draw_scenes, draw_single, embedded_sprites, read_fashion_mnist
from ovbench.tasks.world.scene import GARMENTS, make_scene, make_single

# sha256 of the pixels of scenes (or single garments) 0…19 with seed 5
GOLDEN = {
    "train": "d92c5a693d368433239a3dec1be07f12f2de866c7f8250bca14b08dd8934fa3a",
    "test": "ec75dd4964396b2e63c87d8536173e558347bab9d21b1f58d452606d0cf06967",
}
GOLDEN_SINGLE = "e593e571f9eb4e2be13e3cc0d81e5b4013150e39f3c5c3d8e9f7a542a5ab6046"


@pytest.mark.parametrize("split", GOLDEN)
def test_pictures_are_the_stored_ones(split: str) -> None:
    images = draw_scenes([make_scene(5, split, index) for index in range(20)], embedded_sprites(split))
    assert images.shape == (20, 64, 64, 3)
    assert images.dtype == np.uint8
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN[split]


def test_single_garments_are_the_stored_ones() -> None:
    sprites = embedded_sprites("train")
    images = np.stack([draw_single(make_single(5, "train", index), sprites) for index in range(20)])
    assert images.shape == (20, 32, 32, 3)
    assert hashlib.sha256(images.tobytes()).hexdigest() == GOLDEN_SINGLE


@pytest.mark.parametrize(("split", "count"), [("train", 1000), ("test", 200)])
def test_embedded_photographs_are_all_there(split: str, count: int) -> None:
    sprites = embedded_sprites(split)
    assert sprites.images.shape == (len(GARMENTS), count, 28, 28)
    assert sprites.images.dtype == np.uint8
    assert len(sprites.digest) == 64


def test_no_photograph_is_in_both_splits() -> None:
    train, test = (
        {image.tobytes() for image in embedded_sprites(split).images.reshape(-1, 784)} for split in ("train", "test")
    )
    assert not train & test


def test_single_garment_is_its_cell_of_the_scene() -> None:
    sprites = embedded_sprites("train")
    for index in range(12):
        scene = make_single(9, "train", index)
        row, column = divmod(scene.items[0].cell, 2)
        whole = draw_scene(scene, sprites)
        assert np.array_equal(
            draw_single(scene, sprites), whole[32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        )


def test_empty_cells_show_the_background_alone() -> None:
    sprites = embedded_sprites("train")
    scene = replace(make_single(9, "train", 0), background=(10, 20, 30), gradient=0)
    scene = replace(scene, items=(replace(scene.items[0], cell=3),))
    image = draw_scene(scene, sprites)
    assert (image[:32] == (10, 20, 30)).all()
    assert (image[:, :32] == (10, 20, 30)).all()
    assert (image[32:, 32:] != (10, 20, 30)).any()


def test_flip_mirrors_the_garment() -> None:
    sprites = embedded_sprites("train")
    scene = replace(make_single(9, "train", 1), gradient=0)
    item = replace(scene.items[0], dx=2, flip=False)
    plain = draw_single(replace(scene, items=(item,)), sprites)
    flipped = draw_single(replace(scene, items=(replace(item, flip=True),)), sprites)
    assert np.array_equal(plain[:, ::-1], flipped)
    assert not np.array_equal(plain, flipped)


def test_missing_fashion_mnist_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_fashion_mnist(tmp_path, "train")
    assert "cannot read Fashion-MNIST" in caught.value.what
    assert "dataset-fashion-mnist" in caught.value.fix


def test_fashion_mnist_files_are_read_by_class(tmp_path: Path) -> None:
    labels = np.arange(10, dtype=np.uint8).repeat(2)
    images = np.zeros((20, 28, 28), np.uint8) + labels[:, None, None]
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(16) + images.tobytes()))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(bytes(8) + labels.tobytes()))
    sprites = read_fashion_mnist(tmp_path, "test")
    assert sprites.images[:, :, 0, 0].tolist() == [[c, c] for c in (0, 1, 2, 3, 5, 7, 8, 9)]
