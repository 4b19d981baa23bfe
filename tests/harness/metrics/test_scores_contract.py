"""Every score of generated pictures takes NumPy arrays and tensors, float32 and float64, and is what its formula says.

The oracles are slow, obvious code of `tests/oracles/generation.py`. LPIPS and the quantisation have files of their own.
"""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.seeding import numpy_generator
from ovbench.harness.metrics.cmmd import cmmd
from ovbench.harness.metrics.frechet import frechet_curve, frechet_distance, frechet_from_features
from ovbench.harness.metrics.inception_score import is_adm, is_tf
from ovbench.harness.metrics.jackknife import block_rows, jackknife_frechet, paired_frechet_difference
from ovbench.harness.metrics.kid import kid_full, kid_subsets
from ovbench.harness.metrics.manifold import density_coverage, precision_recall
from ovbench.harness.metrics.moments import Moments
from ovbench.harness.metrics.reconstruction import pooled_psnr, psnr, squared_errors, ssim

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
KINDS: dict[str, Callable[[np.ndarray], Any]] = {
    "numpy float64": lambda x: x.astype(np.float64),
    "numpy float32": lambda x: x.astype(np.float32),
    "torch float64": lambda x: torch.from_numpy(x.astype(np.float64)),
    "torch float32": lambda x: torch.from_numpy(x.astype(np.float32)),
}
# Multiples of 1/64 are the same numbers in float32, and so are the statistics that are handed over.
_draw = np.random.default_rng(12)
REAL, FAKE = (np.round((_draw.standard_normal((n, 7)) * s + m) * 64) / 64 for n, s, m in ((40, 1, 0), (52, 1.3, 0.4)))
FEW = np.round(_draw.standard_normal((5, 7)) * 64) / 64
LOGITS = np.round(_draw.standard_normal((47, 6)) * 3 * 64) / 64
MU, SIGMA = np.round(REAL.mean(axis=0) * 64) / 64, np.round(np.cov(REAL, rowvar=False) * 64) / 64
SIZES = (10, 20, 52)
BLOCKS = 5


def _moments(x: Any) -> list[float]:
    moments = Moments()
    moments.add(x)
    return [*moments.mean().tolist(), *moments.covariance().flatten().tolist()]


