"""One cell of a comparison table: a metric's mean over seeds, with the interval of pictures or questions and seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ovbench.results.picture_settings import cut_at_0
from ovbench.results.quantile import quick_t_quantile
from ovbench.results.record import MetricValue

Mark = Literal["", "best", "tied"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One value, averaged over seeds."""

    value: float | None
    low: float | None = None  # 95% interval over the questions, and over the seeds where there are several
    high: float | None = None
    interval: str = ""  # how it was made
    by_seed: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()  # of `by_seed`
    mark: Mark = ""  # best: told apart from every other row; tied: not told apart from the first
    basis: str = ""  # what the mark rests on: `intervals` or `paired tests`; empty: the column is not marked
    rank: tuple[int, int] | None = None  # ranks that paired tests allow, 1 is best; None: not tested
    reason: str | None = None  # why there is no value

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        return math.sqrt(_variance(self.by_seed)) if len(self.by_seed) > 1 else None


def make_cell(by_seed: Mapping[int, MetricValue]) -> Cell:
    """Returns the mean over seeds with its interval; a seed without a value leaves the cell empty.

    Args:
        by_seed: Seed → the metric of its run, one or more.
    """
    metrics = [cut_at_0(by_seed[seed]) for seed in sorted(by_seed)]
    for seed, metric in sorted(by_seed.items()):
        if metric.value is None:  # a mean over the other seeds would be another quantity
            prefix = f"seed {seed}: " if len(metrics) > 1 else ""
            return Cell(value=None, reason=f"{prefix}{metric.reason}", interval=metric.interval)
    values = tuple(metric.value for metric in metrics if metric.value is not None)
    lows = [metric.low for metric in metrics if metric.low is not None]
    highs = [metric.high for metric in metrics if metric.high is not None]
    whole = len(lows) == len(metrics)
    low = high = None
    if whole and len(metrics) == 1:
        low, high, how = lows[0], highs[0], metrics[0].interval
    elif whole:
        low, high, how = _over_seeds(values, lows, highs, metrics[0])
    else:
        how = next(metric.interval for metric in metrics if metric.low is None)
    return Cell(
        value=statistics.fmean(values),
        low=low,
        high=high,
        interval=how,
        by_seed=values,
        seeds=tuple(sorted(by_seed)),
    )


def _variance(values: Sequence[float]) -> float:
    """Returns the sample variance; `statistics.variance` reckons in fractions, which takes most of a table's time."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _over_seeds(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], first: MetricValue
) -> tuple[float, float, str]:
    """Returns the interval of a mean over seeds, for questions and seeds together, and how it was made.

    All seeds answer the same questions, so the errors of the questions are taken as fully correlated: averaging does
    not shrink them. With sd_q the mean standard error over questions and s the standard deviation over k seeds, the
    variance is sd_q² + s² / k, with Student's t at Satterthwaite's degrees of freedom (doi 10.2307/3002019); the part
    of the questions counts as known.
    """
    count, mean = len(values), statistics.fmean(values)
    half_widths = [(high - low) / 2 for low, high in zip(lows, highs, strict=True)]
    questions = (statistics.fmean(half_widths) / quick_t_quantile(math.inf)) ** 2
    seeds = _variance(values) / count
    total = questions + seeds
    half = quick_t_quantile((count - 1) * (total / seeds) ** 2 if seeds > 0 else math.inf) * math.sqrt(total)
    low, high = mean - half, mean + half
    how = f"{count} seeds and their questions (Satterthwaite t); one seed: {first.interval}"
    if first.unit == "fraction":
        low, high = max(0.0, low), min(1.0, high)
    cut = cut_at_0(replace(first, low=low, high=high, interval=how))
    return (low if cut.low is None else cut.low), (high if cut.high is None else cut.high), cut.interval
