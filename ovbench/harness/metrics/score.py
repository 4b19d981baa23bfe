"""Scores the answers of a task with the metric file of its kind, and lays out the per-question rows of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovbench.harness.metrics import choice, yesno
from ovbench.harness.metrics.base import ScoredMetric, pair
from ovbench.tasks.base import Prediction, Sample, TaskSpec


def scorer_name(spec: TaskSpec) -> str:
    """Returns how a task's answers are read and scored, e.g. `greedy, yesno_strict, yesno-1`; stored and compared."""
    version = choice.SCORER if spec.kind == "choice" else yesno.SCORER
    return f"{spec.scoring}, {spec.parser}, {version}"


def score_task(spec: TaskSpec, samples: Sequence[Sample], predictions: Sequence[Prediction]) -> dict[str, ScoredMetric]:
    """Scores the answers of one task under one control.

    Returns:
        By key, e.g. `accuracy` and `accuracy[location]`: everything that the scorer of the task's kind gives.

    Raises:
        DataError: Answers do not match the questions.
    """
    if spec.kind == "choice":
        scores = choice.score_choice(samples, predictions, groups=spec.groups)
    else:
        scores = yesno.score_yesno(samples, predictions, groups=spec.groups, label=spec.name)
    assert set(spec.metrics) <= set(scores), "tasks/base.py lists a metric that the scorer does not give"
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
        }
        for sample, prediction in pair(samples, predictions)
    ]
