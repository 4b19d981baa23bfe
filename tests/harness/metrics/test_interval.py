from __future__ import annotations

import statistics
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray

from ovbench.harness.metrics.interval import bootstrap_interval, mean_interval, wilson_interval
from ovbench.results.quantile import t_quantile


@pytest.mark.parametrize(
    ("df", "value"),
    [
        (1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (4, 2.7764451), (9, 2.2621572), (10, 2.2281389),
        (100, 1.9839715), (200, 1.9718962), (201, 1.9718365), (1000, 1.9623391), (100_000, 1.9599877),
    ],
)  # fmt: skip
def test_t_quantile_is_that_of_the_tables(df: int, value: float) -> None:
    assert t_quantile(df) == pytest.approx(value, abs=1e-6)


def _error(low: float | None, high: float | None, df: int) -> float:
    assert low is not None
    assert high is not None
    return (high - low) / 2 / t_quantile(df)


def test_the_clustered_error_is_the_oracles(oracle: ModuleType) -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2, size=300).astype(float)
    clusters = [f"image{number}" for number in generator.integers(0, 50, size=300)]
    interval = mean_interval(values, clusters)
    df = len(set(clusters)) - 1
    assert _error(interval.low, interval.high, df) == pytest.approx(oracle.clustered_error(values.tolist(), clusters))


def test_with_one_question_per_image_it_is_the_classic_error_of_a_mean() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0] * 4)
    interval = mean_interval(values, [str(index) for index in range(32)])
    classic = statistics.stdev(values.tolist()) / 32**0.5
    assert _error(interval.low, interval.high, 31) == pytest.approx(classic)


def test_repeating_every_question_does_not_narrow_the_interval() -> None:
    values = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    clusters = list("abcdef")
    once, thrice = mean_interval(values, clusters), mean_interval(np.tile(values, 3), clusters * 3)
    assert (once.low, once.high) == (pytest.approx(thrice.low), pytest.approx(thrice.high))


def test_the_order_of_questions_changes_nothing() -> None:
    generator = np.random.default_rng(1)
    values = generator.integers(0, 2, size=60).astype(float)
    clusters = [f"image{index % 20}" for index in range(60)]
    order = generator.permutation(60)
    other = mean_interval(values[order], [clusters[index] for index in order])
    assert mean_interval(values, clusters).low == pytest.approx(other.low)


def test_the_interval_stays_between_0_and_1() -> None:
    interval = mean_interval(np.array([1.0] * 19 + [0.0]), [str(index) for index in range(20)])
    assert interval.high == 1.0


@pytest.mark.parametrize(("value", "low", "high"), [(1.0, 0.6915029, 1.0), (0.0, 0.0, 0.3084971)])
def test_all_right_or_all_wrong_still_has_a_width(value: float, low: float, high: float) -> None:
    """Clopper-Pearson for 10 of 10: 0.025 ** (1 / 10)."""
    interval = mean_interval(np.full(30, value), [str(index % 10) for index in range(30)])
    assert (interval.low, interval.high) == (pytest.approx(low, abs=1e-6), pytest.approx(high, abs=1e-6))
    assert interval.method == "Clopper-Pearson, 10 images"


def test_one_image_gives_no_interval() -> None:
    interval = mean_interval(np.array([1.0, 0.0]), ["a", "a"])
    assert (interval.low, interval.high) == (None, None)
    assert interval.method == "none: all questions are about one image"


