"""SEED-Bench against what LLaVA's script, lmms-eval and cambrian gave for made-up answers."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.metrics.protocol_base import Answered, likeliest
from ovbench.harness.metrics.seedbench import (
    PROTOCOLS,
    exact_letter,
    score_seedbench,
)
from ovbench.tasks.answers import LETTERS, parse_answer
from ovbench.tasks.base import Prediction, Sample
from ovbench.tasks.reading_letters import after_answer_is, first_letter
from tests.oracles.seed_table import SeedQuestion, llava_table

GOLDEN = json.loads((Path(__file__).parents[2] / "golden" / "seed_scoring.json").read_text(encoding="utf-8"))
CASES: list[dict[str, Any]] = GOLDEN["cases"]
IMAGES = [case for case in CASES if case["data_type"] == "image"]
BATCH = GOLDEN["batch"]


def _sample(item_id: str, answer: str, *, group: str = "", kind: str = "image", options: Sequence[str] = ()) -> Sample:
    options = tuple(options) or tuple(f"option {letter}" for letter in "ABCD")
    return Sample(
        item_id=item_id,
        image_id=f"picture of {item_id}",
        prompt="",
        question="?",
        options=options,
        answer=options["ABCD".index(answer)],
        group=group,
        extra={"data_type": kind, "question_id": item_id},
    )


def _of(case: dict[str, Any], place: int) -> Sample:
    options = [case[f"choice_{letter}"] for letter in "abcd"]
    kind = str(case["question_type_id"])
    return _sample(
        f"{case['question_id']}-{place}", case["answer"], group=kind, kind=case["data_type"], options=options
    )


def _answered(cases: Sequence[dict[str, Any]]) -> list[Answered]:
    return [Answered(sample=_of(case, place), raw=case["response"]) for place, case in enumerate(cases)]


def _predictions(answers: Sequence[Answered], scores: tuple[float, ...] | None = None) -> list[Prediction]:
    found: list[Prediction] = []
    for item in answers:
        said = parse_answer("letter", item.raw.strip(), item.sample.options)
        found.append(
            Prediction(
                item_id=item.sample.item_id,
                raw=item.raw,
                parsed=said,
                option_scores=scores,
                chosen=said,
                correct=said == item.sample.answer,
            )
        )
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["response"]))
def test_each_answer_is_read_as_each_program_reads_it(case: dict[str, Any]) -> None:
    raw, gold = case["response"], case["answer"]
    assert first_letter(raw) == case["lmms_eval"]["pred"]
    assert after_answer_is(raw) == case["cambrian"]["pred"]
    assert (exact_letter(raw) == gold) is case["llava_exact"]["correct"]
    assert (exact_letter(raw.strip()) == gold) is case["llava_exact"]["correct_if_stripped"]


@pytest.mark.parametrize(("protocol", "name"), [("lmms-eval", "lmms_eval"), ("cambrian", "cambrian")])
@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["response"]))
def test_a_letter_counts_as_its_option(protocol: str, name: str, case: dict[str, Any]) -> None:
    (item,) = _answered([case])
    assert (PROTOCOLS[protocol].read(item) == item.sample.answer) is case[name]["correct"]


def test_lmms_evals_numbers_are_its_own() -> None:
    assert PROTOCOLS["lmms-eval"].score(_answered(CASES)) == pytest.approx(GOLDEN["aggregate"]["lmms_eval"])


def _questions(rows: Sequence[dict[str, Any]]) -> list[SeedQuestion]:
    return [
        SeedQuestion(
            question_id=str(row["question_id"]),
            question_type=row["question_type_id"],
            data_type=row["data_type"],
            answer=row["answer"],
        )
        for row in rows
    ]


def _lines(questions: list[SeedQuestion], answers: list[tuple[str, str]]) -> dict[str, list[str] | None]:
    there = {question.data_type for question in questions}
    return {
        "total": llava_table(questions, answers).lines(),
        **{
            kind: llava_table(questions, answers, kind).lines(kind) if kind in there else None
            for kind in ("image", "video")
        },
    }


def test_the_oracle_prints_what_llavas_script_prints() -> None:
    answers = [(case["question_id"], case["response"]) for case in CASES]
    assert _lines(_questions(CASES), answers) == GOLDEN["aggregate"]["llava_printed"]


@pytest.mark.parametrize("case", ["missing_predictions", "duplicate_question_id"])
def test_the_oracle_goes_by_the_question_id_as_llavas_script_does(case: str) -> None:
    entry = GOLDEN[case]
    answers = [(str(row["question_id"]), row["text"]) for row in entry["predictions"]]
    assert _lines(_questions(entry["questions"]), answers) == entry["llava_printed"]


@pytest.mark.parametrize("program", ["llava_exact", "lmms_eval", "cambrian"])
def test_the_image_part_and_its_dimensions_are_the_programs(program: str) -> None:
    expected = GOLDEN["aggregate"]["image_part"][program]
    protocol = {"llava_exact": "official", "lmms_eval": "lmms-eval", "cambrian": "cambrian"}[program]
    read = PROTOCOLS[protocol].read if program != "llava_exact" else (lambda item: exact_letter(item.raw))
    right: dict[str, list[bool]] = {}
    for item in _answered(IMAGES):
        said = read(item)
        letter = LETTERS[item.sample.options.index(said)] if said in item.sample.options else said
        right.setdefault(item.sample.group, []).append(letter == LETTERS[item.sample.options.index(item.sample.answer)])
    assert {kind: sum(values) / len(values) for kind, values in right.items()} == pytest.approx(expected["per_type"])
    assert sum(map(sum, right.values())) / len(IMAGES) == pytest.approx(expected["image_accuracy"])


def test_our_headline_is_lmms_evals_number_on_the_image_rows() -> None:
    answers = _answered(IMAGES)
    scores = score_seedbench([item.sample for item in answers], _predictions(answers))
    expected = GOLDEN["aggregate"]["image_part"]["lmms_eval"]
    assert scores["seed_image"].value == pytest.approx(expected["image_accuracy"])
    assert scores["seed_image"].n == GOLDEN["n"]["image"]
    assert {kind: scores[f"seed_image[{kind}]"].value for kind in expected["per_type"]} == pytest.approx(
        expected["per_type"]
    )
    assert scores["seed_image_macro"].value == pytest.approx(sum(expected["per_type"].values()) / 9)


def test_disagreements_of_the_two_readings_are_counted() -> None:
    answers = _answered(IMAGES)
    scores = score_seedbench([item.sample for item in answers], _predictions(answers))
    apart = sum(case["lmms_eval"]["correct"] != case["llava_exact"]["correct_if_stripped"] for case in IMAGES)
    assert scores["n_policy_disagreements"].value == apart


@pytest.fixture(scope="module")
def batch() -> list[Answered]:
    rows = zip(BATCH["question_type_id"], BATCH["answer"], BATCH["response"], strict=True)
    return [
        Answered(
            sample=_sample(f"q{place}", answer, group=str(kind), kind="image" if kind < 10 else "video"), raw=response
        )
        for place, (kind, answer, response) in enumerate(rows)
    ]


def test_a_batch_as_a_tuned_model_answers_it_scores_as_lmms_eval_scores_it(batch: list[Answered]) -> None:
    assert PROTOCOLS["lmms-eval"].score(batch) == pytest.approx(BATCH["lmms_eval"])


def test_a_batch_as_a_tuned_model_answers_it_scores_as_llavas_script_scores_it(batch: list[Answered]) -> None:
    questions = [
        SeedQuestion(
            question_id=str(place), question_type=kind, data_type="image" if kind < 10 else "video", answer=gold
        )
        for place, (kind, gold) in enumerate(zip(BATCH["question_type_id"], BATCH["answer"], strict=True))
    ]
    answers = [(str(place), text) for place, text in enumerate(BATCH["response"])]
    assert _lines(questions, answers) == BATCH["llava_printed"]
    images = [item for item in batch if item.sample.extra["data_type"] == "image"]
    ours = PROTOCOLS["llava"].score(images)["image accuracy"]
    assert [f"image accuracy: {100 * ours:.2f}%"] == BATCH["llava_printed"]["image"]


@pytest.mark.parametrize("case", GOLDEN["likelihood_ranking"]["cases"], ids=lambda case: str(case["losses"]))
def test_the_lowest_loss_wins(case: dict[str, Any]) -> None:
    sample = _sample("q", "A")
    item = Answered(sample=sample, raw="", option_scores=tuple(-loss for loss in case["losses"]))
    assert likeliest(item) == sample.options["ABCD".index(case["pred"])]


def test_rows_that_share_an_id_stay_two_rows_for_us_and_lmms_eval_and_one_for_llava() -> None:
    entry = GOLDEN["duplicate_question_id"]
    answers: list[Answered] = []
    for place, (row, said) in enumerate(zip(entry["questions"], entry["predictions"], strict=True)):
        sample = _sample(f"row-{place}", row["answer"], group="1")
        sample.extra["question_id"] = row["question_id"]  # type: ignore[index]
        answers.append(Answered(sample=sample, raw=said["text"]))
    assert PROTOCOLS["lmms-eval"].score(answers)["seed_image"] == entry["lmms_seed_image"]
    assert PROTOCOLS["llava"].score(answers)["image accuracy"] == pytest.approx(2 / 3)
    scores = score_seedbench([item.sample for item in answers], _predictions(answers))
    assert (scores["seed_image"].value, scores["seed_image"].n) == (1.0, 3)


def test_likelihoods_are_scored_beside_the_written_answers() -> None:
    answers = [Answered(sample=_sample(f"q{place}", "AB"[place % 2]), raw="A") for place in range(10)]
    scores = score_seedbench([item.sample for item in answers], _predictions(answers, (-3.0, -1.0, -2.0, -4.0)))
    assert scores["likelihood_accuracy"].value == 0.5
    assert scores["n_likelihood_disagreements"].value == 10


def test_likelihood_ranking_without_likelihoods_is_an_error() -> None:
    with pytest.raises(DataError, match="no likelihoods were stored"):
        PROTOCOLS["official"].score(_answered(IMAGES))


def test_vlmevalkit_takes_the_letter_or_the_one_option_it_finds() -> None:
    sample = _sample("q", "A", options=("Red", "Green", "Blue", "Black"))
    read = PROTOCOLS["vlmevalkit"].read
    for raw, option in (
        ("(B)", "Green"),
        ("The answer is C.", "Blue"),
        ("green", "Green"),
        ("red or blue", None),
        ("A or B", None),
        ("Cannot determine the answer A", None),
        ("Z", None),
        ("B because of all that I can see in here", None),
    ):
        assert read(Answered(sample=sample, raw=raw)) == option, raw
