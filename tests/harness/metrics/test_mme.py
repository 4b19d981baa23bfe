"""MME against what its own script and lmms-eval gave for made-up answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovbench.harness.metrics.mme import COGNITION, PERCEPTION, PROTOCOLS, category_scores, partners, score_mme
from ovbench.harness.metrics.protocol_base import Answered
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_yesno import mme_official, mme_without_dots

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "mme_scoring.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = GOLDEN["cases"]
POINTS = {**GOLDEN["aggregate"]["official"]["per_category"]}


def _samples(cases: Sequence[dict[str, Any]]) -> list[Sample]:
    return [
        Sample(
            item_id=f"row-{place}",
            image_id=case["image"],
            prompt="",
            question=case["question"],
            options=("yes", "no"),
            answer=case["label"].lower(),
            group=case["category"],
            extra={"question_id": case["question_id"]},
        )
        for place, case in enumerate(cases)
    ]


def _predictions(samples: Sequence[Sample], texts: Sequence[str]) -> list[Prediction]:
    found: list[Prediction] = []
    for sample, raw in zip(samples, texts, strict=True):
        said = mme_official(raw)
        found.append(
            Prediction(
                item_id=sample.item_id,
                raw=raw,
                parsed=said,
                option_scores=None,
                chosen=said,
                correct=said == sample.answer,
            )
        )
    return found


@pytest.fixture(scope="module")
def scores() -> Any:
    samples = _samples(CASES)
    return score_mme(samples, _predictions(samples, [case["answer"] for case in CASES]))


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["answer"]))
def test_each_answer_is_read_as_each_program_reads_it(case: dict[str, Any]) -> None:
    for read, name in ((mme_official, "official"), (mme_without_dots, "lmms_eval")):
        said = read(case["answer"])
        assert (said or "other") == case[name]["pred"]
        assert (said == case["label"].lower()) is case[name]["correct"]


@pytest.mark.parametrize("name", ["perception", "cognition"])
def test_the_sums_are_the_scripts(scores: Any, name: str) -> None:
    score = scores[f"mme_{name}"]
    assert score.value == pytest.approx(GOLDEN["aggregate"]["official"][name], abs=1e-9)
    assert score.spec.unit == "points"
    assert score.value <= GOLDEN["aggregate"]["max_possible"][name]


@pytest.mark.parametrize("category", [*PERCEPTION, *COGNITION])
def test_the_fourteen_categories_are_the_scripts(scores: Any, category: str) -> None:
    total = "mme_perception" if category in PERCEPTION else "mme_cognition"
    assert scores[f"{total}[{category}]"].value == pytest.approx(POINTS[category], abs=1e-9)


@pytest.mark.parametrize(
    ("protocol", "golden", "perception", "cognition"),
    [
        ("official", "official", "Perception", "Cognition"),
        ("lmms-eval", "lmms_eval", "mme_perception_score", "mme_cognition_score"),
    ],
)
def test_each_programs_sums_are_its_own(protocol: str, golden: str, perception: str, cognition: str) -> None:
    answers = [Answered(sample=sample, raw=case["answer"]) for sample, case in zip(_samples(CASES), CASES, strict=True)]
    found = PROTOCOLS[protocol].score(answers)
    assert found[perception] == pytest.approx(GOLDEN["aggregate"][golden]["perception"], abs=1e-9)
    assert found[cognition] == pytest.approx(GOLDEN["aggregate"][golden]["cognition"], abs=1e-9)


def test_answers_that_are_neither_are_counted(scores: Any) -> None:
    other = sum(case["official"]["pred"] == "other" for case in CASES)
    assert (scores["n_other"].value, scores["n_unpaired"].value) == (other, 0)


def test_partners_are_found_whatever_stands_between_them() -> None:
    samples = _samples(CASES)
    mixed = [*samples[::2], *samples[1::2]]
    right = {sample.item_id: index % 3 == 0 for index, sample in enumerate(samples)}
    straight = category_scores(samples, [right[sample.item_id] for sample in samples])
    assert category_scores(mixed, [right[sample.item_id] for sample in mixed]) == pytest.approx(straight)


def test_without_question_ids_the_image_makes_the_pair() -> None:
    samples = [replace(sample, extra={}) for sample in _samples(CASES[:6])]
    assert partners(samples) == [(0, 1), (2, 3), (4, 5)]


def test_one_image_in_two_categories_makes_two_pairs() -> None:
    samples = [replace(sample, image_id="same", extra={}) for sample in _samples(CASES[:4])]
    assert partners(samples) == [(0, 1), (2, 3)]


def test_a_question_without_its_partner_counts_in_accuracy_and_not_in_accuracy_plus() -> None:
    samples = _samples(CASES[:3])
    scores = score_mme(samples, _predictions(samples, ["yes", "no", "no"]))
    assert scores["n_unpaired"].value == 1
    assert scores["accuracy"].value == pytest.approx(2 / 3)
    assert (scores["accuracy_plus"].value, scores["accuracy_plus"].n) == (1.0, 1)


def test_perception_needs_all_ten_categories() -> None:
    samples = _samples(CASES[:4])
    score = score_mme(samples, _predictions(samples, ["yes", "no"] * 2))["mme_perception"]
    assert score.value is None
    assert score.reason is not None
    assert score.reason.startswith("8 of 10 categories were not asked in pairs: position")


def test_a_full_score_is_two_thousand_points() -> None:
    samples = [
        sample
        for place, category in enumerate([*PERCEPTION, *COGNITION])
        for sample in _samples(
            [
                {
                    "image": f"{place}.png",
                    "question": "?",
                    "label": label,
                    "category": category,
                    "question_id": f"{place}",
                }
                for label in ("Yes", "No")
            ]
        )
    ]
    samples = [replace(sample, item_id=f"q{place}") for place, sample in enumerate(samples)]
    scores = score_mme(samples, _predictions(samples, [sample.answer for sample in samples]))
    assert (scores["mme_perception"].value, scores["mme_cognition"].value) == (2000.0, 800.0)


def test_sums_have_a_bootstrap_over_images_in_points(scores: Any) -> None:
    score = scores["mme_perception"]
    assert score.interval.low is None or score.interval.low < score.value < score.interval.high
    many = [
        {**case, "image": f"{copy}-{case['image']}", "question_id": f"{copy}-{case['question_id']}"}
        for copy in range(12)
        for case in CASES
    ]
    samples = _samples(many)
    wide = score_mme(samples, _predictions(samples, [case["answer"] for case in many]))["mme_perception"]
    assert wide.value == pytest.approx(score.value)
    num_images = len({case["image"] for case in many if case["category"] in PERCEPTION})
    assert wide.interval.method.startswith(f"bootstrap over {num_images} images")
    assert wide.interval.low is not None
    assert wide.interval.high is not None
    assert 1 < wide.interval.low < (wide.value or 0.0) < wide.interval.high