def test_a_macro_mean_is_centred_on_the_mean_of_the_strata() -> None:
    values = np.array([1.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    interval = mean_interval(values, list("abcdef"), strata=["big"] * 4 + ["small"] * 2)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < (0.75 + 0.5) / 2 < interval.high


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (2, 10, 0.0567, 0.5098),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (15, 148, 0.0624, 0.1605),
        (81, 263, 0.2553, 0.3662),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilsons_interval_has_its_known_values(successes: int, n: int, low: float, high: float) -> None:
    interval = wilson_interval(successes / n, n, given="the balls")
    assert interval.low == pytest.approx(low, abs=1e-4)
    assert interval.high == pytest.approx(high, abs=1e-4)
    assert interval.method == f"Wilson, {n} images, given the balls"


def test_wilsons_bounds_are_where_the_score_test_turns() -> None:
    interval = wilson_interval(0.37, 83, given="x")
    for bound in (interval.low, interval.high):
        assert bound is not None
        assert abs(0.37 - bound) / (bound * (1 - bound) / 83) ** 0.5 == pytest.approx(1.959964, abs=1e-6)


def _clustered_draws(generator: np.random.Generator, images: int, per_image: int) -> NDArray[np.float64]:
    """Questions whose chance to be right is a property of their image: mean 0.6, strongly correlated within one."""
    chance = generator.beta(1.2, 0.8, size=images)
    return (generator.random((images, per_image)) < chance[:, None]).astype(float)


def _naive(values: NDArray[np.float64]) -> tuple[float, float]:
    half = 1.96 * values.std(ddof=1) / values.size**0.5
    return values.mean() - half, values.mean() + half


def test_the_clustered_interval_covers_and_the_naive_one_does_not() -> None:
    generator = np.random.default_rng(3)
    images, per_image, repeats, truth = 60, 6, 1500, 0.6
    clusters = [f"image{index // per_image}" for index in range(images * per_image)]
    hits = naive_hits = 0
    for _ in range(repeats):
        values = _clustered_draws(generator, images, per_image).ravel()
        interval = mean_interval(values, clusters)
        assert interval.low is not None
        assert interval.high is not None
        low, high = _naive(values)
        hits += interval.low <= truth <= interval.high
        naive_hits += low <= truth <= high
    assert 0.93 <= hits / repeats <= 0.97
    assert naive_hits / repeats < 0.85


def test_the_macro_interval_covers_where_strata_share_images() -> None:
    generator = np.random.default_rng(4)
    images, per_image, repeats = 60, 4, 800
    strata = ["common", "common", "common", "rare"] * images
    clusters = [f"image{index // per_image}" for index in range(images * per_image)]
    hits = 0
    for _ in range(repeats):
        interval = mean_interval(_clustered_draws(generator, images, per_image).ravel(), clusters, strata=strata)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.6 <= interval.high
    assert 0.92 <= hits / repeats <= 0.975


def _ratio(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, 0] / sums[:, 1]


def test_the_bootstrap_of_a_mean_agrees_with_the_clustered_error() -> None:
    generator = np.random.default_rng(5)
    table = _clustered_draws(generator, 300, 4)
    counts = np.stack([table.sum(axis=1), np.full(300, 4.0)], axis=1)
    drawn = bootstrap_interval(counts, _ratio, label="t")
    exact = mean_interval(table.ravel(), [str(index // 4) for index in range(1200)])
    assert (drawn.low, drawn.high) == (pytest.approx(exact.low, abs=0.006), pytest.approx(exact.high, abs=0.006))


def test_the_bootstrap_is_repeatable_and_depends_on_its_label() -> None:
    counts = np.random.default_rng(6).integers(1, 9, size=(50, 2)).astype(float)
    first = bootstrap_interval(counts, _ratio, label="a")
    assert first == bootstrap_interval(counts, _ratio, label="a")
    assert first != bootstrap_interval(counts, _ratio, label="b")


def test_a_draw_does_not_depend_on_how_many_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(6).integers(1, 9, size=(50, 2)).astype(float)
    whole = bootstrap_interval(counts, _ratio, label="a")
    monkeypatch.setattr("ovbench.harness.metrics.interval._MAX_CELLS", 50 * 7)
    assert bootstrap_interval(counts, _ratio, label="a") == whole


def test_undefined_draws_are_left_out_and_counted() -> None:
    counts = np.array([[1.0, 2.0], [0.0, 0.0], [1.0, 1.0]])
    interval = bootstrap_interval(counts, _ratio, label="a")
    assert interval.low is not None
    assert "draws undefined" in interval.method


def test_too_many_undefined_draws_give_no_interval() -> None:
    counts = np.zeros((40, 2))
    interval = bootstrap_interval(counts, _ratio, label="a")
    assert interval.low is None
    assert interval.method == "none: 1000 of 1000 bootstrap draws have no value"


def test_draws_that_never_differ_claim_no_certainty() -> None:
    interval = bootstrap_interval(np.ones((40, 2)), _ratio, label="a")
    assert interval.low is None
    assert "same value" in interval.method
