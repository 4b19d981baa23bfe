"""ImageNet as training sees it: a picture is a function of its number, an augmentation of (seed, use)."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench._base.seeding import numpy_generator
from ovbench.harness.generation.imagenet_data import ImageNetPictures, prefetch
from ovbench.harness.generation.imagenet_sources import LabelledSource, open_labelled
from ovbench.harness.generation.picture_data import PictureData
from tests.harness.generation.imagenet_tree import CLASSES, jpeg, make_parquet, make_tars, make_tree
from tests.harness.generation.test_crop_cache import EXPECTED, SIDE

USES = [5, 900, 7, 8, 9, 10, 11, 12, 13, 14, 15, 2**40]


@pytest.fixture
def source(tmp_path: Path) -> LabelledSource:
    return open_labelled(make_tree(tmp_path / "set"), split="train", expected_classes=3)


def data_of(source: LabelledSource, cache: Path | None = None, threads: int = 2) -> ImageNetPictures:
    return ImageNetPictures(source, side_px=SIDE, cache=cache, threads=threads, shard_pictures=5)


def reference_random_crop(number: int, use: int, seed: int) -> np.ndarray:
    """torchvision's Resize(24) and RandomCrop(16), written down once more, with the place from our generator."""
    picture = Image.open(io.BytesIO(jpeg(number))).convert("RGB")
    width, height = picture.size
    short, long = (width, height) if width <= height else (height, width)
    new_long = int(24 * long / short)
    new = (24, new_long) if width <= height else (new_long, 24)
    pixels = np.asarray(picture.resize(new, Image.Resampling.BICUBIC))
    draw = numpy_generator(seed, "decoder/crop", use)
    top, left = draw.integers(new[1] - SIDE + 1), draw.integers(new[0] - SIDE + 1)
    return pixels[top : top + SIDE, left : left + SIDE]


def test_it_is_picture_data(source: LabelledSource) -> None:
    data: PictureData = data_of(source)
    assert (data.num_pictures, data.num_classes, data.side_px) == (12, 3, SIDE)
    assert data.name == "train (class folders), 16 px"
    labels = data.labels([11, 0, 4])
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]


def test_centre_crops_equal_the_reference_with_and_without_a_cache(source: LabelledSource, tmp_path: Path) -> None:
    cached = data_of(source, tmp_path / "cache")
    np.testing.assert_array_equal(data_of(source).images_u8(range(12)), EXPECTED)
    cached.prepare()
    np.testing.assert_array_equal(cached.images_u8(range(12)), EXPECTED)


