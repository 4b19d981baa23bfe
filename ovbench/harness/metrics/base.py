"""What a metric is, and a score with its interval. The metrics themselves are in the files beside this one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovbench._base.errors import DataError
from ovbench.results.record import MetricValue
from ovbench.tasks.base import Prediction, Sample

HALF = 0.5  # the score from which an answer that can be partly right counts as right


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSpec:
    """Name, unit and direction of a metric: no table guesses which way is good."""

    name: str
    title: str
    unit: str  # fraction, dB, …
    higher_is_better: bool | None  # None: neither way is better
    citation: str  # where the definition comes from


@dataclass(frozen=True, kw_only=True, slots=True)
class Interval:
    """A 95% interval, or the reason why there is none."""

    low: float | None
    high: float | None
    method: str  # how it was made, or why it was not


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredMetric:
    """A metric computed on one task under one control."""

    spec: MetricSpec
    group: str | None  # dimension or split; None: all questions
    value: float | None  # None: see `reason`
    n: int  # questions
    interval: Interval
    reason: str | None = None

    @property
    def key(self) -> str:
        """`accuracy`, or `accuracy[location]` for one group."""
        return self.spec.name if self.group is None else f"{self.spec.name}[{self.group}]"

    def to_value(self, task: str, control: str) -> MetricValue:
        """Returns the score as a record holds it."""
        return MetricValue(
            task=task,
            name=self.spec.name,
            control=control,
            group=self.group,
            value=self.value,
            unit=self.spec.unit,
            higher_is_better=self.spec.higher_is_better,
            n=self.n,
            low=self.interval.low,
            high=self.interval.high,
            interval=self.interval.method,
            reason=self.reason,
        )


def undefined(spec: MetricSpec, group: str | None, n: int, reason: str) -> ScoredMetric:
    """Returns a score that has no value, with the reason."""
    interval = Interval(low=None, high=None, method="none: there is no value")
    return ScoredMetric(spec=spec, group=group, value=None, n=n, interval=interval, reason=reason)


def counted(spec: MetricSpec, count: int, n: int, group: str | None = None) -> ScoredMetric:
    """Returns a number of answers; it is exact and has no interval."""
    interval = Interval(low=None, high=None, method="none: a count")
    return ScoredMetric(spec=spec, group=group, value=float(count), n=n, interval=interval)


def count_spec(name: str, title: str, citation: str) -> MetricSpec:
    """Returns the metric of a count, of which less is better."""
    return MetricSpec(name=name, title=title, unit="count", higher_is_better=False, citation=citation)


def collect(scores: Sequence[ScoredMetric]) -> dict[str, ScoredMetric]:
    """Returns scores by key, in the given order."""
    table = {score.key: score for score in scores}
    assert len(table) == len(scores), "two scores have the same key"
    return table


def pair(samples: Sequence[Sample], predictions: Sequence[Prediction]) -> list[tuple[Sample, Prediction]]:
    """Matches questions with answers by item id, in the order of the questions.

    Raises:
        DataError: No question, a question answered twice or not at all, an answer to no question, or an answer whose
            `correct` contradicts its `chosen`, or its `score` where it has one.
    """
    if not samples:
        raise DataError("there is no question to score")
    answers: dict[str, Prediction] = {}
    for prediction in predictions:
        if prediction.item_id in answers:
            raise DataError(f"question '{prediction.item_id}' was answered twice")
        answers[prediction.item_id] = prediction
    asked = {sample.item_id for sample in samples}
    if len(asked) != len(samples):
        raise DataError("two questions have the same item id")
    if missing := [sample.item_id for sample in samples if sample.item_id not in answers]:
        raise DataError(f"{len(missing)} of {len(samples)} questions have no answer, first '{missing[0]}'")
    if extra := [item for item in answers if item not in asked]:
        raise DataError(f"{len(extra)} answers belong to no question, first '{extra[0]}'")
    for sample in samples:
        prediction = answers[sample.item_id]
        if prediction.score is not None:
            _check_score(prediction)
        elif prediction.correct != (prediction.chosen == sample.answer):
            raise DataError(
                f"the answer to '{sample.item_id}' is marked {'right' if prediction.correct else 'wrong'}, "
                f"but '{prediction.chosen}' was chosen and '{sample.answer}' is right"
            )
    return [(sample, answers[sample.item_id]) for sample in samples]


def _check_score(prediction: Prediction) -> None:
    score = prediction.score or 0.0
    if not 0.0 <= score <= 1.0 or prediction.correct != (score >= HALF):
        raise DataError(
            f"the answer to '{prediction.item_id}' has the score {score} and is marked "
            f"{'right' if prediction.correct else 'wrong'}; a score is 0 to 1, and right from {HALF}"
        )


def group_order(samples: Sequence[Sample], groups: Sequence[str]) -> tuple[str, ...]:
    """Returns the groups that occur: first those named in `groups`, then others as they come; empty names left out."""
    found = dict.fromkeys(sample.group for sample in samples if sample.group)
    return (*[group for group in groups if group in found], *[group for group in found if group not in groups])


def values_of(scores: Mapping[str, ScoredMetric], task: str, control: str) -> tuple[MetricValue, ...]:
    """Returns scores as a record holds them."""
    return tuple(score.to_value(task, control) for score in scores.values())
