"""Student's t quantile in plain Python: results need no SciPy."""

from __future__ import annotations

import functools
import math

_POINTS = 400  # Simpson intervals; the integrand is smooth, so the error is far below 1e-8


@functools.cache
def t_quantile(dof: float, level: float = 0.95) -> float:
    """Returns q with P(|T| <= q) = `level` for Student's t.

    With T = sqrt(dof) tan(a), P(|T| <= q) is the integral of cos(a)^(dof - 1) up to atan(q / sqrt(dof)), scaled by
    2 Gamma((dof + 1) / 2) / (sqrt(pi) Gamma(dof / 2)).

    Args:
        dof: Degrees of freedom, at least 1, need not be whole; `math.inf` gives the normal quantile.
        level: Probability inside, in (0, 1).

    Raises:
        ValueError: An argument is out of range.
    """
    if not dof >= 1.0 or not 0.0 < level < 1.0:
        raise ValueError(f"no t quantile for {dof} degrees of freedom at level {level}")
    dof = min(dof, 1e7)  # the normal quantile to seven digits
    scale = 2.0 * math.exp(math.lgamma((dof + 1.0) / 2.0) - math.lgamma(dof / 2.0)) / math.sqrt(math.pi)
    # Trap: for many degrees of freedom the mass lies at tiny angles; searching to atan(40) would step over it.
    low, high = 0.0, math.atan(40.0 / math.sqrt(dof)) if dof > 2.0 else math.pi / 2.0
    for _ in range(60):
        middle = (low + high) / 2.0
        if scale * _integral(middle, dof - 1.0) < level:
            low = middle
        else:
            high = middle
    return math.sqrt(dof) * math.tan((low + high) / 2.0)


def _integral(angle: float, power: float) -> float:
    """Integrates cos(a)^power over [0, angle] by Simpson's rule."""
    step = angle / _POINTS
    total = 1.0 + math.cos(angle) ** power
    for index in range(1, _POINTS):
        total += (4.0 if index % 2 else 2.0) * math.cos(index * step) ** power
    return total * step / 3.0
