"""How many images would tell two runs apart: from the spread of their differences and how alike those of one image are.

With differences d of variance s^2 and correlation rho within an image, m questions an image and G images, the variance
of the mean difference is s^2 (1 + (m - 1) rho) / (m G): the design effect (Kish, Survey Sampling, 1965, section 5.4). A
two-sided test at level a finds a difference D with power 1 - b where G = (t_a + t_b)^2 s^2 (1 + (m - 1) rho) / (m D^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ovbench.harness.metrics.interval import Floats
from ovbench.results.quantile import t_quantile

POWERS = (0.8, 0.9)
MAX_IMAGES = 10**9  # more is as good as never


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How differences of questions scatter."""

    variance: float  # of a single difference
    correlation: float  # of two about one image, intra-class; 0 where no image has two questions
    per_image: float  # questions an image: their mean size as it matters for the variance

    @property
    def of_image(self) -> float:
        """The variance that one image adds: s^2 (1 + (m - 1) rho) / m."""
        return self.variance * max(0.0, 1 + (self.per_image - 1) * self.correlation) / self.per_image


def spread_of(differences: Floats, codes: NDArray[np.intp], num_images: int) -> Spread:
    """Returns the spread of differences by the one-way analysis of variance (Donner, doi 10.2307/1403259).

    Args:
        differences: One per question, [n].
        codes: The number of its image, [n].
        num_images: G, at least 2.
    """
    count = len(differences)
    sizes = np.bincount(codes, minlength=num_images).astype(np.float64)
    centred = differences - differences.mean()
    means = np.bincount(codes, weights=centred, minlength=num_images) / sizes
    between = float(np.sum(sizes * means**2)) / (num_images - 1)
    typical = (count - float(np.sum(sizes**2)) / count) / (num_images - 1)  # n_0: the size that makes it unbiased
    if count == num_images:
        return Spread(variance=between, correlation=0.0, per_image=1.0)
    within = float(np.sum((centred - means[codes]) ** 2)) / (count - num_images)
    shared = (between - within) / typical
    variance = shared + within
    correlation = shared / variance if variance > 0 else 0.0
    return Spread(variance=max(0.0, variance), correlation=correlation, per_image=typical)


def images_needed(difference: float, variance_of_image: float, power: float, *, level: float = 0.05) -> int | None:
    """Returns how many images a two-sided test needs to find a difference with the given power.

    Args:
        difference: That is there in truth.
        variance_of_image: Of the mean difference times G: `Spread.of_image`, or G times a squared standard error.
        power: Chance to find it, in (0.5, 1).
        level: Of the test.

    Returns:
        The number, at least 2; None where the difference is 0 or more than 10^9 images would be needed.
    """
    assert 0.5 < power < 1, "power is a chance above a half"
    if difference == 0.0:
        return None
    wanted = variance_of_image / difference**2
    beta = NormalDist().inv_cdf(power)
    if wanted * (beta + NormalDist().inv_cdf(1 - level / 2)) ** 2 > MAX_IMAGES:
        return None
    images = 2
    for _ in range(50):  # t depends on the number, which settles at once unless it is tiny
        bound = t_quantile(images - 1, 1 - level) + beta
        needed = max(2, math.ceil(wanted * bound**2))
        if needed == images:
            break
        images = needed if needed > images else (needed + images) // 2
    return images