def test_a_cache_that_is_not_filled_is_said_and_pixels_are_the_same(
    source: LabelledSource, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = data_of(source, tmp_path / "cache")
    np.testing.assert_array_equal(data.images_u8(range(12)), EXPECTED)
    np.testing.assert_array_equal(data.images_u8([3]), EXPECTED[[3]])
    assert caplog.text.count("the cache of crops is not filled") == 1


def test_a_filled_cache_decodes_nothing(
    source: LabelledSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = data_of(source, tmp_path / "cache")
    data.prepare()
    monkeypatch.setattr(source, "read_bytes", lambda index: pytest.fail("a picture was read"))
    np.testing.assert_array_equal(data.images_u8(range(12)), EXPECTED)


def test_random_crops_equal_the_reference(source: LabelledSource) -> None:
    crops = data_of(source).crops_u8(range(12), USES, seed=3)
    for number, use in enumerate(USES):
        np.testing.assert_array_equal(crops[number], reference_random_crop(number, use, 3))


def test_the_picture_behind_a_random_crop_equals_torchvisions(tmp_path: Path) -> None:
    transforms = require("torchvision.transforms")
    resize = transforms.Resize(24, interpolation=transforms.InterpolationMode.BICUBIC)
    folder = tmp_path / "set" / "train" / "n00000001"
    folder.mkdir(parents=True)
    sizes = ((40, 30), (30, 41), (33, 90), (24, 24), (91, 20), (17, 16))
    for number, size in enumerate(sizes):
        Image.open(io.BytesIO(jpeg(0))).resize(size).save(folder / f"{number}.png")
    source = open_labelled(tmp_path / "set", split="train", expected_classes=1)
    crops = data_of(source).crops_u8(range(len(sizes)), range(len(sizes)), seed=0)
    for number, crop in enumerate(crops):
        grown = np.asarray(resize(source.read(number)))
        draw = numpy_generator(0, "decoder/crop", number)
        top, left = draw.integers(grown.shape[0] - SIDE + 1), draw.integers(grown.shape[1] - SIDE + 1)
        np.testing.assert_array_equal(crop, grown[top : top + SIDE, left : left + SIDE])


def test_random_crops_take_every_place_evenly(source: LabelledSource) -> None:
    # picture 2 is 16×16 and grows to 24×24: 9 × 9 places, both borders among them
    grown = np.asarray(source.read(2).resize((24, 24), Image.Resampling.BICUBIC))
    places = {grown[top : top + 16, left : left + 16].tobytes(): (top, left) for top in range(9) for left in range(9)}
    crops = data_of(source, threads=1).crops_u8([2] * 900, range(900), seed=0)
    found = np.zeros((9, 9), int)
    for crop in crops:
        found[places[crop.tobytes()]] += 1
    assert found.min() > 0
    assert found.max() < 35  # 11.1 expected


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("size", [1, 5, 12])
def test_pixels_do_not_depend_on_batches_and_threads(
    source: LabelledSource, tmp_path: Path, threads: int, size: int
) -> None:
    data = data_of(source, tmp_path / "cache" if size == 5 else None, threads)
    data.prepare()
    order = [7, 0, 11, 3, 3, 10, 1, 2, 9, 5, 4, 6]
    parts = [slice(start, start + size) for start in range(0, 12, size)]
    images = np.concatenate([data.images_u8(order[part]) for part in parts])
    crops = np.concatenate([data.crops_u8(order[part], USES[part], seed=1) for part in parts])
    np.testing.assert_array_equal(images, EXPECTED[order])
    for place, (number, use) in enumerate(zip(order, USES, strict=True)):
        np.testing.assert_array_equal(crops[place], reference_random_crop(number, use, 1))


@pytest.mark.parametrize("maker", [make_tars, make_parquet])
def test_every_form_of_the_set_gives_the_same_pixels(
    source: LabelledSource, tmp_path: Path, maker: Callable[[Path], Path]
) -> None:
    other = open_labelled(maker(tmp_path / "other"), split="train", expected_classes=3, index_dir=tmp_path / "index")
    one, two = data_of(source), data_of(other)
    np.testing.assert_array_equal(one.images_u8(range(12)), two.images_u8(range(12)))
    np.testing.assert_array_equal(one.crops_u8(range(12), USES, 0), two.crops_u8(range(12), USES, 0))
    np.testing.assert_array_equal(one.labels(range(12)), two.labels(range(12)))


def test_the_digest_knows_pictures_and_geometry_but_not_the_cache(source: LabelledSource, tmp_path: Path) -> None:
    digest = data_of(source).digest
    assert digest == data_of(source, tmp_path / "cache", threads=1).digest
    assert digest != ImageNetPictures(source, side_px=8).digest
    (tmp_path / "set" / "train" / CLASSES[0] / "more.JPEG").write_bytes(jpeg(0))
    assert digest != data_of(open_labelled(tmp_path / "set", split="train", expected_classes=3)).digest


def test_an_empty_batch_is_empty(source: LabelledSource) -> None:
    data = data_of(source)
    assert data.images_u8([]).shape == data.crops_u8([], [], 0).shape == (0, SIDE, SIDE, 3)
    assert data.labels([]).shape == (0,)


def test_numbers_outside_and_unequal_uses_are_refused(source: LabelledSource) -> None:
    data = data_of(source)
    for index in (-1, 12):
        for call in (data.labels, data.images_u8, lambda numbers: data.crops_u8(numbers, [0], 0)):
            with pytest.raises(ConfigError, match=f"there is no picture {index}"):
                call([index])
    with pytest.raises(ConfigError, match="1 uses of 2 pictures"):
        data.crops_u8([0, 1], [0], 0)
    with pytest.raises(ConfigError, match="side and threads must be 1 or more"):
        ImageNetPictures(source, threads=0)


def test_a_picture_of_extreme_shape_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "train" / "n00000001"
    folder.mkdir(parents=True)
    Image.new("RGB", (1, 20_000)).save(folder / "thin.png")
    data = ImageNetPictures(open_labelled(tmp_path / "set", split="train", expected_classes=1), side_px=256)
    for call in (lambda: data.crops_u8([0], [0], 0), lambda: data.images_u8([0])):
        with pytest.raises(DataError, match="would grow to") as caught:
            call()
        assert caught.value.where.endswith("thin.png")


# --- prefetch --------------------------------------------------------------------------------------------------------


def test_prefetch_keeps_the_order() -> None:
    assert list(prefetch(range(20), lambda number: number * number)) == [number * number for number in range(20)]
    assert list(prefetch([], str)) == []


def test_prefetch_is_ahead_by_its_depth_and_no_more() -> None:
    taken: list[int] = []

    def batches() -> Iterator[int]:
        for number in range(10):
            taken.append(number)
            yield number

    stream = prefetch(batches(), str, depth=3)
    assert next(stream) == "0"
    assert taken == [0, 1, 2, 3]
    stream.close()  # type: ignore[attr-defined]


def test_prefetch_raises_an_error_at_its_turn() -> None:
    stream = prefetch([1, 1, 0, 1], lambda number: 1 // number)
    assert [next(stream), next(stream)] == [1, 1]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_prefetch_ends_its_thread_when_it_is_closed() -> None:
    names: set[str] = set()
    stream = prefetch(range(100), lambda number: names.add(threading.current_thread().name))
    next(stream)
    stream.close()  # type: ignore[attr-defined]
    assert names
    assert not names & {thread.name for thread in threading.enumerate()}


def test_prefetch_refuses_a_depth_of_nothing() -> None:
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        prefetch([], str, depth=0)
