"""95% intervals that respect that questions about one image belong together.

Means: the cluster-robust ("sandwich") variance with the small-sample factor G / (G - 1), known as CR1, and Student's t
with G - 1 degrees of freedom; G counts images. (Cameron & Miller, A Practitioner's Guide to Cluster-Robust Inference,
2015.) Ratios such as F1: a percentile bootstrap that draws whole images.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ovbench._base.seeding import numpy_generator
from ovbench.harness.metrics.base import Interval
from ovbench.results.quantile import t_quantile

LEVEL = 0.95
NUM_DRAWS = 1000
_MAX_CELLS = 4_000_000  # draws x images held in memory at once
_MAX_UNDEFINED = 0.05  # share of draws without a value above which no interval is given

Floats = NDArray[np.float64]


def no_interval(why: str) -> Interval:
    """Returns an interval that is missing, with the reason."""
    return Interval(low=None, high=None, method=f"none: {why}")


def cluster_codes(clusters: Sequence[str]) -> tuple[NDArray[np.intp], int]:
    """Returns a number in [0, G) per question, by the sorted order of the image ids, and G."""
    names, codes = np.unique(np.asarray(clusters, dtype=str), return_inverse=True)
    return codes, len(names)


def mean_interval(values: Floats, clusters: Sequence[str], *, strata: Sequence[str] | None = None) -> Interval:
    """Returns the interval of a mean of fractions.

    Args:
        values: One number in [0, 1] per question, [n].
        clusters: The image of each question.
        strata: With these, the statistic is the unweighted mean of the strata's means (a macro average).

    Returns:
        The interval, cut to [0, 1]. Where every value is 0 or every value is 1, the Clopper-Pearson bound with images
        as trials, because the variance would be 0 and claim certainty.
    """
    codes, num_clusters = cluster_codes(clusters)
    if num_clusters < 2:
        return no_interval("all questions are about one image")
    tail = (1 - LEVEL) / 2
    if np.all(values == values[0]) and values[0] in (0.0, 1.0):
        bound = tail ** (1 / num_clusters)  # the exact limit for no failure in G trials
        low, high = (bound, 1.0) if values[0] == 1.0 else (0.0, 1.0 - bound)
        return Interval(low=low, high=high, method=f"Clopper-Pearson, {num_clusters} images")
    scores = np.zeros(num_clusters)
    stratum, num_strata = cluster_codes(strata if strata is not None else [""] * len(values))
    counts = np.bincount(stratum, minlength=num_strata)
    means = np.bincount(stratum, weights=values, minlength=num_strata) / counts
    np.add.at(scores, codes, (values - means[stratum]) / (num_strata * counts[stratum]))
    error = math.sqrt(num_clusters / (num_clusters - 1) * float(np.sum(scores**2)))
    half = t_quantile(num_clusters - 1, LEVEL) * error
    mean = float(np.mean(means))
    method = f"clustered by image, CR1, t with {num_clusters - 1} degrees of freedom"
    return Interval(low=max(0.0, mean - half), high=min(1.0, mean + half), method=method)


def wilson_interval(fraction: float, n: int, *, given: str) -> Interval:
    """Returns Wilson's interval of a fraction of n independent items (Wilson 1927; Brown, Cai & DasGupta 2001).

    Args:
        fraction: Of the items, in [0, 1].
        n: How many items.
        given: What is taken as fixed; stands in the method.
    """
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    centre = (fraction + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(fraction * (1 - fraction) / n + z**2 / (4 * n**2))
    return Interval(
        low=max(0.0, centre - half), high=min(1.0, centre + half), method=f"Wilson, {n} images, given {given}"
    )


def bootstrap_interval(
    counts: Floats, statistic: Callable[[Floats], Floats], *, label: str, seed: int = 0, num_draws: int = NUM_DRAWS
) -> Interval:
    """Returns the percentile interval of a statistic of summed counts, drawing whole images with replacement.

    Contract: draw *i* depends on (seed, label, i) and the number of images alone.

    Args:
        counts: What each image contributes, [G, K].
        statistic: Sums [D, K] → values [D]; NaN where it is not defined.
        label: Name of the use, so that different tasks draw differently.
        seed: Of the draws.
        num_draws: How many draws.
    """
    num_clusters = len(counts)
    if num_clusters < 2:
        return no_interval("all questions are about one image")
    generator = numpy_generator(seed, "bootstrap", label)
    at_once = max(1, _MAX_CELLS // num_clusters)
    parts: list[Floats] = []
    for start in range(0, num_draws, at_once):
        rows = min(at_once, num_draws - start)
        drawn = generator.integers(0, num_clusters, size=(rows, num_clusters))
        flat = (drawn + np.arange(rows)[:, None] * num_clusters).ravel()
        weights = np.bincount(flat, minlength=rows * num_clusters).reshape(rows, num_clusters)
        parts.append(statistic(weights.astype(np.float64) @ counts))
    values = np.concatenate(parts)
    defined = values[~np.isnan(values)]
    lost = num_draws - len(defined)
    if lost > _MAX_UNDEFINED * num_draws:
        return no_interval(f"{lost} of {num_draws} bootstrap draws have no value")
    if np.all(defined == defined[0]):
        return no_interval("every bootstrap draw gives the same value, which says nothing about its error")
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    method = f"bootstrap over {num_clusters} images, {num_draws} draws, percentiles"
    return Interval(low=float(low), high=float(high), method=method + (f", {lost} draws undefined" if lost else ""))