def _subset_draws(convention: str, size: int, count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """As the conventions are described: who draws, and from which set first."""
    draws, legacy = [], np.random.RandomState(2020 if convention == "torch-fidelity" else 0)
    for index in range(count):
        generator: Any = numpy_generator(0, "kid", index) if convention == "ovbench" else legacy
        if convention == "clean-fid":
            others = generator.choice(len(FAKE), size, replace=False)
            draws.append((generator.choice(len(REAL), size, replace=False), others))
        else:
            rows = generator.choice(len(REAL), size, replace=False)
            draws.append((rows, generator.choice(len(FAKE), size, replace=False)))
    return draws


def _subsets(convention: Any) -> tuple[Callable[..., list[float]], Callable[[], list[float]]]:
    def score(kind: Any) -> list[float]:
        found = kid_subsets(kind(REAL), kind(FAKE), convention=convention, num_subsets=4, subset_size=15)
        return [found.mean, found.std]

    return score, lambda: list(ORACLE.kid_subsets(REAL, FAKE, _subset_draws(convention, 15, 4)))


def _manifold(convention: Any, k: int) -> tuple[Callable[..., list[float]], Callable[[], list[float]]]:
    def score(kind: Any) -> list[float]:
        found = precision_recall(kind(REAL), kind(FAKE), k=k, convention=convention)
        return [found.precision, found.recall]

    def oracle() -> list[float]:
        wanted = ORACLE.manifold(REAL, FAKE, k, strict=convention == "prdc")
        return [wanted["precision"], wanted["recall"]]

    return score, oracle


def _density(kind: Any) -> list[float]:
    found = density_coverage(kind(REAL), kind(FAKE), k=4)
    return [found.density, found.coverage]


def _density_oracle() -> list[float]:
    wanted = ORACLE.manifold(REAL, FAKE, 4, strict=True)
    return [wanted["density"], wanted["coverage"]]


def _curve(kind: Any) -> list[float]:
    found = frechet_curve(kind(MU), kind(SIGMA), kind(FAKE), sizes=SIZES, seed=3)
    return [found.infinity, found.slope]


def _without_each_block() -> list[float]:
    parts = [np.delete(FAKE, rows, axis=0) for rows in block_rows(len(FAKE), BLOCKS, 0)]
    return [ORACLE.frechet(MU, SIGMA, *ORACLE.moments(part)) for part in parts]


def _jackknife(kind: Any) -> list[float]:
    found = jackknife_frechet(kind(FAKE), kind(MU), kind(SIGMA), num_blocks=BLOCKS, method="exact")
    return [found.value, *found.without_block, found.error, found.corrected]


def _jackknife_oracle() -> list[float]:
    value, left = ORACLE.frechet(MU, SIGMA, *ORACLE.moments(FAKE)), np.array(_without_each_block())
    error = np.sqrt((BLOCKS - 1) / BLOCKS * np.sum((left - left.mean()) ** 2))
    return [value, *left, error, BLOCKS * value - (BLOCKS - 1) * left.mean()]


def _tf_score(kind: Any) -> list[float]:
    found = is_tf(kind(LOGITS), num_splits=3)
    assert found.std is not None
    return [found.mean, found.std]


def _paired(kind: Any) -> list[float]:
    first, second = kind(REAL), kind(FAKE[: len(REAL)])
    return [paired_frechet_difference(first, second, kind(MU), kind(SIGMA), num_blocks=BLOCKS).value]


Score = tuple[Callable[[Any], list[float]], Callable[[], list[float]]]
SCORES: dict[str, Score] = {
    "moments": (
        lambda kind: _moments(kind(FAKE)),
        lambda: [value for part in ORACLE.moments(FAKE) for value in part.ravel()],
    ),
    "Fréchet distance of statistics": (
        lambda kind: [frechet_distance(kind(MU), kind(SIGMA), kind(MU[::-1].copy()), kind(SIGMA * 4)).value],
        lambda: [ORACLE.frechet(MU, SIGMA, MU[::-1], SIGMA * 4)],
    ),
    "Fréchet distance of features": (
        lambda kind: [frechet_from_features(kind(REAL), kind(FAKE)).value],
        lambda: [ORACLE.frechet(*ORACLE.moments(REAL), *ORACLE.moments(FAKE))],
    ),
    "Fréchet distance of few features": (
        lambda kind: [frechet_from_features(kind(FEW), kind(FEW[:4] + 1)).value],
        lambda: [ORACLE.frechet(*ORACLE.moments(FEW), *ORACLE.moments(FEW[:4] + 1))],
    ),
    "FID-infinity": (_curve, lambda: list(ORACLE.frechet_infinity(MU, SIGMA, FAKE, list(SIZES), 3))),
    "jackknife": (_jackknife, _jackknife_oracle),
    "paired difference": (
        _paired,
        lambda: [
            ORACLE.frechet(MU, SIGMA, *ORACLE.moments(REAL))
            - ORACLE.frechet(MU, SIGMA, *ORACLE.moments(FAKE[: len(REAL)]))
        ],
    ),
    "KID, all rows": (lambda kind: [kid_full(kind(REAL), kind(FAKE))], lambda: [ORACLE.kid(REAL, FAKE)]),
    "KID, subsets of ovbench": _subsets("ovbench"),
    "KID, subsets of torch-fidelity": _subsets("torch-fidelity"),
    "KID, subsets of clean-fid": _subsets("clean-fid"),
    "IS of ADM": (
        lambda kind: [is_adm(kind(LOGITS), split_size=20).mean],
        lambda: [ORACLE.inception_score_adm(LOGITS, 20)],
    ),
    "IS of torch-fidelity": (_tf_score, lambda: list(ORACLE.inception_score_tf(LOGITS, 3, 2020))),
    "precision and recall of ADM": _manifold("adm", 3),
    "precision and recall of torch-fidelity": _manifold("torch-fidelity", 3),
    "precision and recall of prdc": _manifold("prdc", 5),
    "density and coverage": (_density, _density_oracle),
    "CMMD": (lambda kind: [cmmd(kind(REAL), kind(FAKE))], lambda: [ORACLE.cmmd(REAL, FAKE)]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SCORES)
def test_every_score_is_its_oracles_for_numpy_and_torch(name: str, kind: str) -> None:
    score, oracle = SCORES[name]
    # Of a singular covariance the oracle adds up the roots of rounded zeros.
    tolerance = 1e-6 if "few" in name else 1e-9
    np.testing.assert_allclose(score(KINDS[kind]), oracle(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SCORES)
def test_no_score_changes_its_input(name: str) -> None:
    kept: list[tuple[np.ndarray, Any]] = []

    def kind(x: np.ndarray) -> Any:
        kept.append((x.copy(), torch.from_numpy(x.copy())))
        return kept[-1][1]

    SCORES[name][0](kind)
    assert kept
    assert all(np.array_equal(tensor.numpy(), before) for before, tensor in kept)


def _pairs() -> tuple[np.ndarray, np.ndarray]:
    x, y = ORACLE.golden_pairs()
    return x[:3, :14, :11], y[:3, :14, :11]


IMAGE_SCORES: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "squared error": (squared_errors, lambda x, y: [ORACLE.squared_error(a, b) for a, b in zip(x, y, strict=True)]),
    "PSNR": (psnr, lambda x, y: [ORACLE.psnr(a, b) for a, b in zip(x, y, strict=True)]),
    "pooled PSNR": (pooled_psnr, lambda x, y: ORACLE.pooled_psnr(x, y)),
    "SSIM": (ssim, lambda x, y: [ORACLE.ssim(a, b) for a, b in zip(x, y, strict=True)]),
}


@pytest.mark.parametrize("kind", ["numpy", "torch", "torch, channels second"])
@pytest.mark.parametrize("name", IMAGE_SCORES)
def test_every_score_of_pairs_is_its_oracles_for_numpy_and_torch(name: str, kind: str) -> None:
    x, y = _pairs()
    score, oracle = IMAGE_SCORES[name]
    first, second = (images if kind == "numpy" else torch.from_numpy(images) for images in (x, y))
    if kind.endswith("second"):
        first, second = first.permute(0, 3, 1, 2), second.permute(0, 3, 1, 2)  # type: ignore[union-attr]
        found = score(first, second, layout="nchw")
    else:
        found = score(first, second)
    assert np.asarray(found).dtype == np.float64
    np.testing.assert_allclose(found, oracle(x, y), rtol=1e-9)


def test_an_oracle_of_psnr_has_the_limit_of_equal_pictures() -> None:
    x, _ = _pairs()
    assert psnr(x, x).tolist() == pytest.approx([ORACLE.psnr(image, image) for image in x]) == [100.0] * 3
