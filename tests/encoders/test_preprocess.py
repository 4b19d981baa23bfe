"""Preprocessing equals the reference programs bit for bit: PIL, transformers' PIL processor, LLaVA, ADM and RAE."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
import torch
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.torchvision_shim import allow_torchvision
from ovbench.encoders import preprocess
from ovbench.encoders.base import PreprocessSpec, Resample
from ovbench.encoders.preprocess import (
    HALF,
    IMAGENET,
    OPENAI_CLIP,
    adm_center_crop,
    pad_colour_of,
    resize,
    resize_for,
    to_01,
    u8_to_01,
    with_aspect,
    with_size,
)

KERNELS: dict[Resample, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# (width, height): odd and even on either side, squares, smaller than the crop, and strips
SHAPES = [
    (50, 30), (30, 50), (33, 33), (24, 24), (25, 24), (24, 25), (7, 11), (101, 67), (67, 101), (48, 96),
    (1, 1), (1, 90), (90, 1), (2, 301), (301, 3), (640, 427), (427, 640), (500, 375), (333, 500),
]  # fmt: skip


def noise(width: int, height: int) -> Image.Image:
    generator = np.random.default_rng(1000 * width + height)
    return Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8))


def same(ours: Image.Image, theirs: Image.Image | np.ndarray) -> bool:
    return np.array_equal(np.asarray(ours), np.asarray(theirs))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("shape", SHAPES)
def test_squash_equals_pil(shape: tuple[int, int], kernel: Resample) -> None:
    picture = noise(*shape)
    ours = resize(picture, PreprocessSpec(size=(20, 24), resample=kernel))
    assert same(ours, picture.resize((24, 20), KERNELS[kernel]))


def test_a_picture_of_the_right_size_keeps_its_pixels() -> None:
    assert same(resize(noise(50, 30), PreprocessSpec(size=(30, 50))), noise(50, 30))


def transformers_crop(picture: Image.Image, short_side: int, crop: int, kernel: Resample) -> np.ndarray:
    """Returns uint8 [H, W, 3] from the PIL processor of transformers."""
    allow_torchvision()
    module = importlib.import_module("transformers.models.clip.image_processing_pil_clip")
    processor = module.CLIPImageProcessorPil(
        size={"shortest_edge": short_side},
        crop_size={"height": crop, "width": crop},
        resample=KERNELS[kernel],
        do_rescale=False,
        do_normalize=False,
    )
    return processor(picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("short_side", "crop"), [(24, 24), (33, 33), (32, 28), (27, 24), (20, 25), (21, 24)])
@pytest.mark.parametrize("shape", SHAPES)
def test_crop_equals_transformers(shape: tuple[int, int], short_side: int, crop: int, kernel: Resample) -> None:
    picture = noise(*shape)
    spec = PreprocessSpec(size=(crop, crop), resample=kernel, aspect="crop", short_side=short_side)
    assert same(resize(picture, spec), transformers_crop(picture, short_side, crop, kernel))


@pytest.mark.parametrize("size", [14, 24, 37, 224])
def test_crop_without_a_short_side_uses_that_of_the_input(size: int) -> None:
    for width in range(20, 60, 3):
        for height in range(20, 60, 4):
            picture = noise(width, height)
            ours = resize(picture, PreprocessSpec(size=(size, size), aspect="crop"))
            assert same(ours, transformers_crop(picture, size, size, "bicubic"))


def test_crop_equals_pil_calls_written_out() -> None:
    picture = noise(101, 67)
    resized = picture.resize((int(32 * 101 / 67), 32), Image.Resampling.BICUBIC)  # 48.2… is cut to 48
    assert resized.size == (48, 32)
    expected = resized.crop((10, 2, 10 + 28, 2 + 28))
    assert same(resize(picture, PreprocessSpec(size=(28, 28), aspect="crop", short_side=32)), expected)


def test_crop_of_a_picture_smaller_than_the_crop_has_black_borders() -> None:
    ours = np.asarray(
        resize(Image.new("RGB", (9, 9), "white"), PreprocessSpec(size=(7, 7), aspect="crop", short_side=4))
    )
    white = ours[..., 0] == 255
    assert white.sum() == 16
    assert white[2:6, 2:6].all()


@pytest.mark.parametrize("shape", SHAPES)
def test_crop_to_an_oblong_covers_it_and_cuts_one_way_alone(shape: tuple[int, int]) -> None:
    white = Image.new("RGB", shape, "white")
    for size in ((16, 32), (32, 16), (30, 31)):
        assert resize(white, PreprocessSpec(size=size, aspect="crop")).getextrema() == ((255, 255),) * 3
    if shape == (48, 96):
        picture = noise(*shape)
        whole = picture.resize((32, 64), Image.Resampling.BICUBIC)
        assert same(resize(picture, PreprocessSpec(size=(16, 32), aspect="crop")), np.asarray(whole)[24:40])


def llava_expand2square(picture: Image.Image, background: tuple[int, ...]) -> Image.Image:
    """Returns what llava/mm_utils.py makes of a picture, in its own words."""
    width, height = picture.size
    if width == height:
        return picture
    if width > height:
        result = Image.new(picture.mode, (width, width), background)
        result.paste(picture, (0, (width - height) // 2))
        return result
    result = Image.new(picture.mode, (height, height), background)
    result.paste(picture, ((height - width) // 2, 0))
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_pad_equals_llava(shape: tuple[int, int]) -> None:
    picture = noise(*shape)
    square = llava_expand2square(picture, tuple(int(x * 255) for x in OPENAI_CLIP.mean))
    spec = with_aspect(PreprocessSpec(size=(28, 28)), "pad", OPENAI_CLIP.mean)
    assert same(resize(picture, spec), transformers_crop(square, 28, 28, "bicubic"))


def test_pad_keeps_the_whole_picture_centred_on_the_colour() -> None:
    padded = np.asarray(resize(noise(50, 31), PreprocessSpec(size=(50, 50), aspect="pad", pad_colour=(1, 2, 3))))
    assert (padded[:9] == (1, 2, 3)).all()
    assert (padded[40:] == (1, 2, 3)).all()
    assert np.array_equal(padded[9:40], np.asarray(noise(50, 31)))


@pytest.mark.parametrize(
    ("mean", "colour"),
    [
        (OPENAI_CLIP.mean, (122, 116, 104)),
        (IMAGENET.mean, (123, 116, 103)),
        (HALF.mean, (127, 127, 127)),
        ((0.0, 1.0, 0.999), (0, 255, 254)),
    ],
)
def test_pad_colour_is_cut_not_rounded(mean: tuple[float, float, float], colour: tuple[int, int, int]) -> None:
    assert pad_colour_of(mean) == colour


def test_constants_are_those_of_transformers() -> None:
    theirs = importlib.import_module("transformers.image_utils")
    assert (list(IMAGENET.mean), list(IMAGENET.std)) == (theirs.IMAGENET_DEFAULT_MEAN, theirs.IMAGENET_DEFAULT_STD)
    assert (list(OPENAI_CLIP.mean), list(OPENAI_CLIP.std)) == (theirs.OPENAI_CLIP_MEAN, theirs.OPENAI_CLIP_STD)
    assert (list(HALF.mean), list(HALF.std)) == (theirs.IMAGENET_STANDARD_MEAN, theirs.IMAGENET_STANDARD_STD)


def test_tensor_processors_differ_from_pil_by_at_most_one_grey_level() -> None:
    """transformers' default classes resize uint8 tensors with torchvision, which is why none of them is run here."""
    allow_torchvision()
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    module = importlib.import_module("transformers.models.clip.image_processing_clip")
    processor = module.CLIPImageProcessor(
        size={"shortest_edge": 24},
        crop_size={"height": 24, "width": 24},
        do_rescale=False,
        do_normalize=False,
    )
    largest = 0
    for width, height in [(50, 30), (101, 67), (427, 640)]:
        picture = noise(width, height)
        theirs = processor(picture, return_tensors="pt")["pixel_values"][0].numpy().transpose(1, 2, 0)
        ours = np.asarray(resize(picture, PreprocessSpec(size=(24, 24), aspect="crop")))
        assert same(Image.fromarray(ours), transformers_crop(picture, 24, 24, "bicubic"))
        largest = max(largest, int(np.abs(theirs.astype(int) - ours.astype(int)).max()))
    assert largest <= 1


