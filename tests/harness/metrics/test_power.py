from __future__ import annotations

import numpy as np
import pytest

from ovbench.harness.metrics.power import images_needed, spread_of


def test_a_large_sample_needs_what_the_normal_formula_says() -> None:
    """(1.95996 + 0.84162)^2 = 7.8489."""
    assert images_needed(0.01, 0.2, 0.8) == pytest.approx(7.8489 * 0.2 / 0.0001, rel=1e-3)


def test_a_small_sample_needs_more_because_of_t() -> None:
    """d = 1: 10 pairs (Cohen's tables for a paired t test)."""
    assert images_needed(1.0, 1.0, 0.8) in (10, 11)


def test_more_power_needs_more_and_no_difference_is_never_found() -> None:
    few, many = images_needed(0.02, 0.3, 0.8), images_needed(0.02, 0.3, 0.9)
    assert few is not None
    assert many is not None
    assert few < many
    assert images_needed(0.0, 0.3, 0.8) is None
    assert images_needed(1e-9, 0.3, 0.8) is None


def test_the_promised_power_is_kept_in_simulation() -> None:
    generator = np.random.default_rng(0)
    images = images_needed(0.3, 1.0, 0.8)
    assert images is not None
    draws = generator.normal(0.3, 1.0, size=(4000, images))
    t = draws.mean(axis=1) / draws.std(axis=1, ddof=1) * images**0.5
    assert np.mean(np.abs(t) > 1.985) == pytest.approx(0.8, abs=0.03)


def test_the_correlation_within_an_image_is_found() -> None:
    generator = np.random.default_rng(0)
    images, questions = 3000, 6
    shared = generator.normal(0, 0.3**0.5, size=(images, 1))
    values = shared + generator.normal(0, 0.7**0.5, size=(images, questions))
    found = spread_of(values.ravel(), np.repeat(np.arange(images), questions), images)
    assert found.correlation == pytest.approx(0.3, abs=0.03)
    assert found.variance == pytest.approx(1.0, abs=0.04)
    assert found.per_image == pytest.approx(6)
    assert found.of_image == pytest.approx((1 + 5 * 0.3) / 6, abs=0.03)


def test_one_question_an_image_has_no_correlation() -> None:
    values = np.array([1.0, -1.0, 0.0, 1.0])
    found = spread_of(values, np.arange(4), 4)
    assert found.variance == pytest.approx(values.var(ddof=1))
    assert (found.correlation, found.per_image) == (0.0, 1.0)
