"""Open questions: VQA, GQA, ChartQA, OCRBench and tasks without a scorer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.metrics.chartqa import PROTOCOLS as CHARTS
from ovbench.harness.metrics.chartqa import grade_chartqa
from ovbench.harness.metrics.gqa import PROTOCOLS as GQA
from ovbench.harness.metrics.judging import judge
from ovbench.harness.metrics.ocrbench import FORMULAS, grade_ocrbench
from ovbench.harness.metrics.ocrbench import PROTOCOLS as OCR
from ovbench.harness.metrics.open_answers import score_open
from ovbench.harness.metrics.protocol_base import Answered
from ovbench.harness.metrics.vqa import grade_vqa, soft_accuracy
from ovbench.tasks.base import Sample, TaskSpec
from ovbench.tasks.reading_text import vqa_normal


def _sample(*answers: str, group: str = "", **extra: str) -> Sample:
    return Sample(
        item_id="q",
        image_id="picture",
        prompt="",
        question="?",
        options=(),
        answer=answers[0],
        group=group,
        answers=answers,
        extra=extra,
    )


def _spec(scorer: str = "", parser: str = "vqa", **changes: Any) -> TaskSpec:
    fields: dict[str, Any] = {
        "name": "quiz",
        "version": 1,
        "title": "a quiz",
        "kind": "open",
        "source": {},
        "prompt": "{question}",
        "scoring": "greedy",
        "parser": parser,
        "metrics": ("accuracy",),
        "headline": "accuracy",
        "chance": 0.0,
        "scorer": scorer,
    }
    return TaskSpec(**{**fields, **changes})


@pytest.mark.parametrize(("same", "worth"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_an_answer_is_worth_what_ten_people_make_of_it(same: int, worth: float) -> None:
    answers = ["cat"] * same + [f"other {place}" for place in range(10 - same)]
    assert soft_accuracy("cat", answers) == pytest.approx(worth)


def test_both_sides_of_vqa_are_normalised() -> None:
    assert grade_vqa("The two Dogs.", _sample(*["2 dogs"] * 10)) == 1.0


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("A dog", "dog"),
        ("ten", "10"),
        ("dont", "don't"),
        ("what's", "what 's"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("end.", "end"),
        ("well-known", "well known"),
        ("well - known", "well known"),
        ("the", ""),
    ],
)
def test_the_normaliser_settles_case_punctuation_numbers_and_articles(raw: str, normal: str) -> None:
    assert vqa_normal(raw) == normal


def test_one_reference_is_too_few_for_vqa_accuracy() -> None:
    with pytest.raises(DataError, match="compares an answer with those of several people, found 1"):
        judge(_spec("vqa"), _sample("cat"), "cat", ())


@pytest.mark.parametrize(
    ("said", "reference", "right"),
    [
        ("10.5", "10", 1.0),
        ("10.51", "10", 0.0),
        ("Yes", "yes", 1.0),
        ("1,000", "1000", 0.0),
        ("10%", "10", 0.0),
        ("10%", "0.1", 1.0),
        ("0", "0", 1.0),
        ("0.0", "0", 0.0),
        (" blue ", "Blue", 1.0),
    ],
)
def test_charts_are_judged_as_published(said: str, reference: str, right: float) -> None:
    assert grade_chartqa(said, _sample(reference)) == right


@pytest.mark.parametrize(
    ("said", "reference"), [("1,000", "1000"), ("1,234.5", "1234.5"), ("10%", "10"), ("10", "10%")]
)
def test_the_traps_of_charts_are_named_options(said: str, reference: str) -> None:
    assert grade_chartqa(said, _sample(reference)) == 0.0
    assert grade_chartqa(said, _sample(reference), commas="number", percent="number") == 1.0


def test_the_protocol_of_plain_numbers_uses_them() -> None:
    answers = [Answered(sample=_sample("1000", group="human"), raw="1,000")]
    assert CHARTS["lmms-eval"].score(answers) == {"relaxed_overall": 0.0, "relaxed_overall[human]": 0.0}
    assert CHARTS["plain-numbers"].score(answers)["accuracy"] == 1.0


def test_commas_that_do_not_stand_at_thousands_make_no_number() -> None:
    assert grade_chartqa("1,00", _sample("100"), commas="number") == 0.0


@pytest.mark.parametrize(
    ("raw", "sample", "right"),
    [
        ("It says OPEN now", _sample("open"), 1.0),
        ("op en", _sample("open"), 0.0),
        ("x ^ 2 + 1", _sample("x^2+1", group=FORMULAS), 1.0),
        ("x ^ 2", _sample("x^2", dataset="HME100k"), 1.0),
        ("X ^ 2", _sample("x^2", dataset="HME100k"), 0.0),
        ("a\nb", _sample("no", "a b"), 1.0),
    ],
)
def test_ocrbench_looks_for_a_reference_in_the_answer(raw: str, sample: Sample, right: float) -> None:
    assert grade_ocrbench(raw, sample) == right


def test_ocrbench_divides_by_what_was_scored_and_the_programs_by_a_thousand() -> None:
    samples = [dataclasses.replace(_sample("open"), item_id=f"q{place}", image_id=f"p{place}") for place in range(4)]
    texts = ["open", "open", "open", "shut"]
    spec = _spec("ocrbench", "ocrbench")
    scores = score_open(samples, [judge(spec, *item, ()) for item in zip(samples, texts, strict=True)])
    assert scores["accuracy"].value == 0.75
    answers = [Answered(sample=sample, raw=raw) for sample, raw in zip(samples, texts, strict=True)]
    assert OCR["official"].score(answers)["score / 1000"] == 0.003


def test_only_lmms_eval_folds_full_width_characters() -> None:
    answers = [Answered(sample=_sample("OPEN"), raw="ＯＰＥＮ")]
    assert [OCR[name].score(answers)["right"] for name in ("official", "lmms-eval", "vlmevalkit")] == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("raw", "verdicts"),
    [("Cat.", (0, 1, 1, 0)), ("cat", (1, 1, 1, 1)), ("CAT", (0, 1, 1, 1)), ("c-at", (0, 0, 1, 0)), ("a cat", (0,) * 4)],
)
def test_gqa_is_read_in_four_ways(raw: str, verdicts: tuple[int, ...]) -> None:
    answers = [Answered(sample=_sample("cat"), raw=raw)]
    found = [GQA[name].score(answers)[GQA[name].headline] for name in ("official", "llava", "lmms-eval", "vlmevalkit")]
    assert tuple(found) == verdicts


def test_an_open_answer_keeps_its_fraction_and_is_right_from_a_half_on() -> None:
    spec = _spec("vqa")
    for same, score, correct in ((1, 0.3, False), (2, 0.6, True)):
        answer = judge(spec, _sample(*["cat"] * same, *map(str, range(10 - same))), " A cat.\n", ())
        assert (answer.parsed, answer.chosen, answer.correct) == ("cat", "cat", correct)
        assert answer.score == pytest.approx(score)


def test_an_open_task_without_a_scorer_asks_for_equality_with_any_reference() -> None:
    spec = _spec(parser="gqa")
    assert [judge(spec, _sample("cat", "Kitten."), raw, ()).score for raw in ("kitten", "Cat", "dog", "")] == [
        1,
        1,
        0,
        0,
    ]


def test_open_answers_are_averaged_with_groups_and_clustered_intervals() -> None:
    samples = [
        dataclasses.replace(
            _sample(*["cat"] * 10, group=("a", "b")[place % 2]), item_id=f"q{place}", image_id=f"p{place // 2}"
        )
        for place in range(8)
    ]
    spec = _spec("vqa")
    texts = ["cat", "dog", "cat", "cat", "", "cat", "cat", "dog"]
    scores = score_open(
        samples, [judge(spec, *item, ()) for item in zip(samples, texts, strict=True)], groups=("b", "a")
    )
    assert list(scores) == ["accuracy", "accuracy[b]", "accuracy[a]", "unparsed_rate"]
    assert [score.value for score in scores.values()] == [0.625, 0.5, 0.75, 0.125]
    assert scores["accuracy"].interval.method == "clustered by image, CR1, t with 3 degrees of freedom"


def test_an_open_answer_without_a_score_is_refused() -> None:
    answer = dataclasses.replace(judge(_spec("vqa"), _sample("cat", "cat"), "dog", ()), score=None, chosen=None)
    with pytest.raises(DataError, match="1 answers to open questions have no score"):
        score_open([_sample("cat", "cat")], [answer])


def test_a_score_that_contradicts_the_mark_is_refused() -> None:
    answer = dataclasses.replace(judge(_spec("vqa"), _sample("cat", "cat"), "dog", ()), correct=True)
    with pytest.raises(DataError, match=r"has the score 0.0 and is marked right"):
        score_open([_sample("cat", "cat")], [answer])