def test_a_grey_picture_becomes_rgb_before_it_is_resized() -> None:
    grey = noise(50, 30).convert("L")
    for aspect in ("squash", "crop", "pad"):
        spec = PreprocessSpec(size=(24, 24), aspect=aspect)
        ours = resize(grey, spec)
        assert ours.mode == "RGB"
        assert same(ours, resize(grey.convert("RGB"), spec))


def test_16_bit_grey_is_scaled_and_not_clipped_to_white() -> None:
    deep = Image.fromarray(np.full((8, 8), 257 * 100, np.uint16))
    assert np.asarray(resize(deep, PreprocessSpec(size=(4, 4)))).tolist() == [[[100] * 3] * 4] * 4


def test_a_strip_that_would_fill_the_memory_is_refused() -> None:
    strip = Image.new("RGB", (2, 65000))
    with pytest.raises(DataError, match="2×65000 pixels would grow to 224×7280000 under 'crop'") as crop:
        resize(strip, PreprocessSpec(size=(224, 224), aspect="crop"))
    assert "cut it to a less extreme shape" in crop.value.fix
    with pytest.raises(DataError, match="would grow to 65000×65000 under 'pad'"):
        resize(strip, PreprocessSpec(size=(224, 224), aspect="pad"))
    with pytest.raises(DataError, match="would grow to 256×8320000"):
        adm_center_crop(strip, 256)
    assert resize(strip, PreprocessSpec(size=(224, 224))).size == (224, 224)


