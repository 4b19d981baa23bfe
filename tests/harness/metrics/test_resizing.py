"""Every resize equals the code it is named after, at sizes where a wrong one shows."""

from __future__ import annotations

import hashlib
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cleanfid.resize import make_resizer
from PIL import Image
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

from ovbench._base.errors import ConfigError
from ovbench.harness.metrics.resizing import (
    RESIZES,
    Resize,
    pil_bicubic,
    pil_bicubic_matmul,
    pil_bicubic_u8,
    square_pil_bicubic_u8,
    tf1_bilinear,
    tf1_bilinear_gather,
    torch_bicubic,
    torch_bicubic_antialias,
    torch_bilinear,
    torch_bilinear_antialias,
)
from tests.harness.metrics.fid_data import SETS, golden, golden_pictures, nchw, pictures

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
DIFFERENT = ("64", "256", "512", "200x320")  # sizes that are changed


@pytest.mark.parametrize("name", SETS)
def test_the_pictures_are_the_golden_ones(name: str) -> None:
    wanted = golden()["sets"][name]["images_sha256"]
    assert hashlib.sha256(golden_pictures(name).tobytes()).hexdigest() == wanted


@pytest.mark.parametrize("name", SETS)
def test_tf1_equals_torch_fidelity_bit_for_bit(name: str) -> None:
    images = nchw(golden_pictures(name))
    wanted = interpolate_bilinear_2d_like_tensorflow1x(images.float(), size=(299, 299), align_corners=False)
    assert torch.equal(tf1_bilinear_gather(images, 299), wanted)


@pytest.mark.parametrize("name", SETS)
def test_tf1_by_matrices_equals_the_gathered_form(name: str) -> None:
    images = nchw(golden_pictures(name))
    assert float((tf1_bilinear(images, 299) - tf1_bilinear_gather(images, 299)).abs().max()) <= 3.1e-5


@pytest.mark.parametrize("name", SETS)
def test_tf1_gives_the_golden_grey_levels(name: str) -> None:
    # The golden file's positions are float64: in float32, as the graph has them, some grey levels move by 0.004.
    found = tf1_bilinear(nchw(golden_pictures(name)), 299).double()
    wanted = golden()["sets"][name]["resized_299_tf1"]
    assert found[0, 0, 0, :8].tolist() == pytest.approx(wanted["image0_channel0_row0_first8"], abs=5e-3)
    assert found[0, 0, 298, -4:].tolist() == pytest.approx(wanted["image0_channel0_row298_last4"], abs=5e-3)
    assert found[3, 1, 150, 100:108].tolist() == pytest.approx(wanted["image3_channel1_row150_cols100_107"], abs=5e-3)
    assert float(found.sum()) == pytest.approx(wanted["sum"], rel=1e-7)


def test_tf1_follows_its_formula_in_a_plain_loop() -> None:
    images = nchw(golden_pictures("200x320"))
    for resize in (tf1_bilinear_gather, tf1_bilinear):
        found = resize(images, 37)[0, 0].double().numpy()
        wanted = ORACLE.tf1_bilinear(images[0, 0].numpy().astype(np.float64), 37)
        np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.parametrize("name", SETS)
def test_pil_bicubic_equals_clean_fid(name: str) -> None:
    images = golden_pictures(name)
    clean = make_resizer("PIL", False, "bicubic", (299, 299))
    wanted = np.stack([clean(picture) for picture in images]).transpose(0, 3, 1, 2)
    found = pil_bicubic(nchw(images), 299)
    assert np.array_equal(found.numpy(), wanted)
    expected = golden()["sets"][name]["other_pipelines_2048"]["clean-fid mode clean (PIL bicubic float)"]
    assert float(found.double().sum()) == pytest.approx(expected["resized_sum"], rel=1e-7)


@pytest.mark.parametrize("name", SETS)
def test_the_devices_bicubic_equals_pils_within_a_four_hundredth_of_a_grey_level(name: str) -> None:
    images = nchw(golden_pictures(name))
    exact = pil_bicubic(images, 299)
    assert float((pil_bicubic_matmul(images, 299) - exact).abs().max()) <= 0.0025
    assert float((torch_bicubic_antialias(images, 299) - exact).abs().max()) <= 0.01


@pytest.mark.parametrize("name", SETS)
def test_torch_bilinear_equals_pytorch_fid_as_clean_fid_calls_it(name: str) -> None:
    images = golden_pictures(name)
    legacy = make_resizer("PyTorch", False, "bilinear", (299, 299))
    wanted = np.stack([legacy(picture) for picture in images]).transpose(0, 3, 1, 2)
    assert np.abs(torch_bilinear(nchw(images), 299).numpy() - wanted).max() <= 1e-4


