"""The Fréchet distance over sample sizes, and its extrapolation."""

from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.metrics.fid_infinity import curve_sizes, frechet_curve
from ovbench.harness.metrics.frechet import frechet_from_features, moments_of

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()


def test_fid_infinity_is_dgm_evals() -> None:
    stats = moments_of(Z["a"], "real")
    curve = frechet_curve(stats.mu, stats.sigma, Z["b"], reference_n=400)
    assert curve.infinity == pytest.approx(ORACLE.golden_expected()["fid_infinity"]["value"], abs=1e-3)
    assert curve.sizes == curve_sizes(500)
    assert curve.sizes[0] == 50
    assert curve.sizes[-1] == 500
    assert curve.values[-1] == pytest.approx(frechet_from_features(Z["a"], Z["b"]).value, abs=1e-9)
    assert curve.slope > 0  # fewer images look worse


def test_fid_infinity_removes_the_bias_of_the_whole_set() -> None:
    whole, infinite = [], []
    for seed in range(8):
        rows = np.random.default_rng(seed).standard_normal((800, 60))  # true distance to the reference: 0.25 * 60
        curve = frechet_curve(np.zeros(60), 0.25 * np.eye(60), rows, sizes=range(400, 801, 50))
        whole.append(curve.values[-1] - 15.0)
        infinite.append(curve.infinity - 15.0)
    assert np.mean(whole) > 0.3
    assert abs(np.mean(infinite)) < 0.25 * np.mean(whole)


def test_the_curve_depends_on_its_seed_alone() -> None:
    stats = moments_of(Z["a"], "real")
    curves = [frechet_curve(stats.mu, stats.sigma, Z["b"], sizes=(100, 200), seed=seed) for seed in (3, 3, 4)]
    assert curves[0] == curves[1]
    assert curves[0].values != curves[2].values


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((100, 501), "sizes must be between 2 and 500, got 501"),
        ((1, 100), "sizes must be between 2 and 500, got 1"),
        ((100, 100), "number of different sizes must be at least 2, got 1"),
        ((), "number of different sizes must be at least 2, got 0"),
    ],
)
def test_impossible_sizes_are_refused(sizes: tuple[int, ...], message: str) -> None:
    stats = moments_of(Z["a"], "real")
    with pytest.raises(ConfigError, match=message):
        frechet_curve(stats.mu, stats.sigma, Z["b"], sizes=sizes)