def test_a_picture_without_pixels_is_refused() -> None:
    with pytest.raises(DataError, match="a picture of 0×5 pixels has nothing to show"):
        resize(Image.new("RGB", (0, 5)), PreprocessSpec(size=(4, 4)))


def adm_oracle(picture: Image.Image, size: int) -> np.ndarray:
    """Returns guided diffusion's centre crop, with the halvings done as plain averages over pixel blocks."""
    values = np.asarray(picture).astype(np.float64)
    while min(values.shape[:2]) >= 2 * size:
        height, width = values.shape[0] // 2, values.shape[1] // 2
        if values.shape[:2] == (2 * height, 2 * width):
            blocks = values.reshape(height, 2, width, 2, 3)
            # PIL rounds after the horizontal pass and again after the vertical one
            values = np.floor(np.floor(blocks.mean(axis=3) + 0.5).mean(axis=1) + 0.5)
        else:
            small = Image.fromarray(values.astype(np.uint8)).resize((width, height), Image.Resampling.BOX)
            values = np.asarray(small).astype(np.float64)
    picture = Image.fromarray(values.astype(np.uint8))
    factor = size / min(picture.width, picture.height)
    picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.BICUBIC)
    top, left = math.floor((picture.height - size) / 2), math.floor((picture.width - size) / 2)
    return np.asarray(picture)[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [16, 17, 64])
@pytest.mark.parametrize(
    "shape", [(64, 64), (64, 96), (96, 64), (67, 101), (31, 33), (32, 32), (500, 375), (1, 9), (256, 128), (130, 129)]
)
def test_adm_crop_equals_guided_diffusion(shape: tuple[int, int], size: int) -> None:
    picture = noise(*shape)
    ours = adm_center_crop(picture, size)
    assert ours.size == (size, size)
    assert same(ours, adm_oracle(picture, size))


def test_adm_crop_of_grey_is_rgb() -> None:
    assert adm_center_crop(noise(40, 30).convert("L"), 16).mode == "RGB"


def cubic_at(values: np.ndarray, place: float) -> float:
    """Returns Keys' cubic with a = -0.75 through `values`, clamped at the edges: PyTorch's kernel without antialias."""
    a, first = -0.75, math.floor(place)
    total = 0.0
    for tap in range(first - 1, first + 3):
        d = abs(place - tap)
        weight = (a + 2) * d**3 - (a + 3) * d**2 + 1 if d <= 1 else a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
        total += weight * values[min(max(tap, 0), len(values) - 1)]
    return total


