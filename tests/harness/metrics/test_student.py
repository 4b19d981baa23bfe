from __future__ import annotations

import math

import pytest

from ovbench.harness.metrics.student import t_two_sided
from ovbench.results.quantile import t_quantile


@pytest.mark.parametrize(
    ("statistic", "dof", "p"),
    [
        (1.0, 1, 0.5), (12.7062047, 1, 0.05), (2.0, 3, 0.1393260), (-2.0, 3, 0.1393260), (2.5705818, 5, 0.05),
        (1.959963985, math.inf, 0.05), (3.290526731, math.inf, 0.001), (5.0, 499, 7.951452e-7), (0.0, 9, 1.0),
    ],
)  # fmt: skip
def test_p_is_that_of_the_tables(statistic: float, dof: float, p: float) -> None:
    assert t_two_sided(statistic, dof) == pytest.approx(p, rel=1e-6)


@pytest.mark.parametrize("dof", [1.0, 1.5, 2.0, 2.5, 7.0, 99.0, 499.0, 1e5])
def test_p_and_quantile_are_inverse(dof: float) -> None:
    assert t_two_sided(t_quantile(dof, 0.95), dof) == pytest.approx(0.05, abs=1e-6)


def test_an_endless_statistic_leaves_nothing() -> None:
    assert t_two_sided(math.inf, 4) == 0.0
