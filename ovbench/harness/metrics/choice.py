"""Multiple-choice accuracy as SEED-Bench counts it: right answers over all questions, and per dimension.

Ranked answers (likelihood of each option) and the free greedy answer are scored beside each other. An answer nothing could
be read from is wrong, stays in the denominator, and is counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovbench.harness.metrics.base import (
    MetricSpec,
    PredictionLike,
    SampleLike,
    Scored,
    ScoredMetric,
    by_key,
    group_names,
    pair,
)
from ovbench.harness.metrics.interval import mean_interval

_SEED = "SEED-Bench, arXiv 2307.16125, section 4.1"
ACCURACY = MetricSpec(name="accuracy", title="accuracy", higher_is_better=True, citation=_SEED)
ACCURACY_MACRO = MetricSpec(name="accuracy_macro", title="mean accuracy of the dimensions", higher_is_better=True)
ACCURACY_GREEDY = MetricSpec(name="accuracy_greedy", title="accuracy of the free answer", higher_is_better=True)
UNPARSED_RATE = MetricSpec(name="unparsed_rate", title="free answers that could not be read", higher_is_better=False)


def score_choice(samples: Sequence[SampleLike], predictions: Sequence[PredictionLike]) -> dict[str, ScoredMetric]:
    """Scores a multiple-choice task.

    Args:
        samples: The questions.
        predictions: One answer per question, in any order; `chosen` is what is scored.

    Returns:
        By `name` over all questions and `name/group` per dimension: `accuracy`, `unparsed_rate`, `accuracy_macro` (over
        dimensions, only where there are some) and, where the options were ranked, `accuracy_greedy` of the free answer.

    Raises:
        DataError: Answers and questions do not fit together.
    """
    scored = pair(samples, predictions)
    ranked = all(entry.ranked for entry in scored)
    scores: list[ScoredMetric] = []
    groups = group_names(scored)
    for group in (None, *groups):
        part = [entry for entry in scored if group is None or entry.group == group]
        scores.append(share(ACCURACY, [entry.correct for entry in part], part, group))
        if ranked:
            scores.append(share(ACCURACY_GREEDY, [entry.greedy == entry.answer for entry in part], part, group))
        scores.append(share(UNPARSED_RATE, [entry.greedy is None for entry in part], part, group))
    if groups:
        scores.append(group_mean(ACCURACY_MACRO, [entry.correct for entry in scored], scored))
    return by_key(scores)


def share(spec: MetricSpec, hits: Sequence[bool], part: Sequence[Scored], group: str | None) -> ScoredMetric:
    """Returns the share of hits with its clustered interval."""
    values = np.asarray(hits, dtype=np.float64)
    interval = mean_interval(values, [entry.image_id for entry in part])
    return ScoredMetric(spec=spec, value=float(values.mean()), n=len(part), interval=interval, group=group)


def group_mean(spec: MetricSpec, hits: Sequence[bool], scored: Sequence[Scored]) -> ScoredMetric:
    """Returns the unweighted mean of the groups' shares with its clustered interval; ungrouped questions are left out."""
    kept = [(hit, entry) for hit, entry in zip(hits, scored, strict=True) if entry.group]
    groups = [entry.group for _, entry in kept]
    values = np.asarray([hit for hit, _ in kept], dtype=np.float64)
    means = [float(values[[name == group for name in groups]].mean()) for group in dict.fromkeys(groups)]
    interval = mean_interval(values, [entry.image_id for _, entry in kept], groups)
    return ScoredMetric(spec=spec, value=float(np.mean(means)), n=len(kept), interval=interval)
