"""Yes/no scores as POPE counts them, `yes` being the positive class: per split, pooled, and the mean of the splits.

Source: POPE (arXiv 2305.10355) and its evaluate.py, whose rule LLaVA's eval_pope.py repeats. Where that script divides by
zero the value here is missing with a reason. An answer nothing could be read from counts as the wrong class: a miss on a
`yes` question and a false alarm on a `no` question, so that silence never raises precision or F1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.metrics.base import (
    MetricSpec,
    PredictionLike,
    SampleLike,
    Scored,
    ScoredMetric,
    by_key,
    group_names,
    missing,
    pair,
)
from ovbench.harness.metrics.choice import group_mean, share
from ovbench.harness.metrics.interval import bootstrap_interval

_POPE = "POPE, arXiv 2305.10355, section 3"
ACCURACY = MetricSpec(name="accuracy", title="accuracy", higher_is_better=True, citation=_POPE)
PRECISION = MetricSpec(name="precision", title="precision of yes", higher_is_better=True, citation=_POPE)
RECALL = MetricSpec(name="recall", title="recall of yes", higher_is_better=True, citation=_POPE)
F1 = MetricSpec(name="f1", title="F1 of yes", higher_is_better=True, citation=_POPE)
YES_RATE = MetricSpec(name="yes_rate", title="share of yes among the answers", higher_is_better=None, citation=_POPE)
UNPARSED_RATE = MetricSpec(name="unparsed_rate", title="answers that could not be read", higher_is_better=False)
ACCURACY_MEAN = MetricSpec(name="accuracy_mean", title="mean accuracy of the splits", higher_is_better=True)
POPE_F1_MEAN = MetricSpec(
    name="pope_f1_mean",
    title="mean F1 of the splits",
    higher_is_better=True,
    citation="LLaVA-1.5, arXiv 2310.03744: the POPE column is this mean",
)
Statistic = Callable[[np.ndarray], np.ndarray]


def precision(counts: np.ndarray) -> np.ndarray:
    """Returns TP / (TP + FP) of counts [..., 3] = (TP, FP, FN); NaN where nothing was answered yes."""
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 1])


def recall(counts: np.ndarray) -> np.ndarray:
    """Returns TP / (TP + FN) of counts [..., 3] = (TP, FP, FN); NaN where no answer should be yes."""
    return _ratio(counts[..., 0], counts[..., 0] + counts[..., 2])


def f1(counts: np.ndarray) -> np.ndarray:
    """Returns 2 TP / (2 TP + FP + FN) of counts [..., 3] = (TP, FP, FN); NaN where all three are 0."""
    return _ratio(2.0 * counts[..., 0], 2.0 * counts[..., 0] + counts[..., 1] + counts[..., 2])


def _ratio(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.divide(top, bottom, out=np.full(np.shape(top), np.nan), where=bottom != 0)


def score_yesno(
    samples: Sequence[SampleLike], predictions: Sequence[PredictionLike], *, seed: int = 0
) -> dict[str, ScoredMetric]:
    """Scores a yes/no task.

    Args:
        samples: The questions; `answer` is `yes` or `no`, `group` the split.
        predictions: One answer per question, in any order; `chosen` is what is scored.
        seed: Of the bootstrap draws.

    Returns:
        By `name` pooled over all questions and `name/split` per split: `accuracy`, `precision`, `recall`, `f1`,
        `yes_rate`, `unparsed_rate`; and, where there are splits, `accuracy_mean` and `pope_f1_mean` over them. Precision
        is missing when nothing was answered yes, recall when no answer should be yes, F1 when there is no true yes among
        the answers.

    Raises:
        DataError: Answers and questions do not fit together, or one is neither yes nor no.
    """
    scored = pair(samples, predictions)
    for entry in scored:
        for text in (entry.answer, entry.given):
            if text not in ("yes", "no", None):
                raise DataError(f"'{text}' is neither yes nor no", fix="score this task as multiple choice")
    scores: list[ScoredMetric] = []
    groups = group_names(scored)
    for group in (None, *groups):
        part = [entry for entry in scored if group is None or entry.group == group]
        scores += _split(part, group, seed)
    if groups:
        scores.append(group_mean(ACCURACY_MEAN, [entry.correct for entry in scored], scored))
        scores.append(_f1_mean([entry for entry in scored if entry.group], groups, seed))
    return by_key(scores)


def _counts(entry: Scored) -> tuple[float, float, float]:
    """Returns what one question adds to TP, FP, FN."""
    if entry.answer == "yes":
        return (1.0, 0.0, 0.0) if entry.correct else (0.0, 0.0, 1.0)
    return (0.0, 0.0, 0.0) if entry.correct else (0.0, 1.0, 0.0)


def _split(part: Sequence[Scored], group: str | None, seed: int) -> list[ScoredMetric]:
    counts = np.asarray([_counts(entry) for entry in part])  # [n, 3]
    images = [entry.image_id for entry in part]
    said_yes = any(entry.given == "yes" for entry in part)
    true_yes = counts[:, 0].sum() > 0

    def ratio(spec: MetricSpec, statistic: Statistic, defined: bool, reason: str) -> ScoredMetric:
        if not defined:
            return missing(spec, reason, n=len(part), group=group)
        label = f"{spec.name}/{group or ''}"
        interval = bootstrap_interval(counts, images, statistic, label=label, seed=seed)
        value = float(statistic(counts.sum(axis=0)))
        return ScoredMetric(spec=spec, value=value, n=len(part), interval=interval, group=group)

    asked_yes = any(entry.answer == "yes" for entry in part)
    return [
        share(ACCURACY, [entry.correct for entry in part], part, group),
        ratio(PRECISION, precision, said_yes, "nothing was answered yes"),
        ratio(RECALL, recall, asked_yes, "no question has the answer yes"),
        ratio(F1, f1, bool(true_yes), "no question was rightly answered yes"),
        share(YES_RATE, [entry.given == "yes" for entry in part], part, group),
        share(UNPARSED_RATE, [entry.given is None for entry in part], part, group),
    ]


def _f1_mean(scored: Sequence[Scored], groups: Sequence[str], seed: int) -> ScoredMetric:
    columns = {group: index for index, group in enumerate(groups)}
    counts = np.zeros((len(scored), len(groups), 3))  # [n, splits, 3]
    for row, entry in enumerate(scored):
        counts[row, columns[entry.group]] = _counts(entry)
    total = counts.sum(axis=0)
    if empty := [group for group in groups if total[columns[group], 0] == 0]:
        reason = f"F1 is missing in the split '{empty[0]}': no question was rightly answered yes"
        return missing(POPE_F1_MEAN, reason, n=len(scored))
    images = [entry.image_id for entry in scored]
    interval = bootstrap_interval(counts, images, lambda sums: f1(sums).mean(axis=-1), label="pope_f1_mean", seed=seed)
    return ScoredMetric(spec=POPE_F1_MEAN, value=float(f1(total).mean()), n=len(scored), interval=interval)
