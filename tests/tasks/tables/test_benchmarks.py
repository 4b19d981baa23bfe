"""Each published benchmark from made-up tables in the real layout: prompts, groups, answers, pictures."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from ovbench.tasks.load import load_suite, load_task
from ovbench.tasks.sources import load_data
from tests.tasks.benchmark_files import MAKERS, MME_CATEGORIES, picture, write_benchmark
from tests.tasks.tables.conftest import Load

SHORT = "\nAnswer the question using a single word or phrase."
LETTER = "\nAnswer with the option's letter from the given choices directly."
TASKS = [*MAKERS, "pope-v1"]
# The first question of each made-up benchmark as LLaVA-1.5 asks it, or lmms-eval where LLaVA does not.
PROMPTS = {
    "pope": f"Is there a dog in the image?{SHORT}",
    "pope-v1": f"Is there a dog in the image?{SHORT}",
    "seedbench": f"How many dogs are there in picture 0?\nA. One\nB. Two\nC. Three\nD. Four{LETTER}",
    "mme": f"Is the answer Yes to existence 0?{SHORT}",
    "gqa": f"What is left of the dog?{SHORT}",
    "scienceqa-img": "Context: Figure: states of matter.\nLook at it.\nWhich of these is number 0?\n"
    f"A. a solid\nB. a liquid{LETTER}",
    "textvqa": f"What is the brand of this nikon camera 0?{SHORT}",
    "textvqa-ocr": f"what is the brand of this NIKON camera 0?\nReference OCR token: DAKOTA, DIGITAL{SHORT}",
    "vizwiz-val": "What is this can?\nWhen the provided information is insufficient, respond with 'Unanswerable'."
    + SHORT,
    "mmbench-dev-static": "The passage says: look up.\nWhich shape is shown in 0?\nA. yes, it does\nB. no, it does not"
    + LETTER,
    "chartqa": "What is the value of bar 0?\nAnswer the question with a single word.",
    "ocrbench": "what is written in the image?",
}
LIMITS = {"mme": 16, "gqa": 16, "scienceqa-img": 16, "chartqa": 16, "mmbench-dev-static": 1024}


@pytest.mark.parametrize("name", TASKS)
def test_prompt_is_the_reference_s_letter_by_letter(name: str, folder: Path) -> None:
    data = load_data(load_task(name), data_dir=write_benchmark(name, folder))
    assert data.samples[0].prompt == PROMPTS[name]


@pytest.mark.parametrize("name", TASKS)
def test_rows_share_pictures_by_their_content(name: str, folder: Path) -> None:
    data = load_data(load_task(name), data_dir=write_benchmark(name, folder))
    assert len(data.image_ids) < len(data.samples)
    form = "JPEG" if name == "pope-v1" else "PNG"
    known = {hashlib.sha256(picture(number, form=form)).hexdigest() for number in range(100)}
    assert set(data.image_ids) <= known
    image = data.image(data.image_ids[0])
    assert image.shape == (16, 20, 3)
    assert image.dtype == np.uint8


@pytest.mark.parametrize("name", TASKS)
def test_groups_are_those_that_the_task_lists(name: str, folder: Path) -> None:
    data = load_data(load_task(name), data_dir=write_benchmark(name, folder))
    assert {sample.group for sample in data.samples} == set(data.spec.groups)
    assert len({sample.item_id for sample in data.samples}) == len(data.samples)


@pytest.mark.parametrize("name", TASKS)
def test_longest_answer_is_the_reference_s(name: str) -> None:
    assert load_task(name).max_new_tokens == LIMITS.get(name, 128)


@pytest.mark.parametrize("protocol", ["llava15-vicuna7b", "llava15-llama3-8b", "llava15-proxy"])
def test_every_llava_protocol_asks_eleven_benchmarks(protocol: str) -> None:
    names = load_suite("understanding", protocol)
    assert set(names) == set(MAKERS)
    assert names[:2] == ("seedbench", "pope")


def test_chance_is_in_the_unit_of_the_headline() -> None:
    assert load_task("mme").chance == 10 * (100 * 0.5 + 100 * 0.25)
    assert load_task("seedbench").chance == 1 / 4
    assert load_task("mmbench-dev-static").chance == pytest.approx(0.25**4, abs=1e-5)


def test_pope_asks_each_picture_six_times_a_subset_and_shares_the_yes_questions(load: Load) -> None:
    data = load("pope")
    assert Counter(sample.group for sample in data.samples) == dict.fromkeys(data.spec.groups, 24)
    yes = {
        group: {(each.image_id, each.prompt) for each in data.samples if (each.group, each.answer) == (group, "yes")}
        for group in data.spec.groups
    }
    assert yes["random"] == yes["popular"] == yes["adversarial"]
    assert data.samples[0].item_id == "adversarial-1"  # question_id counts within a subset


def test_seedbench_leaves_videos_out_and_keeps_a_doubled_id_as_two_rows(load: Load) -> None:
    data = load("seedbench")
    assert len(data.samples) == 36  # of 37 rows
    ids = [sample.item_id for sample in data.samples]
    assert ids[3:6] == ["row-000004", "row-000005", "row-000007"]  # 4 and 5 have one question_id, 6 is the video
    assert data.samples[1].group == "instance_identity"
    assert (data.samples[1].answer, data.samples[1].options) == ("Two", ("One", "Two", "Three", "Four"))


def test_mme_pairs_are_told_by_the_question_id(load: Load) -> None:
    data = load("mme")
    assert set(Counter(sample.extra["question_id"] for sample in data.samples).values()) == {2}
    assert data.spec.groups == MME_CATEGORIES
    assert not any("lease answer" in sample.prompt for sample in data.samples)


def test_gqa_finds_its_pictures_in_another_table(load: Load) -> None:
    data = load("gqa")
    assert [sample.image_id for sample in data.samples[:5:4]] == [
        hashlib.sha256(picture(number)).hexdigest() for number in (0, 1)
    ]
    assert data.samples[0].answers == ("cup",)


def test_scienceqa_has_no_line_of_context_where_there_is_no_hint(load: Load) -> None:
    sample = load("scienceqa-img").samples[1]
    assert sample.prompt == f"Which of these is number 1?\nA. a solid\nB. a liquid\nC. a gas{LETTER}"
    assert sample.answer == "a liquid"
    assert sample.extra == {"hint": ""}


def test_textvqa_ocr_has_its_line_where_no_words_were_found_too(load: Load) -> None:
    sample = load("textvqa-ocr").samples[1]
    assert sample.prompt == f"what is the brand of this NIKON camera 1?\nReference OCR token: {SHORT}"


@pytest.mark.parametrize("name", ["textvqa", "textvqa-ocr", "vizwiz-val"])
def test_votes_are_kept_as_often_as_they_were_given(name: str, load: Load) -> None:
    sample = load(name).samples[0]
    assert len(sample.answers) == 10
    assert sample.answer == sample.answers[0]
    assert sample.options == ()


def test_blank_vote_stays_and_is_not_the_answer_that_is_shown(load: Load) -> None:
    data = load("textvqa", lambda table: table.rows[0].update(answers=["", *["nikon"] * 9]))
    assert data.samples[0].answers == ("", *["nikon"] * 9)
    assert data.samples[0].answer == "nikon"


def test_mmbench_takes_nan_for_an_empty_cell_and_keeps_rotations_apart(load: Load) -> None:
    data = load("mmbench-dev-static")
    first, turned, four = data.samples[:3]
    assert first.options == ("yes, it does", "no, it does not")
    assert (turned.item_id, turned.extra["index"], turned.answer) == ("1000241", "1000241", "yes, it does")
    assert four.prompt == f"Which shape is shown in 1?\nA. a cube\nB. a ball\nC. a cone\nD. a ring{LETTER}"
    assert four.extra["hint"] == ""


def test_chartqa_tells_people_s_questions_from_made_ones(load: Load) -> None:
    assert [sample.group for sample in load("chartqa").samples[:2]] == ["human", "augmented"]


def test_ocrbench_takes_several_references_and_the_name_of_the_data_set(load: Load) -> None:
    samples = load("ocrbench").samples
    assert samples[1].answers == ("CENTRE", "center")
    assert samples[-1].extra == {"dataset": "HME100k"}


def test_limit_is_spread_over_the_groups(folder: Path) -> None:
    data = load_data(load_task("seedbench"), limit=18, data_dir=write_benchmark("seedbench", folder))
    assert set(Counter(sample.group for sample in data.samples).values()) == {2}
    assert data.num_total == 36


def test_part_of_a_benchmark_is_said(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    load("chartqa")
    assert "'chartqa' has 8 rows here, and 2500 as it was published" in caplog.text