@pytest.mark.parametrize(("size", "new"), [((12, 10), (7, 9)), ((5, 6), (14, 14)), ((16, 16), (14, 16))])
def test_rae_resize_is_a_cubic_without_antialias_and_without_clamp(size: tuple[int, int], new: tuple[int, int]) -> None:
    images = np.random.default_rng(2).integers(0, 2, (1, 3, *size)).astype(np.float64)
    columns = [(x + 0.5) * size[1] / new[1] - 0.5 for x in range(new[1])]
    rows = [(y + 0.5) * size[0] / new[0] - 0.5 for y in range(new[0])]
    wide = np.stack([np.apply_along_axis(cubic_at, 3, images, x) for x in columns], axis=-1)
    expected = np.stack([np.apply_along_axis(cubic_at, 2, wide, y) for y in rows], axis=2)
    ours = resize_for(torch.from_numpy(images).float(), new)
    assert ours.shape == (1, 3, *new)
    assert ours.dtype == torch.float32
    assert np.abs(ours.numpy() - expected).max() < 1e-5
    assert ours.max() > 1.01
    assert ours.min() < -0.01


def test_rae_resize_leaves_the_right_size_alone() -> None:
    images = torch.rand(2, 3, 8, 9)
    assert resize_for(images, (8, 9)) is images


@pytest.mark.parametrize(
    "images", [torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 8, 8), torch.zeros(1, 4, 8, 8)]
)
def test_rae_resize_refuses_what_is_no_batch_of_pictures(images: torch.Tensor) -> None:
    with pytest.raises(ConfigError, match=r"images must be floating-point \[B, 3, H, W\], got torch\.\w+ \[") as error:
        resize_for(images, (4, 4))
    assert "u8_to_01" in error.value.fix


def test_values_are_the_bytes_over_255_in_float32() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    ours = to_01(Image.fromarray(every))
    assert ours.shape == (3, 16, 16)
    assert ours.dtype == torch.float32
    assert np.array_equal(ours.numpy(), every.transpose(2, 0, 1).astype(np.float32) / np.float32(255))
    assert (float(ours.min()), float(ours.max())) == (0.0, 1.0)


def test_a_batch_of_bytes_keeps_rows_columns_and_channels_apart() -> None:
    images = np.zeros((2, 4, 5, 3), np.uint8)
    images[1, 2, 3, 0] = 255
    ours = u8_to_01(images)
    assert ours.shape == (2, 3, 4, 5)
    assert ours.nonzero().tolist() == [[1, 0, 2, 3]]


def test_another_size_scales_the_short_side_in_proportion() -> None:
    dinov2 = PreprocessSpec(size=(224, 224), aspect="crop", short_side=256)
    assert with_size(dinov2, 448) == PreprocessSpec(size=(448, 448), aspect="crop", short_side=512)
    assert with_size(PreprocessSpec(size=(224, 224)), 256) == PreprocessSpec(size=(256, 256))
    with pytest.raises(ConfigError, match="the input size must be at least 1 pixel, got 0"):
        with_size(dinov2, 0)


def test_another_aspect_leaves_nothing_of_the_old_one() -> None:
    crop = PreprocessSpec(size=(224, 224), aspect="crop", short_side=256)
    pad = PreprocessSpec(size=(224, 224), aspect="pad", pad_colour=(122, 116, 104))
    assert with_aspect(crop, "squash", OPENAI_CLIP.mean) == PreprocessSpec(size=(224, 224))
    assert with_aspect(crop, "pad", OPENAI_CLIP.mean) == pad
    assert with_aspect(crop, "crop", OPENAI_CLIP.mean) == crop
    assert with_aspect(pad, "crop", OPENAI_CLIP.mean) == PreprocessSpec(size=(224, 224), aspect="crop")


def test_an_unknown_aspect_is_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown aspect 'padded'") as error:
        with_aspect(PreprocessSpec(size=(8, 8)), "padded", HALF.mean)
    assert error.value.fix.startswith("did you mean 'pad'?")


def test_padding_an_oblong_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="'pad' makes a square, and this encoder reads 8×16 pixels"):
        with_aspect(PreprocessSpec(size=(8, 16)), "pad", HALF.mean)


def test_preprocessing_does_not_change_the_picture_it_was_given() -> None:
    picture = noise(50, 30)
    for aspect in ("squash", "crop", "pad"):
        preprocess.resize(picture, PreprocessSpec(size=(24, 24), aspect=aspect))
    assert same(picture, noise(50, 30))
