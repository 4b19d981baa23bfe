"""Runs made by hand: answers of known rightness, scored by the real scorers, stored by the real store."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ovbench.harness.metrics.base import values_of
from ovbench.harness.metrics.score import sample_rows, score_task
from ovbench.results.record import ProtocolRecord, RunRecord
from ovbench.results.store import RunStore
from ovbench.tasks.base import Prediction, Sample, TaskSpec
from tests.results.conftest import POPE, TASK, record

CHOICE = TaskSpec(
    name="mini-seed",
    version=1,
    title="choices",
    kind="choice",
    source={},
    prompt="{question}",
    scoring="greedy",
    parser="option_text",
    metrics=("accuracy",),
    headline="accuracy",
    chance=0.5,
)
YES_NO = dataclasses.replace(
    CHOICE, name="mini-pope", kind="yesno", parser="yesno_strict", metrics=("accuracy", "f1"), headline="accuracy"
)
MINI = ProtocolRecord(name="mini", version=1, content={"name": "mini", "version": 1, "variants": "mini"})
TASKS = {"mini-seed": (CHOICE, TASK), "mini-pope": (YES_NO, POPE)}


def questions(num_images: int, per_image: int, *, kind: str = "choice", start: int = 0) -> list[Sample]:
    """Questions `q0` …, `per_image` in a row about each image; every other one is of the group `location`."""
    found: list[Sample] = []
    for index in range(start, start + num_images * per_image):
        options, answer = (("red", "blue"), "red") if kind == "choice" else (("yes", "no"), ("yes", "no")[index % 2])
        found.append(
            Sample(
                item_id=f"q{index}",
                image_id=f"scene{index // per_image}",
                prompt="?",
                question=f"question {index}",
                options=options,
                answer=answer,
                group=("identity", "location")[index // 2 % 2],
            )
        )
    return found


def answered(samples: Sequence[Sample], right: Sequence[bool]) -> list[Prediction]:
    """Answers that are right or wrong as wanted."""
    found: list[Prediction] = []
    for sample, good in zip(samples, right, strict=True):
        wrong = next(option for option in sample.options if option != sample.answer)
        said = sample.answer if good else wrong
        found.append(
            Prediction(item_id=sample.item_id, raw=said, parsed=said, option_scores=None, chosen=said, correct=good)
        )
    return found


def clustered(seed: int, num_images: int, per_image: int, chance: float) -> list[bool]:
    """Right or wrong per question; images are easy or hard."""
    generator = np.random.default_rng(seed)
    easy = generator.beta(4 * chance, 4 * (1 - chance), size=num_images)
    return (generator.random((num_images, per_image)) < easy[:, None]).ravel().tolist()


def keep_run(
    store: RunStore,
    spec: str,
    answers: Mapping[str, tuple[Sequence[Sample], Sequence[bool]]],
    *,
    task_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunRecord:
    """Stores a run; `answers` holds questions and rightness per task, `changes` are of the record."""
    changes.setdefault("protocol", MINI)
    metrics: list[Any] = []
    rows: list[Any] = []
    tasks: list[Any] = []
    for name, (samples, right) in answers.items():
        about, kept = TASKS[name]
        predictions = answered(samples, right)
        metrics += values_of(score_task(about, samples, predictions), name, "none")
        rows += sample_rows(name, "none", samples, predictions)
        groups = ("identity", "location")
        tasks.append(
            dataclasses.replace(kept, n=len(samples), num_total=len(samples), groups=groups, **(task_changes or {}))
        )
    made = record(spec, metrics, tasks=tuple(tasks), **changes)
    return store.keep(made, rows)
