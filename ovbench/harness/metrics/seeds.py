"""Differences over several seeds: what the seeds of training do, kept apart from what the choice of questions does.

Two numbers answer two questions. Over the questions: would these trained weights also differ on other questions of this
kind? Over the seeds: would other trainings also differ, on these questions? All seeds answer the same questions, so
averaging seeds does not shrink the first error. Both together: sd_q^2 + s^2 / k with Student's t at Satterthwaite's
degrees of freedom (doi 10.2307/3002019), as tables do.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ovbench.harness.metrics.base import Interval
from ovbench.harness.metrics.interval import no_interval
from ovbench.harness.metrics.student import t_two_sided
from ovbench.results.quantile import t_quantile


@dataclass(frozen=True, kw_only=True, slots=True)
class OverSeeds:
    """A difference over k common seeds."""

    value: float  # mean over the seeds
    by_seed: tuple[float, ...]
    spread: float  # sample standard deviation over seeds
    interval_questions: Interval  # of the questions alone: these trainings as they are
    interval_seeds: Interval  # of the seeds alone: these questions as they are
    p_seeds: float  # of the seeds alone: paired t
    interval_both: Interval  # of seeds and questions together
    p_both: float


def over_seeds(by_seed: Sequence[float], error: float, dof: float = math.inf) -> OverSeeds:
    """Returns what at least two seeds say of a difference.

    Args:
        by_seed: The difference under each seed.
        error: Standard error over the questions of the mean over seeds.
        dof: Its degrees of freedom: images - 1.
    """
    count = len(by_seed)
    assert count >= 2, "one seed has no spread"
    mean, spread = statistics.fmean(by_seed), statistics.stdev(by_seed)
    seeds = spread**2 / count
    alone, p = no_interval("all seeds give the same difference"), 1.0
    if seeds > 0:
        half = t_quantile(count - 1) * math.sqrt(seeds)
        method = f"paired t over {count} seeds, the questions as they are"
        alone = Interval(low=mean - half, high=mean + half, method=method)
        p = t_two_sided(mean / math.sqrt(seeds), count - 1)
    questions = no_interval("no answer differs")
    if error > 0:
        half = t_quantile(dof) * error
        questions = Interval(
            low=mean - half, high=mean + half, method="over the questions, these trainings as they are"
        )
    total = error**2 + seeds
    both, p_both = no_interval("no answer differs"), 1.0
    if total > 0:
        dof_both = (count - 1) * (total / seeds) ** 2 if seeds > 0 else math.inf
        half = t_quantile(dof_both) * math.sqrt(total)
        method = f"{count} seeds and their questions, Satterthwaite t"
        both = Interval(low=mean - half, high=mean + half, method=method)
        p_both = t_two_sided(mean / math.sqrt(total), dof_both)
    return OverSeeds(
        value=mean,
        by_seed=tuple(by_seed),
        spread=spread,
        interval_questions=questions,
        interval_seeds=alone,
        p_seeds=p,
        interval_both=both,
        p_both=p_both,
    )
