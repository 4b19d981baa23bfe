"""A finished run answers questions again, whatever stands beside them. Nothing here needs lmms-eval."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.understanding.lmms import answering
from ovbench.harness.understanding.lmms.answering import LlavaAnswerer, Question
from ovbench.harness.understanding.lmms.greedy_answers import Asked
from ovbench.harness.understanding.lmms.holder import open_checkpoint, open_run
from ovbench.harness.understanding.wording import prompt_of
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data


def picture(value: int) -> Any:
    from PIL import Image

    return Image.fromarray(np.full((20, 30, 3), value, np.uint8))


def questions_of(name: str, limit: int) -> tuple[TaskData, list[Question]]:
    from PIL import Image

    data = load_data(load_task(name), limit=limit)
    return data, [
        Question(image=Image.fromarray(data.image(item.image_id)), text=item.prompt, max_new_tokens=4)
        for item in data.samples
    ]


@pytest.mark.parametrize("task", ["mini-pope", "mini-seed"])
def test_opened_run_gives_the_answers_that_the_run_gave(trained: Any, task: str) -> None:
    data, questions = questions_of(task, 14)
    stored = pandas.read_parquet(trained.folder / "samples.parquet").set_index(["task", "item_id"])["raw"]
    assert open_run(trained.folder)(questions) == [stored[task, item.item_id] for item in data.samples]


def test_answers_do_not_depend_on_the_batch_size_and_nothing_is_done_twice(trained: Any) -> None:
    _, questions = questions_of("mini-pope", 14)
    one, many = open_run(trained.folder, batch_size=1), open_run(trained.folder, batch_size=64)
    twice = [*questions, *reversed(questions)]
    heard = many(twice)
    assert heard[:14] == heard[14:][::-1] == one(questions)
    assert many.num_asked == one.num_asked == 14
    assert many.num_encoded == len({item.image.tobytes() for item in questions if item.image is not None})


def test_question_without_a_picture_is_answered(trained: Any) -> None:
    answerer = open_run(trained.folder)
    seen = Question(image=picture(9), text="is there a bag ?", max_new_tokens=3)
    blind = Question(image=None, text="is there a bag ?", max_new_tokens=3)
    assert answerer([blind, seen, blind])[::2] == answerer([blind]) * 2
    assert answerer.num_encoded == 1


def test_mark_in_a_question_is_moved_to_its_head(trained: Any) -> None:
    answerer = open_run(trained.folder)
    marked = Question(image=picture(9), text="is there <image>a bag ?", max_new_tokens=3)
    plain = Question(image=picture(9), text="is there a bag ?", max_new_tokens=3)
    assert answerer([marked]) == answerer([plain])


def test_answer_ends_where_the_context_does(trained: Any) -> None:
    answerer = open_run(trained.folder)
    short, long = (Question(image=picture(1), text="is there a bag ?", max_new_tokens=n) for n in (3, 1024))
    heard = answerer([short, long])
    assert heard[1].startswith(heard[0])
    assert (
        len(answerer.model.tokenizer(heard[1])["input_ids"])
        < answerer.model.language_model.config.max_position_embeddings
    )
    answerer.model.max_length = 60
    with pytest.raises(DataError, match="leaves no room for an answer in a context of 60"):
        answerer([Question(image=picture(1), text="a bag " * 60, max_new_tokens=4)])


def test_answer_may_use_all_the_room_that_the_context_leaves(trained: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    answerer = open_run(trained.folder)
    asked: list[Asked] = []

    def take(model: Any, items: list[Asked], tokens: Any, *, batch_size: int) -> list[str]:
        asked.extend(items)
        return ["" for _ in items]

    monkeypatch.setattr(answering, "greedy_answers", take)
    for words in range(1, 9):  # each question is one word longer
        answerer([Question(image=None, text=" bag" * words, max_new_tokens=4096)])
    model = answerer.model
    longest = min(model.max_length, model.language_model.config.max_position_embeddings)
    lengths = [len(prompt_of(model, " bag" * words, has_image=False)[1].ids) for words in range(1, 9)]
    assert [item.max_new_tokens for item in asked] == [longest - length for length in lengths]


def test_model_in_training_mode_is_refused(trained: Any) -> None:
    answerer = open_run(trained.folder)
    with pytest.raises(ConfigError, match="training mode"):
        LlavaAnswerer(answerer.model.train(), answerer.encoder, tap=answerer.tap)


def test_run_whose_weights_left_the_cache_says_how_to_make_them(
    trained: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path))
    with pytest.raises(DataError) as raised:
        open_run(trained.folder)
    assert "does not hold the weights of the run" in raised.value.what
    assert "ovbench run --encoder 'clip/mini' --suite understanding --protocol mini-smoke --seed 0" in raised.value.fix


def test_run_of_another_encoder_is_refused(trained: Any, tmp_path: Path) -> None:
    record = json.loads((trained.folder / "record.json").read_text())
    record["encoder"]["spec"] = "siglip/mini"
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(DataError, match="'siglip/mini' is not the one that the run was trained with"):
        open_run(tmp_path)


def test_checkpoint_folder_answers_as_the_model_that_was_saved(trained: Any, tmp_path: Path) -> None:
    reader = pytest.importorskip(
        "ovbench.harness.understanding.checkpoint_folder", reason="this checkout cannot read folders of weights yet"
    )
    run = open_run(trained.folder)
    saved = LlavaAnswerer(run.model, run.encoder, tap=run.tap)
    reader.save_checkpoint(tmp_path / "weights", run.model, encoder="clip/mini", tap=run.tap)
    _, questions = questions_of("mini-pope", 6)
    assert open_checkpoint(tmp_path / "weights")(questions) == saved(questions)
    assert open_checkpoint(tmp_path / "weights", encoder="clip/mini")(questions) == saved(questions)


def test_folder_without_weights_is_no_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip(
        "ovbench.harness.understanding.checkpoint_folder", reason="this checkout cannot read folders of weights yet"
    )
    with pytest.raises(OvbenchError, match="no checkpoint"):
        open_checkpoint(tmp_path, encoder="clip/mini")


def test_run_of_another_suite_is_refused(trained: Any, tmp_path: Path) -> None:
    record = json.loads((trained.folder / "record.json").read_text())
    record["suite"] = "generation"
    (tmp_path / "record.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"has trained no language model \(its suite is 'generation'\)"):
        open_run(tmp_path)


def test_model_in_bfloat16_answers_alone_as_among_others(trained: Any) -> None:
    answerer = open_run(trained.folder)
    answerer.model.to(torch.bfloat16)
    _, questions = questions_of("mini-pope", 6)
    assert answerer(questions) == [answerer([item])[0] for item in questions]
