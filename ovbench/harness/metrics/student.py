"""Two-sided p-values of Student's t in plain Python, beside the quantiles of `results/quantile.py`."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)  # the integrand is smooth


def t_two_sided(statistic: float, dof: float) -> float:
    """Returns P(|T| >= |statistic|) for Student's t, to a relative 1e-7.

    With T = sqrt(dof) tan(a) the density of the angle is proportional to cos(a)^(dof - 1); the tail is its integral
    from atan(|statistic| / sqrt(dof)) to pi / 2.

    Args:
        statistic: Any number; infinite gives 0.
        dof: Degrees of freedom, at least 1, need not be whole; `math.inf` is the normal distribution.
    """
    assert dof >= 1, "t needs a degree of freedom"
    size = abs(statistic)
    if math.isinf(size):
        return 0.0
    if dof > 1e6:
        return min(1.0, 2.0 * NormalDist().cdf(-size))
    start = math.atan(size / math.sqrt(dof))
    scale = 2.0 * math.exp(math.lgamma((dof + 1.0) / 2.0) - math.lgamma(dof / 2.0)) / math.sqrt(math.pi)
    # Trap: for many degrees of freedom the mass lies at tiny angles; the rest of the way holds nothing.
    end = min(math.pi / 2.0, start + 40.0 / math.sqrt(dof)) if dof > 2.0 else math.pi / 2.0
    edges = np.linspace(start, end, 9)
    total = 0.0
    for low, high in itertools.pairwise(edges):
        angles = (high - low) / 2.0 * _NODES + (high + low) / 2.0
        total += (high - low) / 2.0 * float(np.sum(_WEIGHTS * np.cos(angles) ** (dof - 1.0)))
    return float(min(1.0, scale * total))
