"""Scores the answers of a task with its scorer, and lays out the per-question rows of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ovbench.harness.metrics import (
    chartqa,
    choice,
    gqa,
    mmbench,
    mme,
    ocrbench,
    open_answers,
    pope,
    scienceqa,
    seedbench,
    vqa,
    yesno,
)
from ovbench.harness.metrics.base import ScoredMetric, pair
from ovbench.tasks.base import Prediction, Sample, TaskSpec


class ScoreAnswers(Protocol):
    """Questions with answers → scores by key."""

    def __call__(
        self, samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str], label: str
    ) -> dict[str, ScoredMetric]:
        """Takes questions, answers, the order of the groups and the task's name; raises DataError on a mismatch."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """What a name of tasks/scorers.py computes."""

    version: str  # name and version; a change of any number raises the version
    score: ScoreAnswers


def _choice(
    samples: Sequence[Sample], predictions: Sequence[Prediction], *, groups: Sequence[str], label: str
) -> dict[str, ScoredMetric]:
    del label
    return choice.score_choice(samples, predictions, groups=groups)


SCORERS: Mapping[str, Scorer] = {
    "choice": Scorer(version=choice.SCORER, score=_choice),
    "yesno": Scorer(version=yesno.SCORER, score=yesno.score_yesno),
    "open": Scorer(version=open_answers.SCORER, score=open_answers.score_open),
    "pope": Scorer(version=pope.SCORER, score=pope.score_pope),
    "seedbench": Scorer(version=seedbench.SCORER, score=seedbench.score_seedbench),
    "mme": Scorer(version=mme.SCORER, score=mme.score_mme),
    "gqa": Scorer(version=gqa.SCORER, score=open_answers.score_open),
    "scienceqa": Scorer(version=scienceqa.SCORER, score=scienceqa.score_scienceqa),
    "vqa": Scorer(version=vqa.SCORER, score=open_answers.score_open),
    "mmbench": Scorer(version=mmbench.SCORER, score=mmbench.score_mmbench),
    "chartqa": Scorer(version=chartqa.SCORER, score=open_answers.score_open),
    "ocrbench": Scorer(version=ocrbench.SCORER, score=open_answers.score_open),
}


def scorer_name(spec: TaskSpec) -> str:
    """Returns how a task's answers are read and scored, e.g. `greedy, yesno_strict, yesno-1`; stored and compared."""
    return f"{spec.scoring}, {spec.parser}, {SCORERS[spec.scorer_key].version}"


def score_task(spec: TaskSpec, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, ScoredMetric]:
    """Scores the answers of one task under one control.

    Returns:
        By key, e.g. `accuracy` and `accuracy[location]`: everything that the task's scorer gives.

    Raises:
        DataError: Answers do not match the questions.
    """
    scores = SCORERS[spec.scorer_key].score(samples, predictions, groups=spec.groups, label=spec.name)
    assert set(spec.metrics) <= set(scores), "tasks/scorers.py lists a metric that the scorer does not give"
    return scores


def sample_rows(
    task: str, control: str, samples: Sequence[Sample], predictions: Sequence[Prediction]
) -> list[dict[str, Any]]:
    """Returns one row per question, as `results/store.py` keeps them (`SAMPLE_COLUMNS`)."""
    return [
        {
            "task": task,
            "control": control,
            "item_id": sample.item_id,
            "image_id": sample.image_id,
            "group": sample.group,
            "question": sample.question,
            "answer": sample.answer,
            "raw": prediction.raw,
            "parsed": prediction.parsed,
            "chosen": prediction.chosen,
            "correct": prediction.correct,
            "options": list(sample.options),
            "option_scores": None if prediction.option_scores is None else list(prediction.option_scores),
            "answers": list(sample.answers),
            "extra": dict(sample.extra),
            "score": prediction.score,
        }
        for sample, prediction in pair(samples, predictions)
    ]
