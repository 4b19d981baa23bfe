"""Open questions: the mean of the answers' scores. How right one answer is says the benchmark's own file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.metrics.base import MetricSpec, ScoredMetric, collect, group_order, pair
from ovbench.harness.metrics.choice import UNPARSED, Pairs, rate
from ovbench.harness.metrics.interval import mean_interval
from ovbench.tasks.answers import parse_answer
from ovbench.tasks.base import Prediction, Sample

SCORER = "open-1"  # name and version; a change of any number raises the version

ACCURACY = MetricSpec(
    name="accuracy",
    title="mean score of the answers",
    unit="fraction",
    higher_is_better=True,
    citation="the benchmark's own score of an answer",
)


def references(sample: Sample) -> tuple[str, ...]:
    """Returns every reference answer of an open question."""
    return sample.answers or (sample.answer,)


def grade_equal(parser: str, raw: str, sample: Sample) -> float:
    """Returns 1 where an answer equals a reference, both as the parser reads them, else 0."""
    said = parse_answer(parser, raw)
    return float(said is not None and said in {parse_answer(parser, answer) for answer in references(sample)})


def score_open(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str] = (), label: str = "open"
) -> dict[str, ScoredMetric]:
    """Scores answers to open questions.

    Args:
        samples: The questions.
        predictions: One answer per question, in any order, each with its `score`.
        groups: Order of the groups; others follow as they come.
        label: Not used: nothing is drawn.

    Returns:
        By key: `accuracy`, `accuracy[group]`, `unparsed_rate`.

    Raises:
        DataError: Answers do not match the questions, or have no score.
    """
    del label
    pairs = pair(samples, predictions)
    if bare := [prediction.item_id for _, prediction in pairs if prediction.score is None]:
        raise DataError(f"{len(bare)} answers to open questions have no score, first '{bare[0]}'")
    names = group_order(samples, groups)
    scores = [_mean(pairs, None)]
    scores += [_mean([item for item in pairs if item[0].group == name], name) for name in names]
    scores.append(rate(UNPARSED, pairs, lambda _, prediction: prediction.parsed is None, None))
    return collect(scores)


def _mean(pairs: Pairs, group: str | None) -> ScoredMetric:
    values = np.array([prediction.score for _, prediction in pairs], dtype=np.float64)
    interval = mean_interval(values, [sample.image_id for sample, _ in pairs])
    return ScoredMetric(spec=ACCURACY, group=group, value=float(values.mean()), n=len(pairs), interval=interval)
