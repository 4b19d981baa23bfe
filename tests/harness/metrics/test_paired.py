from __future__ import annotations

import numpy as np
import pytest

from ovbench.harness.metrics.paired import compare_scores, mean_of
from ovbench.harness.metrics.ratios import Ratios
from ovbench.results.quantile import t_quantile


def _mean(values: np.ndarray) -> Ratios:
    """Values [images, questions]."""
    count = np.full((len(values), 1), float(values.shape[1]))
    return Ratios(num=values.sum(axis=1, keepdims=True), den=count, weights=np.ones(1), is_mean=True)


def _values(seed: int, images: int = 60, questions: int = 5) -> np.ndarray:
    generator = np.random.default_rng(seed)
    return (generator.random((images, questions)) < generator.beta(3, 1, size=(images, 1))).astype(float)


def test_with_one_question_an_image_the_error_is_that_of_a_paired_t_test() -> None:
    first, second = _values(0, 50, 1), _values(1, 50, 1)
    found = compare_scores(_mean(first), _mean(second), label="x")
    gaps = (first - second)[:, 0]
    assert found.error == pytest.approx(gaps.std(ddof=1) / 50**0.5)
    assert found.interval.high == pytest.approx(gaps.mean() + t_quantile(49) * found.error)


def test_what_both_share_cancels() -> None:
    first = _values(0)
    second = first.copy()
    second[::7, 0] = 0.0
    found = compare_scores(_mean(first), _mean(second), label="x")
    apart = compare_scores(_mean(first), _mean(_values(9)), label="x")
    assert found.error < apart.error / 2


def test_clustered_and_bootstrap_intervals_agree_in_size() -> None:
    found = compare_scores(_mean(_values(0, 300)), _mean(_values(1, 300)), label="x")
    widths = [(entry.high or 0) - (entry.low or 0) for entry in (found.clustered, found.bootstrap)]
    assert widths[0] == pytest.approx(widths[1], rel=0.1)
    assert found.interval == found.clustered


def test_a_ratio_reports_its_bootstrap() -> None:
    generator = np.random.default_rng(0)
    sides = []
    for _ in range(2):
        den = generator.integers(2, 8, size=(80, 1)).astype(float)
        sides.append(Ratios(num=np.floor(den * generator.random((80, 1))), den=den, weights=np.ones(1), is_mean=False))
    found = compare_scores(*sides, label="x")
    assert found.interval == found.bootstrap
    assert found.interval.method.startswith("paired bootstrap over 80 images")


def test_asking_every_question_twice_changes_nothing() -> None:
    first, second = _values(0), _values(1)
    once = compare_scores(_mean(first), _mean(second), label="x")
    twice = compare_scores(_mean(np.tile(first, 2)), _mean(np.tile(second, 2)), label="x")
    assert twice.error == pytest.approx(once.error)
    assert twice.test.p == once.test.p
    assert (twice.interval.low, twice.interval.high) == (
        pytest.approx(once.interval.low),
        pytest.approx(once.interval.high),
    )


def test_one_image_has_no_interval() -> None:
    found = compare_scores(_mean(np.ones((1, 4))), _mean(np.zeros((1, 4))), label="x")
    assert found.interval.low is None
    assert found.interval.method == "none: all questions are about one image"


def test_few_differing_images_are_warned_about() -> None:
    first = np.ones((40, 3))
    second = first.copy()
    second[:3] = 0.0
    found = compare_scores(_mean(first), _mean(second), label="x")
    assert found.notes == ("only 3 images differ: trust the p-value, not the interval",)
    assert found.test.p == pytest.approx(2 / 8)


def test_seeds_average_question_by_question() -> None:
    found = [compare_scores(_mean(_values(seed)), _mean(_values(seed + 50)), label="x") for seed in range(3)]
    value, error = mean_of(found)
    assert value == pytest.approx(np.mean([entry.value for entry in found]))
    assert error < np.mean([entry.error for entry in found])
