from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from ovbench.harness.metrics.answer_ratios import Answers, NotCompared, ratios_of
from ovbench.harness.metrics.choice import score_choice
from ovbench.harness.metrics.yesno import score_yesno


def _answers(samples: Any, predictions: Any, extra: list[dict[str, str]] | None = None) -> Answers:
    return Answers(
        item_ids=tuple(sample.item_id for sample in samples),
        images=tuple(sample.image_id for sample in samples),
        groups=tuple(sample.group for sample in samples),
        questions=tuple(sample.question for sample in samples),
        answers=tuple(sample.answer for sample in samples),
        raw=tuple(entry.raw for entry in predictions),
        parsed=tuple(entry.parsed for entry in predictions),
        chosen=tuple(entry.chosen for entry in predictions),
        correct=np.array([entry.correct for entry in predictions]),
        scores=np.array([entry.correct for entry in predictions], dtype=float),
        extra=tuple(extra or [{} for _ in samples]),
    )


def test_every_yes_no_score_is_the_scorers(quiz: Callable[..., Any], random_yes_no: Any) -> None:
    samples, predictions = quiz(random_yes_no)
    answers = _answers(samples, predictions)
    scores = score_yesno(samples, predictions)
    assert len(scores) > 15
    for score in scores.values():
        assert ratios_of(score.spec.name, score.group, answers).value == pytest.approx(score.value), score.key


def test_every_choice_score_is_the_scorers(quiz: Callable[..., Any], random_yes_no: Any) -> None:
    samples, predictions = quiz(random_yes_no, ranked=True)
    answers = _answers(samples, predictions)
    scores = score_choice(samples, predictions)
    for score in scores.values():
        assert ratios_of(score.spec.name, score.group, answers).value == pytest.approx(score.value), score.key


def test_only_images_of_a_group_count(quiz: Callable[..., Any]) -> None:
    rows = [("a", "one", "x", "x"), ("b", "two", "x", "x"), ("c", "one", "x", None)]
    found = ratios_of("accuracy", "one", _answers(*quiz(rows)))
    assert (found.num_images, found.value) == (2, 0.5)


def _pairs(quiz: Callable[..., Any], group: str, rights: list[tuple[bool, bool]]) -> list[tuple[str, str, str, str]]:
    return [
        (f"{group}{image}", group, answer, answer if good else "other")
        for image, pair in enumerate(rights)
        for answer, good in zip(("yes", "no"), pair, strict=True)
    ]


def test_mme_counts_questions_and_images_with_both_right(quiz: Callable[..., Any]) -> None:
    rows = _pairs(quiz, "code_reasoning", [(True, True), (True, False), (False, False)])
    answers = _answers(*quiz(rows))
    assert ratios_of("accuracy_plus", None, answers).value == pytest.approx(1 / 3)
    assert ratios_of("mme_cognition", "code_reasoning", answers).value == pytest.approx(100 * (3 / 6 + 1 / 3))


def test_mme_sums_its_categories(quiz: Callable[..., Any]) -> None:
    rows: list[Any] = []
    for name in ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"):
        rows += _pairs(quiz, name, [(True, True), (True, False)])
    answers = _answers(*quiz(rows))
    found = ratios_of("mme_cognition", None, answers)
    assert found.value == pytest.approx(4 * 100 * (3 / 4 + 1 / 2))
    assert found.num_images == 8


def test_an_mme_sum_without_a_category_is_not_compared(quiz: Callable[..., Any]) -> None:
    answers = _answers(*quiz(_pairs(quiz, "code_reasoning", [(True, True)])))
    with pytest.raises(NotCompared, match="'commonsense_reasoning' was not asked in pairs"):
        ratios_of("mme_cognition", None, answers)


def test_a_question_without_a_partner_is_in_no_pair(quiz: Callable[..., Any]) -> None:
    rows = [("a", "scene", "yes", "yes"), ("b", "scene", "yes", "yes"), ("a", "scene", "no", "no")]
    found = ratios_of("accuracy_plus", None, _answers(*quiz(rows)))
    assert (found.value, found.num_images) == (1.0, 1)


def test_a_circular_question_needs_every_rotation(quiz: Callable[..., Any]) -> None:
    rows = [("a", "g", "x", "x"), ("a", "g", "x", "x"), ("b", "g", "x", "x"), ("b", "g", "x", None)]
    extra = [{"index": index} for index in ("7", "1000007", "8", "1000008")]
    samples, predictions = quiz(rows)
    assert ratios_of("accuracy_circular", None, _answers(samples, predictions, extra)).value == 0.5
    with pytest.raises(NotCompared, match="which rows are rotations"):
        ratios_of("accuracy_circular", None, _answers(samples, predictions))


def test_an_unknown_score_is_not_compared(quiz: Callable[..., Any]) -> None:
    answers = _answers(*quiz([("a", "g", "x", "x")]))
    with pytest.raises(NotCompared, match="'n_unparsed' is no sum over questions"):
        ratios_of("n_unparsed", None, answers)
    with pytest.raises(NotCompared, match="no common question is of 'other'"):
        ratios_of("accuracy", "other", answers)
