"""Scores the answers of a task with the metric file of its kind, and lays out the per-question rows of a record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ovbench._base.errors import ConfigError
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
        ConfigError: The task asks for a metric that its scorer does not give.
    """
    if spec.kind == "choice":
        scores = choice.score_choice(samples, predictions, groups=spec.groups)
    else:
        scores = yesno.score_yesno(samples, predictions, groups=spec.groups, label=spec.name)
    if unknown := [name for name in spec.metrics if name not in scores]:
        given = ", ".join(dict.fromkeys(score.spec.name for score in scores.values()))
        raise ConfigError(
            f"the task '{spec.name}' asks for the metric '{unknown[0]}', which the {spec.kind} scorer does not give",
            where=f"task '{spec.name}', metrics",
            fix=f"use some of: {given}",
        )
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
            "option_scores": None if prediction.option_scores is None else list(prediction.option_scores),
        }
        for sample, prediction in pair(samples, predictions)
    ]
