from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.metrics.choice import score_choice


def _rows(count: int = 200) -> list[tuple[str, str, str, str | None]]:
    generator = random.Random(1)
    words = ["bag", "boot", "dress", "shirt"]
    return [
        (f"image{index % 50}", generator.choice(["identity", "location"]), generator.choice(words), chosen)
        for index in range(count)
        for chosen in [generator.choice([*words, None])]
    ]


def test_accuracy_is_the_oracles_over_all_and_per_group(quiz: Callable[..., Any], oracle: ModuleType) -> None:
    rows = _rows()
    scores = score_choice(*quiz(rows))
    for group in (None, "identity", "location"):
        own = [row for row in rows if group in (None, row[1])]
        score = scores["accuracy" if group is None else f"accuracy[{group}]"]
        assert score.value == pytest.approx(oracle.accuracy([row[3] for row in own], [row[2] for row in own]))
        assert score.n == len(own)


def test_macro_is_the_mean_of_the_groups(quiz: Callable[..., Any]) -> None:
    rows = [("a", "one", "x", "x"), ("b", "one", "x", "x"), ("c", "one", "x", "x"), ("d", "two", "x", "y")]
    scores = score_choice(*quiz(rows))
    assert scores["accuracy"].value == 0.75
    assert scores["accuracy_macro"].value == 0.5


def test_an_answer_that_cannot_be_read_is_wrong_and_counted(quiz: Callable[..., Any]) -> None:
    scores = score_choice(*quiz([("a", "", "x", "x"), ("b", "", "x", None), ("c", "", "x", "y"), ("d", "", "x", "x")]))
    assert scores["accuracy"].value == 0.5
    assert scores["accuracy"].n == 4
    assert scores["unparsed_rate"].value == 0.25
    assert scores["unparsed_rate"].spec.higher_is_better is False


def test_the_written_answer_is_scored_beside_the_ranked_one(quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz([("a", "g", "x", "x"), ("b", "g", "x", "x")], ranked=True)
    predictions[0] = dataclasses.replace(predictions[0], parsed="y", raw="y")
    scores = score_choice(samples, predictions)
    assert scores["accuracy"].value == 1.0
    assert scores["greedy_accuracy"].value == 0.5
    assert scores["greedy_accuracy[g]"].value == 0.5


def test_without_ranking_there_is_no_second_accuracy(quiz: Callable[..., Any]) -> None:
    assert "greedy_accuracy" not in score_choice(*quiz([("a", "", "x", "x"), ("b", "", "x", "y")]))


def test_without_groups_there_is_no_macro(quiz: Callable[..., Any]) -> None:
    assert set(score_choice(*quiz([("a", "", "x", "x"), ("b", "", "x", "y")]))) == {"accuracy", "unparsed_rate"}


def test_groups_come_in_the_order_that_is_asked_for(quiz: Callable[..., Any]) -> None:
    rows = [("a", "three", "x", "x"), ("b", "one", "x", "x"), ("c", "two", "x", "x")]
    keys = list(score_choice(*quiz(rows), groups=("one", "absent", "two")))
    assert keys[:4] == ["accuracy", "accuracy[one]", "accuracy[two]", "accuracy[three]"]


def test_answers_may_come_in_any_order(quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz(_rows())
    assert score_choice(samples, predictions[::-1]) == score_choice(samples, predictions)


def test_a_question_without_an_answer_is_named(quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz(_rows(5))
    with pytest.raises(DataError, match="1 of 5 questions have no answer, first 'q2'"):
        score_choice(samples, [*predictions[:2], *predictions[3:]])


def test_an_answer_without_a_question_is_named(quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz(_rows(5))
    with pytest.raises(DataError, match="1 answers belong to no question, first 'q4'"):
        score_choice(samples[:4], predictions)


def test_a_question_that_is_answered_twice_is_named(quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz(_rows(5))
    with pytest.raises(DataError, match="'q0' was answered twice"):
        score_choice(samples, [*predictions, predictions[0]])


def test_an_answer_that_is_marked_wrongly_is_named(quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz([("a", "", "x", "x")])
    with pytest.raises(DataError, match="marked wrong, but 'x' was chosen and 'x' is right"):
        score_choice(samples, [dataclasses.replace(predictions[0], correct=False)])


def test_no_question_is_an_error() -> None:
    with pytest.raises(DataError, match="no question to score"):
        score_choice([], [])
