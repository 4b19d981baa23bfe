"""Captions are true, and nothing is said outside the vocabulary."""

from __future__ import annotations

import re

from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from ovbench.tasks.world.captions import NUMBERS, scene_caption, words
from ovbench.tasks.world.questions import dialogue_turns, training_turns
from ovbench.tasks.world.scene import CELLS, make_scene

SCENES = [make_scene(2, "train", index) for index in range(1000)]


def _tokens(text: str) -> list[str]:
    return re.findall(r"[\w-]+|[.,:?]", text.lower())


def test_caption_read_back_is_the_scene() -> None:
    for scene in SCENES:
        head, _, tail = scene_caption(scene).partition(" : ")
        theme, _, number, noun = head.split()
        assert (theme, NUMBERS.index(number) + 1) == (scene.theme, len(scene.items))
        assert noun == ("item" if len(scene.items) == 1 else "items")
        said = [tuple(part.split()) for part in tail.removesuffix(" .").split(" , ")]
        assert said == [(item.colour, item.garment, CELLS[item.cell]) for item in scene.items]


def test_words_are_distinct() -> None:
    assert len(set(words())) == len(words()) == 59


def test_every_caption_and_training_turn_is_in_the_vocabulary() -> None:
    known = set(words())
    for scene in SCENES:
        turns = (*training_turns(scene, 2, 8), *dialogue_turns(scene, 2, 8))
        texts = [scene_caption(scene), *(f"{turn.text} {turn.answer}" for turn in turns)]
        assert not {token for text in texts for token in _tokens(text)} - known


def test_every_test_question_is_in_the_vocabulary() -> None:
    known = set(words())
    for name in ("mini-seed", "mini-pope"):
        for sample in load_data(load_task(name)).samples:
            assert set(_tokens(" ".join([sample.prompt, *sample.options]))) <= known


def test_every_answer_is_one_word() -> None:
    for scene in SCENES:
        assert all(turn.answer in words() for turn in training_turns(scene, 2, 8))
