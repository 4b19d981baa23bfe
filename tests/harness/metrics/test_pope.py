"""POPE against what the official script, lmms-eval and VLMEvalKit gave for made-up answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from ovbench.harness.metrics.pope import (
    PROTOCOLS,
    Confusion,
    lmms_scores,
    official_scores,
    score_pope,
    vlmevalkit_scores,
)
from ovbench.harness.metrics.protocol_base import Answered
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_yesno import bare_word, first_word, one_word, pope_official

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "pope_scoring.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = GOLDEN["cases"]
SPLITS = ("random", "popular", "adversarial")


def _sample(index: int, label: str, group: str = "", image: str = "") -> Sample:
    return Sample(
        item_id=f"q{index}",
        image_id=image or f"image{index}",
        prompt="",
        question="Is there a cat?",
        options=("yes", "no"),
        answer=label,
        group=group,
    )


def _quiz(rows: Sequence[tuple[str, str, str, str]]) -> tuple[list[Sample], list[Prediction]]:
    """Rows of (raw, label, split, image), read officially as they are."""
    samples = [_sample(index, label, group, image) for index, (_, label, group, image) in enumerate(rows)]
    predictions = [
        Prediction(
            item_id=sample.item_id,
            raw=raw,
            parsed=pope_official(raw),
            option_scores=None,
            chosen=pope_official(raw),
            correct=pope_official(raw) == sample.answer,
        )
        for sample, (raw, *_) in zip(samples, rows, strict=True)
    ]
    return samples, predictions


@pytest.fixture(scope="module")
def scores() -> Any:
    return score_pope(*_quiz([(case["answer"], case["label"], case["category"], case["image"]) for case in CASES]))


def _answered(cases: Sequence[dict[str, Any]]) -> list[Answered]:
    return [
        Answered(sample=_sample(index, case["label"], case.get("category", "")), raw=case["answer"])
        for index, case in enumerate(cases)
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["answer"]))
def test_each_answer_is_read_as_each_program_reads_it(case: dict[str, Any]) -> None:
    raw, label = case["answer"], case["label"]
    assert pope_official(raw) == case["official"]["pred"]
    assert (pope_official(raw) == label) is case["official"]["correct"]
    assert (bare_word(raw) == label) is case["lmms_eval"]["correct"]
    assert (one_word(raw) or "unknown") == case["vlmevalkit_extract"].lower()


@pytest.mark.parametrize("name", ["accuracy", "precision", "recall", "f1", "yes_ratio"])
@pytest.mark.parametrize("split", [None, *SPLITS])
def test_the_official_numbers_are_the_scripts(scores: Any, split: str | None, name: str) -> None:
    expected = (GOLDEN["per_category"][split] if split else GOLDEN["aggregate"])["official"][name]
    key = {"yes_ratio": "yes_rate"}.get(name, name) + (f"[{split}]" if split else "")
    assert scores[key].value == pytest.approx(expected, abs=1e-12)
    protocol = PROTOCOLS["official"].score(_answered(CASES))
    assert protocol[f"{name}[{split}]" if split else name] == pytest.approx(expected, abs=1e-12)


def test_the_official_counts_are_the_scripts() -> None:
    counts = Confusion.of([pope_official(case["answer"]) for case in CASES], [case["label"] for case in CASES])
    official = GOLDEN["aggregate"]["official"]
    assert (counts.tp, counts.fp, counts.tn, counts.fn) == tuple(official[name] for name in ("TP", "FP", "TN", "FN"))


@pytest.mark.parametrize("split", [None, *SPLITS])
def test_the_numbers_of_lmms_eval_are_its_own(split: str | None) -> None:
    expected = (GOLDEN["per_category"][split] if split else GOLDEN["aggregate"])["lmms_eval"]
    found = PROTOCOLS["lmms-eval"].score(_answered(CASES))
    suffix = f"[{split}]" if split else ""
    assert {name: found[f"{name}{suffix}"] for name in expected} == pytest.approx(expected, abs=1e-12)


def test_the_numbers_of_lmms_eval_stand_beside_ours(scores: Any) -> None:
    expected = GOLDEN["aggregate"]["lmms_eval"]
    assert {name: scores[name].value for name in expected} == pytest.approx(expected, abs=1e-12)


def test_the_means_are_llavas(scores: Any) -> None:
    expected = GOLDEN["llava_style"]
    assert scores["pope_f1_mean"].value == pytest.approx(expected["mean_f1_of_categories"], abs=1e-12)
    assert scores["accuracy_mean"].value == pytest.approx(expected["mean_accuracy_of_categories"], abs=1e-12)
    assert scores["f1"].value == pytest.approx(expected["pooled_f1"], abs=1e-12)
    protocol = PROTOCOLS["official"].score(_answered(CASES))
    assert protocol["mean of the splits' f1"] == pytest.approx(expected["mean_f1_of_categories"], abs=1e-12)


@pytest.mark.parametrize("case", GOLDEN["edge_aggregates"], ids=lambda case: case["name"])
def test_a_division_by_zero_is_zero_and_is_counted(case: dict[str, Any]) -> None:
    said = [pope_official(row["answer"]) for row in case["rows"]]
    true = [row["label"] for row in case["rows"]]
    counts, official = Confusion.of(said, true), case["official"]
    assert (counts.tp, counts.fp, counts.tn, counts.fn) == tuple(official[name] for name in ("TP", "FP", "TN", "FN"))
    divisors = (counts.tp + counts.fp, counts.tp + counts.fn, counts.precision + counts.recall)
    assert (0 in divisors) is (official["error"] is not None)
    found = official_scores(said, true)
    for name in ("precision", "recall", "f1", "yes_ratio"):
        assert found[name] == pytest.approx(official[name] or 0.0)
    if official["error"] is None:
        assert found["accuracy"] == pytest.approx(official["accuracy"])
    said_exactly = [bare_word(row["answer"]) for row in case["rows"]]
    assert lmms_scores(said_exactly, true) == pytest.approx(case["lmms_eval"])
    scores = score_pope(*_quiz([(row["answer"], row["label"], "", "") for row in case["rows"]]))
    assert scores["n_zero_divisions"].value == divisors.count(0)
    assert {name: scores[name].value for name in ("precision", "recall", "f1")} == pytest.approx(
        {name: found[name] for name in ("precision", "recall", "f1")}
    )


def test_a_zero_division_says_so_where_the_interval_would_stand() -> None:
    scores = score_pope(*_quiz([("no", "yes", "random", ""), ("no", "no", "random", "")]))
    assert scores["f1[random]"].value == 0.0
    assert "POPE's script divides by zero" in scores["f1[random]"].interval.method
    assert (scores["pope_f1_mean"].value, scores["pope_f1_mean"].reason) == (0.0, None)


def test_one_split_that_divides_by_zero_pulls_the_mean_down() -> None:
    rows = [("yes", "yes", "random", "a"), ("no", "no", "random", "b"), ("no", "yes", "popular", "a")]
    assert score_pope(*_quiz(rows))["pope_f1_mean"].value == 0.5


def test_answers_without_a_yes_or_no_are_counted(scores: Any) -> None:
    unknown = sum(case["vlmevalkit_extract"] == "Unknown" for case in CASES)
    assert (scores["n_unparsed"].value, scores["n_unparsed"].n) == (unknown, len(CASES))
    assert scores["n_unparsed"].spec.unit == "count"


def test_the_yes_rate_is_of_predictions_and_lmms_evals_of_questions() -> None:
    scores = score_pope(*_quiz([("yes", "yes", "", "a"), ("yes", "no", "", "a"), ("yes", "no", "", "b")]))
    assert scores["yes_rate"].value == 1.0
    assert scores["pope_yes_ratio"].value == pytest.approx(1 / 3)


def test_the_headline_comes_first(scores: Any) -> None:
    assert next(iter(scores)) == "pope_f1_mean"


def test_a_question_in_two_splits_does_not_narrow_the_interval() -> None:
    rows = [
        (("yes", "no")[index % 3 == 0], ("yes", "no")[index % 2], split, f"image{index % 20}")
        for index in range(120)
        for split in ("random",)
    ]
    once = score_pope(*_quiz(rows))["accuracy"].interval
    twice = score_pope(*_quiz([*rows, *[(raw, label, "popular", image) for raw, label, _, image in rows]]))
    again = twice["accuracy"].interval
    assert (again.low, again.high) == pytest.approx((once.low, once.high))
    assert "clustered by image" in again.method


def test_f1_has_a_bootstrap_over_images(random_yes_no: Any, quiz: Callable[..., Any]) -> None:
    scores = score_pope(*quiz(random_yes_no))
    for name in ("pope_f1_mean", "f1", "precision", "recall", "pope_f1_score", "pope_precision"):
        score = scores[name]
        assert score.interval.method.startswith("bootstrap over 40 images"), name
        assert score.interval.low is not None
        assert score.interval.low <= (score.value or 0.0) <= (score.interval.high or 0.0)


def test_vlmevalkit_takes_an_unread_answer_for_a_no_in_f1_and_for_wrong_in_accuracy() -> None:
    found = vlmevalkit_scores(["yes", None, None], ["yes", "yes", "no"])
    assert found == pytest.approx({"Overall": 2 / 3, "acc": 1 / 3, "precision": 1.0, "recall": 0.5})


@pytest.mark.parametrize(
    ("raw", "word"), [("Yes, there is.", "yes"), ("no.", "no"), ("", None), ("Well, no", None), ("NO:", "no")]
)
def test_cambrian_reads_the_first_word(raw: str, word: str | None) -> None:
    assert first_word(raw) == word
