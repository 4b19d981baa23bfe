"""Yes/no questions as POPE scores them (arXiv 2305.10355; evaluate.py of its repository).

`yes` is the positive class. Accuracy, precision, recall, F1 and the share of answers that are yes, for all questions,
per split, and as means over the splits. LLaVA-1.5's "POPE" is the mean of the three splits' F1. Where POPE's script
divides by zero and stops, the value is None with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.metrics.base import (
    MetricSpec,
    ScoredMetric,
    collect,
    group_order,
    pair,
    undefined,
)
from ovbench.harness.metrics.choice import Pairs
from ovbench.harness.metrics.interval import Floats, bootstrap_interval, cluster_codes, mean_interval
from ovbench.tasks.base import Prediction, Sample

SCORER = "yesno-1"  # name and version; a change of any number raises the version
_POPE = "POPE (arXiv 2305.10355)"


def _spec(name: str, title: str, better: bool | None, citation: str = _POPE) -> MetricSpec:
    return MetricSpec(name=name, title=title, unit="fraction", higher_is_better=better, citation=citation)


ACCURACY = _spec("accuracy", "accuracy", True)
PRECISION = _spec("precision", "share of yes answers that are right", True)
RECALL = _spec("recall", "share of yes questions that are answered yes", True)
F1 = _spec("f1", "harmonic mean of precision and recall", True)
YES_RATE = _spec("yes_rate", "share of answers that are yes", None)
UNPARSED = _spec(
    "unparsed_rate", "share of written answers that cannot be read", False, "the task's parser gives nothing"
)
POPE_F1_MEAN = _spec("pope_f1_mean", "mean of the splits' F1", True, "what LLaVA-1.5 (arXiv 2310.03744) calls POPE")
ACCURACY_MEAN = _spec("accuracy_mean", "mean of the splits' accuracies", True)

# Columns of the count matrix: one row per image. An unread answer to a yes question is a miss; to a no question it is
# wrong without being a false alarm, so it is in no column but `positives`' complement.
_TP, _PREDICTED, _POSITIVES = 0, 1, 2


def score_yesno(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "yesno"
) -> dict[str, ScoredMetric]:
    """Scores yes/no answers.

    Args:
        samples: The questions; every answer is `yes` or `no`.
        predictions: One answer per question, in any order; `chosen` None counts as wrong.
        groups: Order of the splits; others follow as they come.
        label: Name of the task, for the bootstrap's draws.

    Returns:
        By key: `accuracy`, `precision`, `recall`, `f1`, `yes_rate`, `unparsed_rate` over all questions; the first five
        per split as `f1[popular]`; `pope_f1_mean` and `accuracy_mean` where there are splits.

    Raises:
        DataError: Answers do not match the questions, or are neither yes nor no.
    """
    pairs = pair(samples, predictions)
    for sample, prediction in pairs:
        if sample.answer not in ("yes", "no") or prediction.chosen not in ("yes", "no", None):
            raise DataError(
                f"question '{sample.item_id}' has the answer '{sample.answer}' and the choice '{prediction.chosen}'; "
                "a yes/no task knows yes and no only"
            )
    names = group_order(samples, groups)
    by_group = {name: [item for item in pairs if item[0].group == name] for name in names}
    scores = _all_of(pairs, None, label)
    for name, items in by_group.items():
        scores += _all_of(items, name, label)
    unread = np.array([prediction.parsed is None for _, prediction in pairs], dtype=np.float64)
    scores.append(_mean(UNPARSED, unread, pairs, None))
    if by_group:
        table = {score.key: score for score in scores}
        scores.append(f1_mean(table, by_group, label))
        scores.append(_accuracy_mean(by_group))
    return collect(scores)


def _mean(spec: MetricSpec, values: Floats, pairs: Pairs, group: str | None) -> ScoredMetric:
    interval = mean_interval(values, [sample.image_id for sample, _ in pairs])
    return ScoredMetric(spec=spec, group=group, value=float(values.mean()), n=len(pairs), interval=interval)


def _right(pairs: Pairs) -> Floats:
    return np.array([prediction.chosen == sample.answer for sample, prediction in pairs], dtype=np.float64)


def _counts(pairs: Pairs, images: Sequence[str]) -> Floats:
    """Returns [G, 3] per image: true positives, answers that are yes, questions whose answer is yes."""
    codes, num_images = cluster_codes(images)
    said = np.array([prediction.chosen == "yes" for _, prediction in pairs], dtype=np.float64)
    true = np.array([sample.answer == "yes" for sample, _ in pairs], dtype=np.float64)
    table = np.stack([said * true, said, true], axis=1)
    counts = np.zeros((num_images, 3))
    np.add.at(counts, codes, table)
    return counts


def _precision(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, _TP] / sums[:, _PREDICTED]


def _recall(sums: Floats) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        return sums[:, _TP] / sums[:, _POSITIVES]


def _f1(sums: Floats) -> Floats:
    # 2PR / (P + R) = 2TP / (yes answers + yes questions). With TP = 0 POPE's own form is 0 / 0 and no value is
    # reported; in a bootstrap draw it is 0, the limit, because leaving such draws out would push the interval up.
    with np.errstate(divide="ignore", invalid="ignore"):
        value = 2 * sums[:, _TP] / (sums[:, _PREDICTED] + sums[:, _POSITIVES])
    return value


def _reported_f1(total: Floats) -> float:
    return float(_f1(total[None])[0]) if total[_TP] > 0 else float("nan")


def _why_undefined(spec: MetricSpec, total: Floats) -> str:
    if total[_POSITIVES] == 0:
        return "no question has the answer yes"
    if total[_PREDICTED] == 0:
        return "no question was answered yes"
    return f"no yes was right, so {spec.name} is 0 / 0"


def _all_of(pairs: Pairs, group: str | None, label: str) -> list[ScoredMetric]:
    said = np.array([prediction.chosen == "yes" for _, prediction in pairs], dtype=np.float64)
    scores = [_mean(ACCURACY, _right(pairs), pairs, group)]
    counts = _counts(pairs, [sample.image_id for sample, _ in pairs])
    total = counts.sum(axis=0)
    for spec, statistic in ((PRECISION, _precision), (RECALL, _recall), (F1, _f1)):
        value = _reported_f1(total) if spec is F1 else float(statistic(total[None])[0])
        if np.isnan(value):
            scores.append(undefined(spec, group, len(pairs), _why_undefined(spec, total)))
            continue
        interval = bootstrap_interval(counts, statistic, label=f"{label}/{group or ''}")
        scores.append(ScoredMetric(spec=spec, group=group, value=value, n=len(pairs), interval=interval))
    scores.append(_mean(YES_RATE, said, pairs, group))
    return scores


def f1_mean(table: Mapping[str, ScoredMetric], by_group: Mapping[str, Pairs], label: str) -> ScoredMetric:
    """Returns the mean of the splits' F1 in `table`, with its interval; without a value where one of them has none."""
    pairs = [item for items in by_group.values() for item in items]
    parts = [table[f"f1[{name}]"] for name in by_group]
    if gaps := [part for part in parts if part.value is None]:
        return undefined(POPE_F1_MEAN, None, len(pairs), f"F1 of '{gaps[0].group}' has no value: {gaps[0].reason}")
    images = sorted({sample.image_id for sample, _ in pairs})
    index = {image: row for row, image in enumerate(images)}
    counts = np.zeros((len(images), 3 * len(by_group)))
    for column, items in enumerate(by_group.values()):
        names = sorted({sample.image_id for sample, _ in items})
        part = _counts(items, [sample.image_id for sample, _ in items])
        counts[[index[name] for name in names], 3 * column : 3 * column + 3] = part

    def mean_f1(sums: Floats) -> Floats:
        columns = [_f1(sums[:, 3 * column : 3 * column + 3]) for column in range(len(by_group))]
        return np.mean(np.stack(columns), axis=0)

    value = sum(part.value or 0.0 for part in parts) / len(parts)
    interval = bootstrap_interval(counts, mean_f1, label=f"{label}/mean")
    return ScoredMetric(spec=POPE_F1_MEAN, group=None, value=value, n=len(pairs), interval=interval)


def _accuracy_mean(by_group: Mapping[str, Pairs]) -> ScoredMetric:
    pairs = [item for items in by_group.values() for item in items]
    strata = [sample.group for sample, _ in pairs]
    interval = mean_interval(_right(pairs), [sample.image_id for sample, _ in pairs], strata=strata)
    value = sum(float(_right(items).mean()) for items in by_group.values()) / len(by_group)
    return ScoredMetric(spec=ACCURACY_MEAN, group=None, value=value, n=len(pairs), interval=interval)
