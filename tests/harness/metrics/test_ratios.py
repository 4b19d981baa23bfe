from __future__ import annotations

import math

import numpy as np
import pytest

from ovbench.harness.metrics.interval import mean_interval
from ovbench.harness.metrics.ratios import Ratios, clustered_error
from ovbench.results.quantile import t_quantile


def _random(columns: int, *, images: int = 40, is_mean: bool = False) -> Ratios:
    generator = np.random.default_rng(columns)
    den = generator.integers(1, 9, size=(images, columns)).astype(float)
    num = np.floor(den * generator.random((images, columns)))
    return Ratios(num=num, den=den, weights=np.linspace(0.5, 1.0, columns), is_mean=is_mean)


def test_the_value_is_the_weighted_sum_of_the_ratios_of_sums() -> None:
    ratios = _random(2)
    by_hand = sum(w * n / d for w, n, d in zip(ratios.weights, ratios.num.sum(0), ratios.den.sum(0), strict=True))
    assert ratios.value == pytest.approx(by_hand)


def test_a_ratio_without_a_denominator_has_no_value() -> None:
    assert math.isnan(Ratios(num=np.zeros((3, 1)), den=np.zeros((3, 1)), weights=np.ones(1), is_mean=False).value)


def test_influences_sum_to_nothing() -> None:
    assert _random(3).influence().sum() == pytest.approx(0.0, abs=1e-12)


def test_influence_is_the_derivative_by_the_weight_of_an_image() -> None:
    ratios, step = _random(2), 1e-6
    for image in (0, 7):
        weights = np.ones(ratios.num_images)
        weights[image] += step
        moved = ratios.of_sums((weights @ ratios.num)[None], (weights @ ratios.den)[None])[0]
        assert (moved - ratios.value) / step == pytest.approx(ratios.influence()[image], rel=1e-4, abs=1e-9)


def test_the_error_of_a_mean_is_that_of_its_interval() -> None:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 2, size=120).astype(float)
    images = generator.integers(0, 30, size=120)
    num, den = (np.bincount(images, weights=part, minlength=30).astype(float) for part in (values, np.ones(120)))
    ratios = Ratios(num=num[:, None], den=den[:, None], weights=np.ones(1), is_mean=True)
    interval = mean_interval(values, [f"{image:02d}" for image in images])
    assert interval.low is not None
    assert interval.high is not None
    half = (interval.high - interval.low) / 2
    assert t_quantile(29) * clustered_error(ratios.influence()) == pytest.approx(half)
