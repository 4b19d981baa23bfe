from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.reconstruction import pooled_psnr, psnr, squared_errors, ssim

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
X, Y = ORACLE.golden_pairs()
EXPECTED = ORACLE.golden_reconstruction()


def test_golden_psnr() -> None:
    found = psnr(X, Y)
    np.testing.assert_allclose(found, EXPECTED["psnr_per_image_mse_clamped_1e-10"], atol=1e-4)
    assert found.mean() == pytest.approx(EXPECTED["psnr_mean_of_per_image"], abs=1e-4)
    assert found[-1] == 100.0  # an identical pair
    assert squared_errors(X, Y).mean() == pytest.approx(EXPECTED["mse_mean_0_1"], abs=1e-8)


def test_pooled_psnr_is_another_number() -> None:
    assert pooled_psnr(X, Y) == pytest.approx(EXPECTED["psnr_from_global_mse (torchmetrics default)"], abs=1e-4)
    assert pooled_psnr(X, X) == float("inf")


def test_golden_ssim() -> None:
    found = ssim(X, Y)
    np.testing.assert_allclose(found, EXPECTED["ssim_torchmetrics_per_image_float64"], atol=1e-7)
    assert found.mean() == pytest.approx(EXPECTED["ssim_torchmetrics_mean_float64"], abs=1e-7)
    assert found.mean() == pytest.approx(EXPECTED["ssim_torchmetrics_mean_float32"], abs=1e-5)


def test_ssim_oracle_agrees() -> None:
    x, y = X[1:2, :12, :9], Y[1:2, :12, :9]
    assert ssim(x, y)[0] == pytest.approx(ORACLE.ssim(x[0], y[0]), abs=1e-9)


@pytest.mark.parametrize("size", [(6, 6), (11, 20), (33, 64)])
def test_torchmetrics_agrees_side_by_side(size: tuple[int, int]) -> None:
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (5, 3, *size), dtype=np.uint8)
    y = np.clip(x + generator.normal(0, 25, x.shape), 0, 255).astype(np.uint8)
    first, second = (torch.from_numpy(images).double() / 255 for images in (x, y))
    theirs = structural_similarity_index_measure(first, second, reduction="none", data_range=1.0)
    np.testing.assert_allclose(ssim(x, y, layout="nchw"), np.asarray(theirs), atol=1e-7)
    pooled = peak_signal_noise_ratio(first, second, data_range=1.0)
    assert pooled_psnr(x, y, layout="nchw") == pytest.approx(float(pooled), abs=1e-5)


def test_skimage_agrees_side_by_side() -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    framed = [np.pad(images, ((0, 0), (16, 16), (16, 16), (0, 0)), constant_values=90) for images in (X, Y)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255, "full": True}
    for x, y, own_psnr, own_ssim in zip(*framed, psnr(*framed), ssim(*framed), strict=True):
        if not np.array_equal(x, y):
            assert own_psnr == pytest.approx(metrics.peak_signal_noise_ratio(x, y, data_range=255), abs=1e-9)
        # The flat frame makes skimage's other treatment of the border, which repeats the edge pixel, equal to ours.
        _, similarity = metrics.structural_similarity(x, y, channel_axis=2, **options)
        assert own_ssim == pytest.approx(float(similarity.mean()), abs=1e-7)


def test_layout_and_batch_do_not_change_the_result() -> None:
    x, y = np.tile(X, (5, 1, 1, 1)), np.tile(Y, (5, 1, 1, 1))
    for score in (psnr, ssim):
        once = score(X, Y)
        np.testing.assert_allclose(score(x, y), np.tile(once, 5), atol=1e-12)
        planes = score(torch.from_numpy(X).permute(0, 3, 1, 2), torch.from_numpy(Y).permute(0, 3, 1, 2), layout="nchw")
        np.testing.assert_allclose(planes, once, atol=1e-12)


def test_dark_images_are_not_taken_for_01() -> None:
    dark = np.ones((1, 16, 16, 3), dtype=np.uint8)  # a maximum of 1 is still out of 255
    assert psnr(dark, np.zeros_like(dark))[0] == pytest.approx(20 * np.log10(255), abs=1e-9)


@pytest.mark.parametrize("score", [psnr, ssim, pooled_psnr])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X / 255.0, Y, "images must be uint8, got float64"),
        (X, Y[0], "must be a batch of four axes"),
        (X[:0], Y[:0], "must be a batch of four axes"),
        (X, Y[:4], "the pairs differ in shape"),
        (X, Y[:, :32], "the pairs differ in shape"),
    ],
)
def test_bad_pairs_are_refused(score: Any, x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        score(x, y)


def test_too_small_images_and_unknown_layouts_are_refused() -> None:
    with pytest.raises(DataError, match="SSIM needs images of at least 6 px a side, got 5"):
        ssim(X[:, :5], Y[:, :5])
    layout: Any = "hwc"
    with pytest.raises(ConfigError, match="unknown layout 'hwc'"):
        psnr(X, Y, layout=layout)
