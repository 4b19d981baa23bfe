from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.frechet import frechet_distance, frechet_from_features
from ovbench.harness.metrics.jackknife import (
    PairedDifference,
    block_rows,
    image_mean_interval,
    jackknife_frechet,
    paired_frechet_difference,
    paired_mean_difference,
)

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()
MU, SIGMA = ORACLE.moments(Z["a"])


class _Population:
    """A Gaussian generator with a known distance to the standard normal reference."""

    def __init__(self, dim: int) -> None:
        generator = np.random.default_rng(0)
        mixing = generator.standard_normal((dim, dim)) / 2
        sigma = mixing @ mixing.T + 0.2 * np.eye(dim)
        self.dim, self.mean, self.root = dim, np.full(dim, 0.3), np.linalg.cholesky(sigma)
        self.reference = np.zeros(dim), np.eye(dim)
        self.distance = frechet_distance(*self.reference, self.mean, sigma).value

    def draw(self, n: int, seed: int) -> np.ndarray:
        return np.random.default_rng(seed).standard_normal((n, self.dim)) @ self.root.T + self.mean


def _holds(interval: Any, value: float) -> bool:
    return interval.low <= value <= interval.high


@pytest.mark.parametrize(
    ("generated", "reference"), [("b", "a"), ("small_b", "a"), ("b", "small_a"), ("small_b", "small_a")]
)
def test_exact_distances_are_those_of_the_remaining_rows(generated: str, reference: str) -> None:
    mu, sigma = ORACLE.moments(Z[reference])
    rows, n = Z[generated], len(Z[reference])
    found = jackknife_frechet(rows, mu, sigma, n, num_blocks=10, seed=4, method="exact")
    for block, value in zip(block_rows(len(rows), 10, 4), found.without_block, strict=True):
        rest = np.delete(rows, block, axis=0)
        rest_mu, rest_sigma = ORACLE.moments(rest)
        expected = frechet_distance(mu, sigma, rest_mu, rest_sigma, n, len(rest)).value
        assert value == pytest.approx(expected, abs=2e-6)
    assert found.value == pytest.approx(frechet_from_features(rows, Z[reference]).value, abs=1e-9)


def test_error_and_bias_are_the_textbook_formulas() -> None:
    found = jackknife_frechet(torch.from_numpy(Z["b"]), torch.from_numpy(MU), torch.from_numpy(SIGMA), 400)
    values = np.array(found.without_block)
    assert found.error == pytest.approx(np.sqrt(49 / 50 * np.sum((values - values.mean()) ** 2)))
    assert found.bias == pytest.approx(49 * (values.mean() - found.value))
    assert found.corrected == found.value - found.bias
    for centre, interval in ((found.value, found.interval), (found.corrected, found.corrected_interval)):
        assert interval.low is not None
        assert interval.high is not None
        assert (interval.high - interval.low) / 2 / found.error == pytest.approx(2.0095752, abs=1e-6)  # t, 49 degrees
        assert (interval.high + interval.low) / 2 == pytest.approx(centre)
        assert "50 blocks, t with 49 degrees of freedom" in interval.method
    assert (found.num_blocks, found.num_images) == (50, 500)


def test_the_expansion_is_close_and_auto_takes_it_where_it_is_right() -> None:
    population = _Population(6)
    rows = population.draw(6000, 1)
    exact, fast, auto = (
        jackknife_frechet(rows, *population.reference, method=method) for method in ("exact", "second-order", "auto")
    )
    assert auto.method == "second-order"
    assert "two blocks checked" in auto.reason
    assert auto.without_block == fast.without_block
    assert fast.error == pytest.approx(exact.error, rel=1e-3)
    assert fast.corrected == pytest.approx(exact.corrected, abs=0.05 * exact.error)
    assert fast.without_block != exact.without_block


def test_auto_falls_back_where_the_expansion_is_wrong() -> None:
    fallback = jackknife_frechet(Z["b"], MU, SIGMA, 400)
    assert fallback.method == "exact"
    assert "the expansion was off by" in fallback.reason
    few = jackknife_frechet(Z["small_b"], MU, SIGMA, 400, num_blocks=10)
    assert few.reason == "too few images per dimension for an expansion"
    assert few.method == "exact"


def test_asking_for_the_expansion_gives_it_on_a_dead_channel_too() -> None:
    rows = Z["b"].copy()
    rows[:, 5] = 0.0
    fast, exact = (
        jackknife_frechet(rows, MU, SIGMA, 400, method=method, num_blocks=20) for method in ("second-order", "exact")
    )
    assert fast.error == pytest.approx(exact.error, rel=0.05)


