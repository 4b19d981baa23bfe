"""Single garments of the world as labelled pictures, and parts of sets."""

from __future__ import annotations

import numpy as np
import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.open_data import Subset, evenly, open_pictures
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.picture_data import to_01, training_flips, training_order
from ovbench.harness.generation.recipe_config import DataConfig
from ovbench.harness.generation.world_data import WorldGarments
from ovbench.tasks.world.scene import GARMENTS, make_single


def test_pictures_and_labels_belong_together() -> None:
    data = WorldGarments(3, "train", 20)
    assert data.images_u8([4, 1]).shape == (2, 32, 32, 3)
    wanted = [GARMENTS.index(make_single(3, "train", index).items[0].garment) for index in (4, 1)]
    assert data.labels([4, 1]).tolist() == wanted


def test_a_longer_set_begins_with_the_same_pictures() -> None:
    short, long = WorldGarments(3, "test", 5), WorldGarments(3, "test", 9)
    assert np.array_equal(short.images_u8(range(5)), long.images_u8(range(5)))
    assert short.digest != long.digest


def test_training_and_test_pictures_differ() -> None:
    assert not np.array_equal(WorldGarments(3, "train", 4).images_u8([0]), WorldGarments(3, "test", 4).images_u8([0]))


def test_the_first_stage_sees_the_pictures_themselves() -> None:
    data = WorldGarments(3, "train", 6)
    assert np.array_equal(data.crops_u8([5, 2], [100, 101], 0), data.images_u8([5, 2]))
    with pytest.raises(ConfigError, match="uses"):
        data.crops_u8([5, 2], [100], 0)


def test_grey_levels_become_0_to_1() -> None:
    images = np.array([0, 51, 255], dtype=np.uint8).reshape(1, 1, 1, 3)
    assert to_01(images).flatten().tolist() == pytest.approx([0.0, 0.2, 1.0])


def test_each_epoch_takes_every_picture_once_in_another_order() -> None:
    first, second = training_order(0, "x", 0, 10, 10), training_order(0, "x", 10, 10, 10)
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_does_not_depend_on_how_it_is_asked_for() -> None:
    whole = training_order(0, "x", 3, 25, 10)
    assert whole == [*training_order(0, "x", 3, 9, 10), *training_order(0, "x", 12, 16, 10)]
    flips = training_flips(0, "x", 3, 25)
    assert flips.tolist() == [*training_flips(0, "x", 3, 9), *training_flips(0, "x", 12, 16)]
    assert 0 < flips.sum() < 25


def test_no_pictures_have_no_order() -> None:
    with pytest.raises(ConfigError, match="no pictures"):
        training_order(0, "x", 0, 1, 0)


def test_a_part_has_as_many_of_each_class() -> None:
    labels = np.array([0, 0, 1, 0, 1, 1, 0, 2, 2])
    chosen = evenly(labels, 6, 3)
    assert chosen.tolist() == [0, 1, 2, 4, 7, 8]


@pytest.mark.parametrize(("count", "message"), [(7, "no whole number"), (9, "class 2 has 2 pictures")])
def test_a_part_that_cannot_be_even_is_refused(count: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evenly(np.array([0, 0, 1, 0, 1, 1, 0, 2, 2]), count, 3)


def test_a_part_is_numbered_anew() -> None:
    data = WorldGarments(3, "train", 8)
    part = Subset(data, np.array([6, 2, 3]))
    assert part.num_pictures == 3
    assert np.array_equal(part.images_u8([0, 2]), data.images_u8([6, 3]))
    assert part.labels([1]).tolist() == data.labels([2]).tolist()
    assert np.array_equal(part.crops_u8([1], [9], 0), data.images_u8([2]))
    assert part.digest != data.digest


def test_the_world_needs_no_data() -> None:
    config = DataConfig(source="world", image_px=32, num_classes=8, num_train=4, num_test=2, world_seed=1)
    found = open_pictures(config, GenerationOptions())
    assert (found.train.num_pictures, found.test.num_pictures) == (4, 2)
    with pytest.raises(ConfigError, match="needs no data"):
        open_pictures(config, GenerationOptions(data="here"))


def test_imagenet_has_to_be_named() -> None:
    with pytest.raises(ConfigError, match="nobody said where it is") as caught:
        open_pictures(DataConfig(source="imagenet", image_px=32, num_classes=3), GenerationOptions())
    assert caught.value.where == "--data"
