"""95 % intervals that respect that questions about one image belong together.

Answers about the same image are correlated, so an interval that counts questions as independent is too short. Here the
image is the unit: means get a cluster-robust standard error (Liang and Zeger 1986, doi 10.1093/biomet/73.1.13, with the
CR1 factor of Cameron and Miller 2015, doi 10.3368/jhr.50.2.317), other statistics a bootstrap that draws whole images.
The interval covers the choice of images and questions. It does not cover the seed of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ovbench._base.seeding import numpy_generator
from ovbench.results.quantile import t_quantile

LEVEL = 0.95
DRAWS = 1000
_CHUNK = 100  # draws held in memory at once; changes no number


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """An interval, or the reason why there is none."""

    low: float | None
    high: float | None
    method: str  # how it was made, as records store it

    @classmethod
    def none(cls, why: str) -> Interval:
        """Returns the absent interval."""
        return cls(low=None, high=None, method=f"none: {why}")


def _codes(labels: Sequence[str]) -> tuple[np.ndarray, int]:
    """Returns int [n] codes of the labels, and their number."""
    values, codes = np.unique(np.asarray(labels, dtype=object).astype(str), return_inverse=True)
    return codes.reshape(-1), len(values)


def mean_interval(
    values: Sequence[float] | np.ndarray, images: Sequence[str], strata: Sequence[str] | None = None
) -> Interval:
    """Returns the clustered 95 % interval of a mean of fractions, or of a mean of stratum means.

    With weight w_i (1/n, or 1/(K n_k) for stratum k of K), residual e_i against the mean of its stratum and
    S_g = sum of w_i e_i over image g of G: variance = G/(G-1) sum S_g^2, and Student's t with G - 1 degrees of freedom.

    Args:
        values: [n] in [0, 1].
        images: [n] image ids, the clusters.
        strata: [n] names of dimensions or splits whose means are averaged with equal weight; None: one plain mean.

    Returns:
        The interval, cut to [0, 1]. Where all values are 0, or all are 1, the residuals vanish and say nothing: then it is
        the exact binomial interval (Clopper and Pearson 1934) with images as units.
    """
    data = np.asarray(values, dtype=np.float64)
    clusters, num_clusters = _codes(images)
    if len(data) != len(clusters) or not len(data):
        raise ValueError(f"{len(data)} values for {len(clusters)} images")
    if data.min() < 0.0 or data.max() > 1.0:
        raise ValueError("an interval of fractions needs values in [0, 1]")
    if num_clusters < 2:
        return Interval.none("fewer than two images")
    if (data == data[0]).all() and data[0] in (0.0, 1.0):
        edge = ((1.0 - LEVEL) / 2.0) ** (1.0 / num_clusters)
        low, high = (edge, 1.0) if data[0] == 1.0 else (0.0, 1.0 - edge)
        return Interval(low=low, high=high, method=f"exact binomial, {num_clusters} images as units")
    codes, num_strata = _codes(strata) if strata is not None else (np.zeros(len(data), dtype=np.int64), 1)
    counts = np.bincount(codes, minlength=num_strata)
    means = np.bincount(codes, weights=data, minlength=num_strata) / counts
    influence = (data - means[codes]) / (num_strata * counts[codes])  # [n]
    sums = np.bincount(clusters, weights=influence, minlength=num_clusters)  # [G]
    error = float(np.sqrt(num_clusters / (num_clusters - 1) * np.square(sums).sum()))
    half = t_quantile(num_clusters - 1, LEVEL) * error
    mean = float(means.mean())
    return Interval(
        low=max(0.0, mean - half),
        high=min(1.0, mean + half),
        method=f"clustered by image (CR1, t, {num_clusters} images)",
    )


def bootstrap_interval(
    counts: np.ndarray,
    images: Sequence[str],
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    label: str,
    seed: int = 0,
    draws: int = DRAWS,
) -> Interval:
    """Returns the percentile interval of a statistic of sums, from a bootstrap over images.

    Args:
        counts: [n, ...] what each question adds to the sums.
        images: [n] image ids; whole images are drawn with replacement.
        statistic: Sums [D, ...] → values [D], NaN where it is not defined.
        label: Name of the metric, so that metrics draw independently; part of the seed.
        seed: Of the draws, not of the run: the same answers always get the same interval.
        draws: Number of bootstrap samples.

    Returns:
        The interval. There is none with fewer than two images, or where the statistic is undefined in over 5 % of the draws.
    """
    data = np.asarray(counts, dtype=np.float64)
    clusters, num_clusters = _codes(images)
    if len(data) != len(clusters) or not len(data):
        raise ValueError(f"{len(data)} rows of counts for {len(clusters)} images")
    if num_clusters < 2:
        return Interval.none("fewer than two images")
    sums = np.zeros((num_clusters, *data.shape[1:]))
    np.add.at(sums, clusters, data)
    generator = numpy_generator(seed, "interval/bootstrap", label)
    shares = np.full(num_clusters, 1.0 / num_clusters)
    values = []
    for first in range(0, draws, _CHUNK):
        times = generator.multinomial(num_clusters, shares, size=min(_CHUNK, draws - first))  # [D, G]
        values.append(statistic(np.tensordot(times.astype(np.float64), sums, axes=1)))
    drawn = np.concatenate(values)
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < 0.95 * draws:
        return Interval.none(f"undefined in {draws - len(defined)} of {draws} bootstrap draws")
    tail = 50.0 * (1.0 - LEVEL)
    low, high = np.percentile(defined, [tail, 100.0 - tail])
    return Interval(
        low=float(low), high=float(high), method=f"bootstrap over images ({draws} draws, percentile, {num_clusters} images)"
    )
