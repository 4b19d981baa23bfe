"""Multiple choice: accuracy, per group and macro. An answer that cannot be read counts as wrong."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ovbench.harness.metrics.base import MetricSpec, ScoredMetric, collect, group_order, pair
from ovbench.harness.metrics.interval import mean_interval
from ovbench.tasks.base import Prediction, Sample

SCORER = "choice-1"  # name and version; a change of any number raises the version
_SEED = "SEED-Bench (arXiv 2307.16125)"

ACCURACY = MetricSpec(name="accuracy", title="accuracy", unit="fraction", higher_is_better=True, citation=_SEED)
MACRO = MetricSpec(
    name="accuracy_macro",
    title="mean of the groups' accuracies",
    unit="fraction",
    higher_is_better=True,
    citation="unweighted mean over groups",
)
GREEDY = MetricSpec(
    name="greedy_accuracy",
    title="accuracy of the freely written answer",
    unit="fraction",
    higher_is_better=True,
    citation="the greedy answer as the task's parser reads it",
)
UNPARSED = MetricSpec(
    name="unparsed_rate",
    title="share of written answers that cannot be read",
    unit="fraction",
    higher_is_better=False,
    citation="the task's parser gives nothing",
)
Pairs = list[tuple[Sample, Prediction]]


def rate(
    spec: MetricSpec, pairs: Pairs, counts: Callable[[Sample, Prediction], bool], group: str | None
) -> ScoredMetric:
    """Returns the share of questions for which `counts` holds, with its interval clustered by image."""
    values = np.array([counts(sample, prediction) for sample, prediction in pairs], dtype=np.float64)
    interval = mean_interval(values, [sample.image_id for sample, _ in pairs])
    return ScoredMetric(spec=spec, group=group, value=float(values.mean()), n=len(pairs), interval=interval)


def _chosen_right(sample: Sample, prediction: Prediction) -> bool:
    return prediction.chosen == sample.answer


def _written_right(sample: Sample, prediction: Prediction) -> bool:
    return prediction.parsed == sample.answer


def _unread(sample: Sample, prediction: Prediction) -> bool:
    del sample
    return prediction.parsed is None


def score_choice(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = ()
) -> dict[str, ScoredMetric]:
    """Scores multiple-choice answers.

    Args:
        samples: The questions.
        predictions: One answer per question, in any order.
        groups: Order of the groups; others follow as they come.

    Returns:
        By key: `accuracy` of the chosen option, `accuracy[group]`, `accuracy_macro` (where there are groups),
        `greedy_accuracy` and `greedy_accuracy[group]` (where options were ranked), `unparsed_rate`.

    Raises:
        DataError: Answers do not match the questions.
    """
    pairs = pair(samples, predictions)
    names = group_order(samples, groups)
    by_group = {name: [item for item in pairs if item[0].group == name] for name in names}
    ranked = any(prediction.option_scores is not None for prediction in predictions)
    scores = [rate(ACCURACY, pairs, _chosen_right, None)]
    scores += [rate(ACCURACY, items, _chosen_right, name) for name, items in by_group.items()]
    if by_group:
        scores.append(_macro([item for item in pairs if item[0].group]))
    if ranked:
        scores.append(rate(GREEDY, pairs, _written_right, None))
        scores += [rate(GREEDY, items, _written_right, name) for name, items in by_group.items()]
    scores.append(rate(UNPARSED, pairs, _unread, None))
    return collect(scores)


def _macro(pairs: Pairs) -> ScoredMetric:
    values = np.array([_chosen_right(*item) for item in pairs], dtype=np.float64)
    strata = [sample.group for sample, _ in pairs]
    means = [float(values[[name == stratum for stratum in strata]].mean()) for name in dict.fromkeys(strata)]
    interval = mean_interval(values, [sample.image_id for sample, _ in pairs], strata=strata)
    return ScoredMetric(spec=MACRO, group=None, value=sum(means) / len(means), n=len(pairs), interval=interval)
