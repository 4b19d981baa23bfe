"""One cell of a table from the values of one or more seeds of the same encoder."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ovbench.results.quantile import t_quantile
from ovbench.results.record import MetricValue

Mark = Literal["", "best", "tied"]
_NORMAL = 1.959964  # 97.5 % point of the normal distribution


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """One number of a table, or the reason why there is none."""

    value: float | None  # mean over the seeds
    interval: str  # how the interval was made, or why there is none
    low: float | None = None  # 95 % interval
    high: float | None = None
    reason: str | None = None  # why `value` is None
    seeds: tuple[int, ...] = ()  # that went into the mean
    spread: float | None = None  # standard deviation over seeds (n - 1); None with fewer than two
    mark: Mark = ""
    run_ids: tuple[str, ...] = ()


def combine(by_seed: Mapping[int, tuple[str, MetricValue]]) -> Cell:
    """Returns the mean over seeds with an interval for questions and seeds together.

    All seeds answer the same questions, so their sampling errors are taken as fully correlated: averaging does not shrink
    them. With sd_q the mean standard error over questions, s the standard deviation over k seeds:
    variance = sd_q^2 + s^2 / k, and Student's t with Welch and Satterthwaite's degrees of freedom
    (doi 10.2307/3002019), where the part of the questions counts as known. A single value keeps its own interval.

    Args:
        by_seed: Seed → (run id, value). All values belong to one column.
    """
    scored = {seed: entry for seed, entry in sorted(by_seed.items()) if entry[1].value is not None}
    if not scored:
        reasons = [metric.reason for _, metric in by_seed.values() if metric.reason is not None]
        return Cell(value=None, interval="none: no value", reason=reasons[0] if reasons else "not run")
    seeds, runs = tuple(scored), tuple(run_id for run_id, _ in scored.values())
    metrics = [metric for _, metric in scored.values()]
    values = [metric.value for metric in metrics if metric.value is not None]
    if len(values) == 1:
        only = metrics[0]
        return Cell(
            value=only.value, interval=only.interval, low=only.low, high=only.high, seeds=seeds, run_ids=runs
        )  # fmt: skip
    mean, spread = statistics.fmean(values), statistics.stdev(values)
    low, high, method = _interval(metrics, mean, spread)
    return Cell(value=mean, interval=method, low=low, high=high, seeds=seeds, spread=spread, run_ids=runs)


def _interval(metrics: list[MetricValue], mean: float, spread: float) -> tuple[float | None, float | None, str]:
    halves = [
        (metric.high - metric.low) / 2.0 for metric in metrics if metric.low is not None and metric.high is not None
    ]
    count = len(metrics)
    if len(halves) < count:
        return None, None, "none: a seed has no interval"
    questions = (statistics.fmean(halves) / _NORMAL) ** 2
    seeds = spread**2 / count
    total = questions + seeds
    dof = (count - 1) * (total / seeds) ** 2 if seeds > 0.0 else math.inf
    half = t_quantile(dof) * math.sqrt(total)
    low, high = mean - half, mean + half
    if metrics[0].unit == "fraction":
        low, high = max(0.0, low), min(1.0, high)
    return low, high, f"{count} seeds and their questions (Welch-Satterthwaite t); one seed: {metrics[0].interval}"
