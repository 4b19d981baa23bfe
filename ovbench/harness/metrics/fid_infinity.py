"""FID-infinity: the Fréchet distance as a function of the sample size, and its extrapolation to an infinite sample.

Source: Chong & Forsyth, Effectively Unbiased FID and Inception Score and Where to Find Them (arXiv:1911.07023).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ovbench._base.errors import DataError
from ovbench.harness.metrics.frechet import Gaussian, frechet_between, gaussian, moments_of
from ovbench.harness.metrics.moments import Features, check_count, check_features


@dataclass(frozen=True, kw_only=True, slots=True)
class FrechetCurve:
    """The distance at several sizes of the generated set, and the line through them in 1/n."""

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    infinity: float  # intercept of the least-squares line at 1/n = 0
    slope: float  # feature units squared, times images
    seed: int


def curve_sizes(num_generated: int, *, num_points: int = 15, start: int | None = None) -> tuple[int, ...]:
    """Returns the sizes of the FID-infinity fit, evenly spaced from `start` to all.

    Source: layer6ai-labs/dgm-eval `fd.py`, compute_FD_infinity: the default start is min(5000, max(n // 10, 2)).
    """
    check_count(num_points, "num_points", low=2)
    first = min(5000, max(num_generated // 10, 2)) if start is None else start
    check_count(first, "start", low=2, high=num_generated)
    return tuple(int(size) for size in np.linspace(first, num_generated, num_points).astype(np.int64))


def frechet_curve(
    reference_mu: Features,
    reference_sigma: Features,
    generated: Features,
    *,
    reference_n: int | None = None,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> FrechetCurve:
    """Returns FD(n) on random subsets of the generated set, and its extrapolation to an infinite set.

    FD(n) = FD_inf + slope / n to first order: the bias falls with 1/n. Source: Chong & Forsyth, Effectively Unbiased
    FID and Inception Score and Where to Find Them (arXiv:1911.07023), section 4.1; subsets without replacement as in
    dgm-eval, but seeded: all sizes come in order from `numpy.random.default_rng(seed)`. The reference stays whole.

    Args:
        reference_mu: Mean of the reference, [d].
        reference_sigma: Its covariance, [d, d].
        generated: Features of the generated set, [n, d].
        reference_n: Samples behind the reference; None where unknown.
        sizes: Subset sizes, at least two different ones; default `curve_sizes`.
        seed: Of the subsets.
        device: Where to compute; None is where the arrays are.
    """
    reference = gaussian(reference_mu, reference_sigma, reference_n, "reference_mu, reference_sigma", device)
    return curve_against(reference, generated, sizes=sizes, seed=seed, device=device)


def curve_against(
    reference: Gaussian,
    generated: Features,
    *,
    sizes: Sequence[int] | None = None,
    seed: int = 0,
    device: torch.device | str | None = None,
) -> FrechetCurve:
    """Returns `frechet_curve` against checked statistics."""
    check_features(generated, "generated", min_rows=2)
    if generated.shape[1] != len(reference.mu):
        raise DataError(
            f"the features have {generated.shape[1]} dimensions and the reference has {len(reference.mu)}",
            where="generated",
            fix="score both with the same extractor and layer",
        )
    num_generated = len(generated)
    chosen = curve_sizes(num_generated) if sizes is None else tuple(sizes)
    for size in chosen:
        check_count(size, "sizes", low=2, high=num_generated, why="a subset cannot hold more than there is")
    check_count(len(set(chosen)), "number of different sizes", low=2, why="a line needs two points")
    generator = np.random.default_rng(seed)
    values: list[float] = []
    for size in chosen:
        subset = generated[generator.choice(num_generated, size, replace=False)]
        values.append(frechet_between(reference, moments_of(subset, "generated", device)).value)
    slope, infinity = np.polyfit(1.0 / np.array(chosen, dtype=np.float64), np.array(values), 1)
    return FrechetCurve(sizes=chosen, values=tuple(values), infinity=float(infinity), slope=float(slope), seed=seed)
