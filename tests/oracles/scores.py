"""Slow, obvious scores: plain loops, written without looking at `ovbench/harness/metrics`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import Any


def accuracy(chosen: Sequence[str | None], answers: Sequence[str]) -> float:
    right = 0
    for one, other in zip(chosen, answers, strict=True):
        if one == other:
            right += 1
    return right / len(answers)


def yes_no(chosen: Sequence[str | None], answers: Sequence[str]) -> dict[str, float | None]:
    """POPE's evaluate.py, step by step; None where it would divide by zero."""
    tp = fp = positives = yes = 0
    for said, true in zip(chosen, answers, strict=True):
        if true == "yes":
            positives += 1
        if said == "yes":
            yes += 1
            if true == "yes":
                tp += 1
            else:
                fp += 1
    precision = tp / (tp + fp) if tp + fp else None
    recall = tp / positives if positives else None
    f1 = 2 * precision * recall / (precision + recall) if precision and recall else None
    return {
        "accuracy": accuracy(chosen, answers),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "yes_rate": yes / len(answers),
    }


def clustered_error(values: Sequence[float], clusters: Sequence[str]) -> float:
    """Standard error of the mean: residuals summed within each cluster, squared, added, with G / (G - 1)."""
    mean = sum(values) / len(values)
    sums: dict[str, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + (value - mean)
    total = sum(part * part for part in sums.values())
    return math.sqrt(len(sums) / (len(sums) - 1) * total) / len(values)


def bootstrap(
    items: Sequence[Any], clusters: Sequence[str], statistic: Callable[[list[Any]], float | None], draws: int
) -> tuple[float, float]:
    """95% percentile interval: draws clusters with replacement, collects their items, computes the statistic again."""
    names = sorted(set(clusters))
    members = {name: [item for item, own in zip(items, clusters, strict=True) if own == name] for name in names}
    generator = random.Random(0)
    values: list[float] = []
    for _ in range(draws):
        drawn = [item for _ in names for item in members[generator.choice(names)]]
        value = statistic(drawn)
        if value is not None:
            values.append(value)
    values.sort()
    return values[int(0.025 * len(values))], values[int(0.975 * len(values))]
