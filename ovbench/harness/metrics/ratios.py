"""Scores of answers as weighted sums of ratios of sums over images: accuracy, macro means, F1, MME's points.

    T = sum_j w_j * (sum_g num_gj) / (sum_g den_gj)

Whatever has this form can be bootstrapped and permuted by whole images at once, and has a clustered standard error.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from ovbench.harness.metrics.interval import Floats


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratios:
    """A score, image by image.

    Where the denominators count questions, the score may be taken as a mean (`is_mean`): two runs that answer the same
    questions have the same denominators. Where they count answers (precision, F1), it is a ratio of two random sums.
    """

    num: Floats = field(repr=False)  # [G, J]
    den: Floats = field(repr=False)  # [G, J]
    weights: Floats  # [J]
    is_mean: bool

    def __post_init__(self) -> None:
        assert self.num.shape == self.den.shape, "numerators and denominators belong together"
        assert self.weights.shape == (self.num.shape[1],), "one weight per ratio"

    @property
    def num_images(self) -> int:
        """G."""
        return len(self.num)

    @property
    def value(self) -> float:
        """The score of all images; NaN where a denominator is 0."""
        return float(self.of_sums(self.num.sum(axis=0)[None], self.den.sum(axis=0)[None])[0])

    def of_sums(self, num: Floats, den: Floats) -> Floats:
        """Returns the score of sums, [D, J] each → [D]; NaN where a denominator is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(den > 0, num / den, np.nan)
        return shares @ self.weights

    def influence(self) -> Floats:
        """Returns what each image adds to the score's error, [G]: w_j (num_gj - r_j den_gj) / den_j, summed over j.

        For a mean this is exact; for a ratio it is the first term of the expansion (the delta method). Sums to 0.
        """
        total = self.den.sum(axis=0)
        shares = self.num.sum(axis=0) / total
        return (self.num - shares * self.den) @ (self.weights / total)


def clustered_error(influence: Floats) -> float:
    """Returns the CR1 standard error sqrt(G / (G - 1) sum_g psi_g^2) of influences per image, [G] with G > 1."""
    count = len(influence)
    return math.sqrt(count / (count - 1) * float(np.sum(influence**2)))
