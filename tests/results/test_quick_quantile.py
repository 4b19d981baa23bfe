from __future__ import annotations

import math

import pytest

from ovbench.results.quantile import quick_t_quantile, t_quantile


@pytest.mark.parametrize("dof", [1.0, 1.3, 2.0, 3.7, 9.0, 9.01, 30.0, 1234.5, 1e5, 1e7, math.inf])
def test_the_quick_quantile_is_the_other_one(dof: float) -> None:
    assert quick_t_quantile(dof) == pytest.approx(t_quantile(dof), rel=1e-8)


@pytest.mark.parametrize(("dof", "value"), [(1, 12.706204736), (4, 2.776445105), (10, 2.228138852), (120, 1.979930405)])
def test_it_gives_the_values_of_printed_tables(dof: float, value: float) -> None:
    assert quick_t_quantile(dof) == pytest.approx(value, abs=1e-8)


def test_less_than_one_degree_of_freedom_is_refused() -> None:
    with pytest.raises(ValueError, match="no t quantile"):
        quick_t_quantile(0.5)
