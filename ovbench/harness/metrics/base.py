"""What a metric declares and what scoring gives; pairs answers with their questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ovbench._base.errors import DataError
from ovbench.harness.metrics.interval import Interval
from ovbench.results.record import Control, MetricValue


class SampleLike(Protocol):
    """What scoring reads of a question; `tasks.base.Sample` has it."""

    @property
    def item_id(self) -> str: ...
    @property
    def image_id(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def group(self) -> str: ...


class PredictionLike(Protocol):
    """What scoring reads of an answer; `tasks.base.Prediction` has it."""

    @property
    def item_id(self) -> str: ...
    @property
    def parsed(self) -> str | None: ...
    @property
    def option_scores(self) -> tuple[float, ...] | None: ...
    @property
    def chosen(self) -> str | None: ...
    @property
    def correct(self) -> bool | None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricSpec:
    """A metric: what its number means and which way is good."""

    name: str
    title: str
    higher_is_better: bool | None  # None: describes, and has no good direction
    unit: str = "fraction"  # printed as percent
    citation: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredMetric:
    """One score; a missing value carries its reason."""

    spec: MetricSpec
    value: float | None
    n: int  # questions it rests on
    interval: Interval
    group: str | None = None  # dimension or split; None: over all questions
    reason: str | None = None  # why `value` is None

    @property
    def key(self) -> str:
        """`name`, or `name/group`."""
        return self.spec.name if self.group is None else f"{self.spec.name}/{self.group}"


def missing(spec: MetricSpec, reason: str, *, n: int, group: str | None = None) -> ScoredMetric:
    """Returns a metric that has no value, with the reason."""
    return ScoredMetric(spec=spec, value=None, n=n, interval=Interval.none("no value"), group=group, reason=reason)


def by_key(scores: Sequence[ScoredMetric]) -> dict[str, ScoredMetric]:
    """Returns scores by `name` or `name/group`, in the order given."""
    table = {score.key: score for score in scores}
    assert len(table) == len(scores), "two scores share a key"
    return table


def to_values(scores: Mapping[str, ScoredMetric], *, task: str, control: Control = "none") -> tuple[MetricValue, ...]:
    """Returns scores as a record stores them.

    Args:
        scores: From `score_choice` or `score_yesno`.
        task: Name of the task.
        control: Under which control the answers were given.
    """
    return tuple(
        MetricValue(
            task=task,
            name=score.spec.name,
            value=score.value,
            unit=score.spec.unit,
            higher_is_better=score.spec.higher_is_better,
            n=score.n,
            low=score.interval.low,
            high=score.interval.high,
            interval=score.interval.method,
            reason=score.reason,
            group=score.group,
            control=control,
        )
        for score in scores.values()
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """One question with its answer."""

    image_id: str
    group: str
    answer: str  # the right one
    given: str | None  # the one that is scored; None: nothing could be read
    greedy: str | None  # what the parser read in the free answer
    ranked: bool  # `given` comes from ranking the options

    @property
    def correct(self) -> bool:
        """Whether the scored answer is right."""
        return self.given == self.answer


def pair(samples: Sequence[SampleLike], predictions: Sequence[PredictionLike]) -> list[Scored]:
    """Joins answers to questions by item id, in the order of the questions.

    Raises:
        DataError: There is no question, an answer is missing, double or belongs to no question, or its `correct`
            contradicts the comparison of `chosen` with the right answer.
    """
    if not samples:
        raise DataError("there is no question to score", fix="check the task's source and --limit")
    answers = {prediction.item_id: prediction for prediction in predictions}
    known = {sample.item_id for sample in samples}
    if len(known) != len(samples):
        raise DataError("two questions share an item id", fix="give each question its own id in the task's source")
    if len(answers) != len(predictions):
        raise DataError("a question was answered twice", fix="remove the damaged answers step from the cache")
    if absent := [sample.item_id for sample in samples if sample.item_id not in answers]:
        raise DataError(
            f"{len(absent)} of {len(samples)} answers are missing, the first is '{absent[0]}'",
            fix="run the same command again: it answers what is missing",
        )
    if strange := sorted(set(answers) - known):
        raise DataError(f"the answer '{strange[0]}' belongs to no question of the task", fix="score it with its task")
    return [_joined(sample, answers[sample.item_id]) for sample in samples]


def _joined(sample: SampleLike, prediction: PredictionLike) -> Scored:
    scored = Scored(
        image_id=sample.image_id,
        group=sample.group,
        answer=sample.answer,
        given=prediction.chosen,
        greedy=prediction.parsed,
        ranked=prediction.option_scores is not None,
    )
    if prediction.correct is not None and prediction.correct != scored.correct:
        raise DataError(
            f"the answer to '{sample.item_id}' is marked {'right' if prediction.correct else 'wrong'}, but "
            f"'{prediction.chosen}' {'is' if scored.correct else 'is not'} '{sample.answer}'",
            fix="this is a fault of ovbench: please report it",
        )
    return scored


def group_names(scored: Sequence[Scored]) -> list[str]:
    """Returns the dimensions or splits in order of first appearance; the empty name is no group."""
    return [name for name in dict.fromkeys(entry.group for entry in scored) if name]


def item_rows(
    task: str, control: Control, samples: Sequence[Any], predictions: Sequence[Any]
) -> list[dict[str, Any]]:
    """Returns the per-question rows of `samples.parquet`, in the order of the questions.

    Args:
        task: Name of the task.
        control: Under which control the answers were given.
        samples: `tasks.base.Sample` objects.
        predictions: Their `tasks.base.Prediction` objects, in any order.
    """
    answers = {prediction.item_id: prediction for prediction in predictions}
    rows: list[dict[str, Any]] = []
    for sample in samples:
        given = answers[sample.item_id]
        scores = given.option_scores
        rows.append(
            {
                "task": task,
                "control": control,
                "item_id": sample.item_id,
                "image_id": sample.image_id,
                "group": sample.group or None,
                "question": sample.question,
                "options": list(sample.options),
                "answer": sample.answer,
                "raw": given.raw,
                "parsed": given.parsed,
                "chosen": given.chosen,
                "option_scores": None if scores is None else list(scores),
                "correct": given.correct,
            }
        )
    return rows
