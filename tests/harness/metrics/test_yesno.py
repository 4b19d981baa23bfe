from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.metrics.yesno import score_yesno
from ovbench.tasks.answers import parse_answer

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "pope_scoring.json").read_text(encoding="utf-8"))
NAMES = {"accuracy": "accuracy", "precision": "precision", "recall": "recall", "f1": "f1", "yes_ratio": "yes_rate"}
Rows = list[tuple[str, str, str, str | None]]


@pytest.fixture
def pope(quiz: Callable[..., Any]) -> Any:
    """The golden answers, with what POPE's own script read in them."""
    rows = [(case["image"], case["category"], case["label"], case["official"]["pred"]) for case in GOLDEN["cases"]]
    return score_yesno(*quiz(rows))


@pytest.mark.parametrize("name", list(NAMES))
def test_all_questions_score_as_popes_script_scores_them(pope: Any, name: str) -> None:
    assert pope[NAMES[name]].value == pytest.approx(GOLDEN["aggregate"]["official"][name], abs=1e-12)


@pytest.mark.parametrize("split", ["random", "popular", "adversarial"])
@pytest.mark.parametrize("name", list(NAMES))
def test_each_split_scores_as_popes_script_scores_it(pope: Any, split: str, name: str) -> None:
    assert pope[f"{NAMES[name]}[{split}]"].value == pytest.approx(
        GOLDEN["per_category"][split]["official"][name], abs=1e-12
    )


def test_the_means_over_splits_are_llavas(pope: Any) -> None:
    expected = GOLDEN["llava_style"]
    assert pope["pope_f1_mean"].value == pytest.approx(expected["mean_f1_of_categories"], abs=1e-12)
    assert pope["accuracy_mean"].value == pytest.approx(expected["mean_accuracy_of_categories"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["edge_aggregates"], ids=lambda case: case["name"])
def test_where_popes_script_stops_there_is_a_reason_and_no_number(case: Any, quiz: Callable[..., Any]) -> None:
    rows = [
        (f"image{index}", "", row["label"], parse_answer("pope_official", row["answer"].strip()))
        for index, row in enumerate(case["rows"])
    ]
    scores = score_yesno(*quiz(rows))
    official = case["official"]
    assert scores["yes_rate"].value == pytest.approx(official["yes_ratio"])
    for name in ("precision", "f1"):
        if official[name] is None:
            assert scores[name].value is None
            assert scores[name].reason
        else:
            assert scores[name].value == pytest.approx(official[name])


@pytest.mark.parametrize("group", [None, "random", "popular"])
def test_scores_are_the_oracles(
    group: str | None, random_yes_no: Rows, quiz: Callable[..., Any], oracle: ModuleType
) -> None:
    scores = score_yesno(*quiz(random_yes_no))
    own = [row for row in random_yes_no if group in (None, row[1])]
    expected = oracle.yes_no([row[3] for row in own], [row[2] for row in own])
    for name, value in expected.items():
        score = scores[name if group is None else f"{name}[{group}]"]
        assert score.value == pytest.approx(value), name
        assert score.n == len(own)


def test_the_interval_of_f1_is_the_oracles_bootstrap(
    random_yes_no: Rows, quiz: Callable[..., Any], oracle: ModuleType
) -> None:
    f1 = score_yesno(*quiz(random_yes_no))["f1"]

    def statistic(rows: Rows) -> float | None:
        return oracle.yes_no([row[3] for row in rows], [row[2] for row in rows])["f1"]

    low, high = oracle.bootstrap(random_yes_no, [row[0] for row in random_yes_no], statistic, 2000)
    assert (f1.interval.low, f1.interval.high) == (pytest.approx(low, abs=0.012), pytest.approx(high, abs=0.012))
    assert f1.interval.method == "bootstrap over 40 images, 1000 draws, percentiles"


def test_the_interval_of_the_mean_f1_lies_around_it(random_yes_no: Rows, quiz: Callable[..., Any]) -> None:
    score = score_yesno(*quiz(random_yes_no))["pope_f1_mean"]
    assert score.interval.low is not None
    assert score.interval.high is not None
    assert score.value is not None
    assert score.interval.low < score.value < score.interval.high


def test_an_unread_answer_is_wrong_a_miss_and_no_false_alarm(quiz: Callable[..., Any]) -> None:
    rows = [("a", "", "yes", "yes"), ("b", "", "yes", None), ("c", "", "no", None), ("d", "", "no", "no")]
    scores = score_yesno(*quiz(rows))
    assert {name: scores[name].value for name in ("accuracy", "precision", "recall", "yes_rate", "unparsed_rate")} == {
        "accuracy": 0.5,
        "precision": 1.0,
        "recall": 0.5,
        "yes_rate": 0.25,
        "unparsed_rate": 0.5,
    }


@pytest.mark.parametrize(
    ("rows", "name", "reason"),
    [
        ([("a", "", "yes", "no"), ("b", "", "no", "no")], "precision", "no question was answered yes"),
        ([("a", "", "no", "yes"), ("b", "", "no", "no")], "recall", "no question has the answer yes"),
        ([("a", "", "no", "yes"), ("b", "", "yes", "no")], "f1", "no yes was right, so f1 is 0 / 0"),
    ],
)
def test_a_division_by_zero_is_a_reason(rows: Rows, name: str, reason: str, quiz: Callable[..., Any]) -> None:
    score = score_yesno(*quiz(rows))[name]
    assert (score.value, score.interval.low) == (None, None)
    assert score.reason == reason


def test_a_mean_over_splits_needs_all_of_them(quiz: Callable[..., Any]) -> None:
    rows = [("a", "random", "yes", "yes"), ("b", "random", "no", "no"), ("c", "popular", "yes", "no")]
    score = score_yesno(*quiz(rows))["pope_f1_mean"]
    assert score.value is None
    assert score.reason == "F1 of 'popular' has no value: no question was answered yes"


def test_a_model_that_always_says_yes_shows_in_its_yes_rate(quiz: Callable[..., Any]) -> None:
    rows = [(str(index), "", ("yes", "no")[index % 2], "yes") for index in range(20)]
    scores = score_yesno(*quiz(rows))
    assert scores["accuracy"].value == 0.5
    assert scores["f1"].value == pytest.approx(2 / 3)
    assert scores["yes_rate"].value == 1.0
    assert scores["yes_rate"].spec.higher_is_better is None


def test_intervals_do_not_depend_on_the_order_of_answers(random_yes_no: Rows, quiz: Callable[..., Any]) -> None:
    samples, predictions = quiz(random_yes_no)
    straight, reversed_ = score_yesno(samples, predictions), score_yesno(samples[::-1], predictions[::-1])
    assert straight["f1"] == reversed_["f1"]


def test_another_answer_than_yes_or_no_is_an_error(quiz: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="a yes/no task knows yes and no only"):
        score_yesno(*quiz([("a", "", "yes", "Yes")]))
