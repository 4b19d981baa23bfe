from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest

from ovbench.harness.metrics.base import values_of
from ovbench.harness.metrics.choice import score_choice
from ovbench.harness.metrics.judging import judge
from ovbench.harness.metrics.score import sample_rows, score_task, scorer_name
from ovbench.harness.metrics.yesno import score_yesno
from ovbench.results.store import SAMPLE_COLUMNS
from ovbench.tasks.base import METRICS, TaskSpec
from ovbench.tasks.load import load_task, task_names

SPEC = TaskSpec(
    name="quiz",
    version=1,
    title="a quiz",
    kind="choice",
    source={},
    prompt="{question}",
    scoring="likelihood",
    parser="option_text",
    metrics=("accuracy",),
    headline="accuracy",
    chance=0.5,
    family="mini",
)


@pytest.mark.parametrize("name", task_names())
def test_every_task_of_the_catalogue_gets_the_metrics_it_asks_for(name: str, quiz: Callable[..., Any]) -> None:
    spec = load_task(name)
    groups = (*spec.groups, "one", "two")[:2] if len(spec.groups) != 1 else spec.groups * 2
    rows = [(image, groups[number % 2], ("yes", "no")[number % 2], "yes") for number, image in enumerate("aabb")]
    samples = [
        dataclasses.replace(
            sample, answers=(sample.answer,) * 10, extra={"index": str(number), "question_id": sample.image_id}
        )
        for number, sample in enumerate(quiz(rows)[0])
    ]
    predictions = [judge(spec, sample, "yes", ()) for sample in samples]
    assert set(spec.metrics) <= set(score_task(spec, samples, predictions))


@pytest.mark.parametrize("kind", ["choice", "yesno"])
def test_every_metric_that_a_task_may_ask_for_is_given(kind: Any, quiz: Callable[..., Any]) -> None:
    rows = [("a", "one", "yes", "yes"), ("b", "one", "no", "no")]
    score = score_choice if kind == "choice" else score_yesno
    assert set(METRICS[kind]) <= set(score(*quiz(rows)))


def test_the_scorer_says_how_answers_are_read_and_its_version() -> None:
    assert scorer_name(SPEC) == "likelihood, option_text, choice-1"
    yes_no = dataclasses.replace(SPEC, kind="yesno", scoring="greedy", parser="pope_official")
    assert scorer_name(yes_no) == "greedy, pope_official, yesno-1"


def test_scores_become_the_values_of_a_record(quiz: Callable[..., Any]) -> None:
    scores = score_task(SPEC, *quiz([("a", "g", "x", "x"), ("b", "g", "x", "y")]))
    values = values_of(scores, "quiz", "blind")
    assert [(value.name, value.group) for value in values[:2]] == [("accuracy", None), ("accuracy", "g")]
    assert {value.control for value in values} == {"blind"}
    assert (values[0].value, values[0].unit, values[0].n) == (0.5, "fraction", 2)


def test_rows_have_the_columns_of_the_store(quiz: Callable[..., Any]) -> None:
    rows = sample_rows("quiz", "none", *quiz([("a", "g", "x", "x"), ("b", "g", "x", None)], ranked=True))
    assert [tuple(row) for row in rows] == [SAMPLE_COLUMNS] * 2
    assert (rows[1]["parsed"], rows[1]["correct"], rows[1]["option_scores"]) == (None, False, [-1.0, -2.0])