@pytest.mark.parametrize("size", [64, 224, 300])
def test_rounded_bicubic_is_pils_own(size: int) -> None:
    images = golden_pictures("200x320")
    found = pil_bicubic_u8(nchw(images), size)
    for index, picture in enumerate(images):
        wanted = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
        assert np.array_equal(found[index].permute(1, 2, 0).numpy(), wanted)


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 61), (61, 40), (33, 32)])
def test_the_square_is_cut_and_resized_as_cmmds_program_does(height: int, width: int) -> None:
    images = pictures(height, width, 5)
    found = square_pil_bicubic_u8(nchw(images), 36)
    side, left, top = min(height, width), (width - min(height, width)) // 2, (height - min(height, width)) // 2
    for index, picture in enumerate(images):
        square = Image.fromarray(picture).crop((left, top, left + side, top + side))
        wanted = np.asarray(square.resize((36, 36), Image.Resampling.BICUBIC))
        assert np.array_equal(found[index].permute(1, 2, 0).numpy(), wanted)


def test_torch_bicubic_overshoots_and_is_not_clipped() -> None:
    edge = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    edge[..., 4:] = 255
    found = torch_bicubic(edge, 24)
    assert -40 < float(found.min()) < -10
    assert 265 < float(found.max()) < 295


def test_torch_bicubic_aliases_where_the_picture_shrinks() -> None:
    stripes = torch.zeros(1, 3, 64, 64, dtype=torch.uint8)
    stripes[..., ::4] = 255  # a quarter of the picture
    assert float(torch_bicubic_antialias(stripes, 16)[..., 2:-2].std()) < 1
    found = torch_bicubic(stripes, 15)
    assert float(found.std()) > 50


@pytest.mark.parametrize("name", DIFFERENT)
def test_no_two_resizes_are_the_same(name: str) -> None:
    images = nchw(golden_pictures(name))
    found = {key: resize(images, 299) for key, resize in RESIZES.items()}
    keys = list(found)
    for index, one in enumerate(keys):
        for other in keys[index + 1 :]:
            # Enlarging needs no antialiasing: there the two bilinear resizes of torch are one.
            enlarged = max(images.shape[2:]) <= 299 and {one, other} == {"torch-bilinear", "torch-bilinear-antialias"}
            if {one, other} == {"torch-bicubic-antialias", "pil-bicubic"}:
                continue  # one kernel, see above
            if {one, other} == {"pil-bicubic-u8", "square-pil-bicubic-u8"} and images.shape[2] == images.shape[3]:
                continue  # nothing is cut off a square
            far = float((found[one] - found[other]).abs().max())
            assert far < 1e-3 if enlarged else far > 0.1, (one, other)


def test_antialiasing_shows_where_the_picture_shrinks() -> None:
    images = nchw(golden_pictures("512"))
    assert float((torch_bilinear(images, 299) - torch_bilinear_antialias(images, 299)).abs().mean()) > 1


@pytest.mark.parametrize("name", RESIZES)
def test_at_the_size_asked_for_nothing_changes(name: str) -> None:
    images = nchw(golden_pictures("299"))
    assert float((RESIZES[name](images, 299) - images).abs().max()) <= 1e-4


@pytest.mark.parametrize("name", sorted(set(RESIZES) - {"torch-bicubic"}))
def test_the_result_is_float32_within_the_grey_levels(name: str) -> None:
    images = nchw(np.array([[[[0, 0, 0], [255, 255, 255]] * 8] * 16], dtype=np.uint8))
    found = RESIZES[name](images, 37)
    assert found.dtype == torch.float32
    assert found.shape == (1, 3, 37, 37)
    assert 0 <= float(found.min()) <= float(found.max()) <= 255 + 1e-4


def test_a_batch_in_another_memory_order_gives_the_same() -> None:
    images = nchw(golden_pictures("64"))
    for resize in RESIZES.values():
        assert torch.equal(resize(images.contiguous(memory_format=torch.channels_last), 99), resize(images, 99))


@pytest.mark.parametrize(
    ("images", "size", "message"),
    [
        (torch.zeros(2, 4, 8, 8), 4, r"must be \[B, 3, H, W\], got \[2, 4, 8, 8\]"),
        (torch.zeros(3, 8, 8), 4, r"must be \[B, 3, H, W\], got \[3, 8, 8\]"),
        (torch.zeros(1, 3, 0, 8), 4, r"got \[1, 3, 0, 8\]"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.int32), 4, "must be uint8 or floating point, got torch.int32"),
        (torch.zeros(1, 3, 8, 8), 0, "at least 1 pixel"),
    ],
)
def test_what_is_no_batch_of_pictures_is_refused(images: torch.Tensor, size: int, message: str) -> None:
    for resize in RESIZES.values():
        with pytest.raises(ConfigError, match=message):
            resize(images, size)


@pytest.mark.parametrize("resize", [pil_bicubic_u8, square_pil_bicubic_u8])
def test_the_rounded_resizes_refuse_floating_point_pictures(resize: Resize) -> None:
    with pytest.raises(ConfigError, match="reads uint8 pictures"):
        resize(torch.zeros(1, 3, 8, 8), 4)