@pytest.mark.parametrize("method", ["auto", "exact", "second-order"])
@pytest.mark.parametrize(("spread", "reference_spread"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_constant_features_or_references_have_an_error_too(method: Any, spread: float, reference_spread: float) -> None:
    rows = np.random.default_rng(0).standard_normal((200, 4)) * spread + 2.0
    found = jackknife_frechet(rows, np.zeros(4), np.eye(4) * reference_spread, 100, num_blocks=10, method=method)
    assert found.value == pytest.approx(
        float(np.sum(rows.mean(axis=0) ** 2))
        + 4 * reference_spread
        + (float(np.trace(np.cov(rows, rowvar=False))) if spread else 0.0)
    )
    assert found.error == pytest.approx(0.0, abs=1e-9) if spread == 0 else found.error > 0


def test_coverage_of_the_interval_is_nominal() -> None:
    """Seen over 400 sets of 400 images in 6 dimensions: 94.5 % around the corrected value; over 2000 others: 95.0 %."""
    population = _Population(6)
    found = [
        jackknife_frechet(population.draw(400, 1000 + trial), *population.reference, method="exact")
        for trial in range(400)
    ]
    covered = np.mean([_holds(one.corrected_interval, population.distance) for one in found])
    assert 0.93 <= covered <= 0.97
    mean_distance = float(np.mean([one.value for one in found]))  # what a set of this size scores on average
    assert 0.93 <= np.mean([_holds(one.interval, mean_distance) for one in found]) <= 0.97
    assert np.mean([one.error for one in found]) == pytest.approx(np.std([one.value for one in found]), rel=0.1)


def test_correction_removes_the_bias_of_a_small_sample() -> None:
    population = _Population(20)
    found = [jackknife_frechet(population.draw(400, trial), *population.reference) for trial in range(20)]
    plain = np.mean([one.value for one in found]) - population.distance
    corrected = np.mean([one.corrected for one in found]) - population.distance
    assert plain > 0
    assert abs(corrected) < 0.25 * plain


def test_order_of_the_file_cannot_narrow_the_interval() -> None:
    rows = Z["b"][np.argsort(Z["b"][:, 0])]  # sorted, as by class
    ours = jackknife_frechet(rows, MU, SIGMA, 400).error
    assert ours == pytest.approx(jackknife_frechet(Z["b"], MU, SIGMA, 400).error, rel=0.5)


def test_blocks_are_a_seeded_partition() -> None:
    blocks = block_rows(103, 10, 0)
    assert sorted(np.concatenate(blocks).tolist()) == list(range(103))
    assert {len(block) for block in blocks} == {10, 11}
    again, other = block_rows(103, 10, 0), block_rows(103, 10, 1)
    assert all(np.array_equal(one, two) for one, two in zip(blocks, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(blocks, other, strict=True))


def test_common_seeds_narrow_the_paired_interval() -> None:
    population = _Population(6)
    first = population.draw(2000, 3)
    second = first * 1.02 + 0.01 * np.random.default_rng(0).standard_normal(first.shape)
    paired = paired_frechet_difference(first, second, *population.reference)
    separate = [jackknife_frechet(rows, *population.reference) for rows in (first, second)]
    assert paired.value == pytest.approx(separate[0].value - separate[1].value)
    assert paired.error is not None
    assert paired.error < 0.3 * np.hypot(separate[0].error, separate[1].error)
    assert paired.interval.high is not None
    assert paired.interval.high < 0  # the second is worse, which the separate intervals cannot tell
    assert _holds(separate[0].interval, separate[1].value)
    same = paired_frechet_difference(first, first, *population.reference)
    assert (same.value, same.error) == (0.0, 0.0)


def _paired(num_trials: int) -> list[PairedDifference]:
    population, found = _Population(4), []
    for trial in range(num_trials):
        rows = population.draw(300, 7000 + trial)
        found.append(paired_frechet_difference(rows, rows * 1.1, *population.reference, method="exact"))
    return found


def test_the_paired_error_is_the_spread_of_the_difference() -> None:
    found = _paired(150)
    errors = [one.error for one in found if one.error is not None]
    assert len(errors) == 150
    assert np.mean(errors) == pytest.approx(np.std([one.value for one in found]), rel=0.15)


@pytest.mark.slow
def test_coverage_of_the_paired_interval_is_nominal() -> None:
    """Over 1500 other sets: 94.8 % here, 93.4 % with 1000 images in 6 dimensions."""
    found = _paired(1000)
    mean = float(np.mean([one.value for one in found]))
    assert 0.93 <= np.mean([_holds(one.interval, mean) for one in found]) <= 0.97


def test_mean_over_images_has_a_bootstrap_interval() -> None:
    values = np.random.default_rng(0).normal(30, 4, 400)
    interval = image_mean_interval(values, label="psnr")
    assert interval == image_mean_interval(values, label="psnr")
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < values.mean() < interval.high
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 * values.std() / 20, rel=0.1)
    assert "bootstrap over 400 images" in interval.method


def test_paired_means_use_the_same_images() -> None:
    first = np.random.default_rng(0).normal(30, 4, 400)
    second = first - 0.5 + np.random.default_rng(1).normal(0, 0.1, 400)
    found = paired_mean_difference(first, second, label="psnr")
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert found.interval.low is not None
    assert found.interval.high is not None
    assert 0.48 < found.interval.low < found.interval.high < 0.52


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"features": Z["b"][:, :10]}, DataError, "the features have 10 dimensions and the reference has 64"),
        ({"features": Z["b"][:1]}, DataError, "at least 2 rows are needed, got 1"),
        ({"features": np.full((500, 64), np.nan)}, DataError, "500 of 500 rows hold NaN"),
        ({"sigma": -SIGMA}, DataError, "not positive semidefinite"),
        ({"num_blocks": 1}, ConfigError, "num_blocks must be between 2 and 250, got 1"),
        ({"num_blocks": 251}, ConfigError, "num_blocks must be between 2 and 250, got 251"),
        ({"method": "bootstrap"}, ConfigError, "unknown jackknife method 'bootstrap'"),
    ],
)
def test_bad_input_is_refused(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        jackknife_frechet(**({"features": Z["b"], "mu": MU, "sigma": SIGMA} | change))


def test_bad_pairs_are_refused() -> None:
    with pytest.raises(DataError, match="two sets of one size, got 500 and 400"):
        paired_frechet_difference(Z["b"], Z["a"], MU, SIGMA)
    with pytest.raises(DataError, match="two sets of one size, got 3 and 2"):
        paired_mean_difference(np.ones(3), np.ones(2), label="psnr")
    with pytest.raises(DataError, match=r"one value for each of at least 2 images, got shape \[1\]"):
        image_mean_interval(np.ones(1), label="psnr")
    with pytest.raises(DataError, match="hold NaN or infinity"):
        image_mean_interval(np.array([1.0, np.inf]), label="psnr")
