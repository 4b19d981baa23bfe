"""Two runs that answered the same questions: the difference of a score, its error, and whether there is one at all.

What the questions have in common cancels, so a difference is far better known than two scores apart. Everything is
clustered by image: CR1 with Student's t and a bootstrap for the interval, swaps of whole images for the p-value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ovbench.harness.metrics.base import Interval
from ovbench.harness.metrics.interval import LEVEL, Floats, bootstrap_interval, no_interval
from ovbench.harness.metrics.permutation import NUM_DRAWS, PValue, swap_test
from ovbench.harness.metrics.ratios import Ratios, clustered_error
from ovbench.results.quantile import t_quantile

FEW_IMAGES = 10  # that differ: below, intervals rest on too little


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedScores:
    """Score of the first run minus score of the second, on common questions."""

    value: float
    error: float  # clustered standard error; of a ratio by the delta method
    clustered: Interval  # value ± t error
    bootstrap: Interval  # percentiles over images
    interval: Interval  # the one to report: clustered for means, bootstrap for ratios
    test: PValue
    num_images: int
    num_differing: int  # images on which the two runs' answers count differently
    influence: Floats = field(repr=False)  # of the difference, [G]

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        if 0 < self.num_differing < FEW_IMAGES:
            return (f"only {self.num_differing} images differ: trust the p-value, not the interval",)
        return ()


def compare_scores(
    first: Ratios, second: Ratios, *, label: str, seed: int = 0, num_draws: int = NUM_DRAWS
) -> PairedScores:
    """Compares a score of two runs on the same images.

    Args:
        first: Of one run; it must have a value, and so must that of the other.
        second: Of the other run, the same images in the same order.
        label: Name of the use, for draws.
        seed: Of bootstrap and swaps.
        num_draws: Swaps that are tried where not all are counted.
    """
    influence = first.influence() - second.influence()
    test = swap_test(first, second, label=label, seed=seed, num_draws=num_draws)
    differs = np.any((first.num != second.num) | (first.den != second.den), axis=1)
    value, count = first.value - second.value, first.num_images
    found = PairedScores(
        value=value,
        error=0.0,
        clustered=no_interval("all questions are about one image"),
        bootstrap=no_interval("all questions are about one image"),
        interval=no_interval("all questions are about one image"),
        test=test,
        num_images=count,
        num_differing=int(differs.sum()),
        influence=influence,
    )
    if count < 2:
        return found
    if not differs.any():
        alike = no_interval("no answer differs, which says nothing about the error of the difference")
        return replace(found, clustered=alike, bootstrap=alike, interval=alike)
    error = clustered_error(influence)
    half = t_quantile(count - 1, LEVEL) * error
    how = f"paired, clustered by image, CR1, t with {count - 1} degrees of freedom"
    clustered = Interval(low=value - half, high=value + half, method=how)
    bootstrap = _bootstrap(first, second, label=label, seed=seed)
    return replace(
        found,
        error=error,
        clustered=clustered,
        bootstrap=bootstrap,
        interval=clustered if first.is_mean else bootstrap,
    )


def _bootstrap(first: Ratios, second: Ratios, *, label: str, seed: int) -> Interval:
    width = len(first.weights)
    counts = np.concatenate([first.num, first.den, second.num, second.den], axis=1)

    def gap(sums: Floats) -> Floats:
        one = first.of_sums(sums[:, :width], sums[:, width : 2 * width])
        return one - second.of_sums(sums[:, 2 * width : 3 * width], sums[:, 3 * width :])

    found = bootstrap_interval(counts, gap, label=f"paired/{label}", seed=seed)
    return found if found.low is None else replace(found, method=f"paired {found.method}")


def mean_of(scores: Sequence[PairedScores]) -> tuple[float, float]:
    """Returns the mean difference over runs of several seeds on the same images, and its error over the questions."""
    influence = np.mean([entry.influence for entry in scores], axis=0)
    value = float(np.mean([entry.value for entry in scores]))
    return value, clustered_error(influence) if len(influence) > 1 else 0.0
