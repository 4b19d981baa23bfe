from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.pretraining.text.tokenizer import encode_words, vocabulary, write_tokenizer
from ovbench.tasks.world.captions import scene_caption, words
from ovbench.tasks.world.questions import training_turns
from ovbench.tasks.world.scene import make_scene


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder: Path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, words(), max_length=512)
    return AutoTokenizer.from_pretrained(folder)


def test_role_marks_and_hyphenated_words_are_single_tokens(tokenizer: Any) -> None:
    ids = tokenizer("USER: \nWhat is in the top-left? ASSISTANT: Red</s>USER:")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<s>", "USER:", "what", "is", "in", "the", "top-left", "?", "ASSISTANT:", "red", "</s>", "USER:"
    ]  # fmt: skip


def test_direct_lookup_equals_the_tokenizer_on_every_text_of_the_world(tokenizer: Any) -> None:
    table = vocabulary(words())
    for index in range(40):
        scene = make_scene(0, "train", index)
        texts = [scene_caption(scene), *(turn.text for turn in training_turns(scene, 0, 8))]
        for text in texts:
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert ids == encode_words(text, table)
            assert tokenizer.unk_token_id not in ids


def test_decoding_joins_words_with_blanks(tokenizer: Any) -> None:
    ids = tokenizer("red boot top-left .")["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "red boot top-left ."


def test_an_unknown_word_has_the_unknown_id(tokenizer: Any) -> None:
    assert tokenizer("zebra", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]
    assert encode_words("zebra", vocabulary(words())) == [tokenizer.unk_token_id]


def test_offsets_point_at_the_words(tokenizer: Any) -> None:
    text = "USER: Where is the boot? ASSISTANT: top-left</s>"
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert [text[low:high] for low, high in found["offset_mapping"]][-2:] == ["top-left", "</s>"]


def test_a_word_that_occurs_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="occur twice: boot"):
        vocabulary(["boot", "bag", "boot"])
