from __future__ import annotations

import json
import random
import string
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.understanding.conversation import Message, render, template, tokenize
from ovbench.harness.understanding.language_model import load_language_model
from ovbench.harness.understanding.sentencepiece_tokenizer import convert
from tests.harness.understanding import llava_layouts as layouts

sentencepiece: Any = pytest.importorskip("sentencepiece", reason="needs sentencepiece to make a tokenizer.model")
TEXT = "USER: What is it? ASSISTANT: A red boot is on the left of the bag.\nAnswer with the option's letter.\nno\nyes\n"


def write_model(folder: Path, *, kind: str = "bpe", legacy: bool = False, **options: Any) -> Path:
    """Writes what Vicuna is published with: `tokenizer.model` and tokenizer_config.json."""
    text = folder / "text.txt"
    text.write_text(TEXT * 40, encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "tokenizer"), vocab_size=340, model_type=kind, byte_fallback=True,
        unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2, hard_vocab_limit=False,
        normalization_rule_name="identity", remove_extra_whitespaces=False, **options,
    )  # fmt: skip
    content = {
        "tokenizer_class": "LlamaTokenizer",
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "legacy": legacy,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def own(folder: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


@pytest.mark.parametrize("legacy", [False, True])
def test_ids_equal_sentencepieces_own(tmp_path: Path, legacy: bool) -> None:
    words, wanted = convert(write_model(tmp_path, legacy=legacy)), own(tmp_path)
    draw = random.Random(3)
    alphabet = TEXT + string.printable + "äß猫🐈  \n"
    for _ in range(300):
        text = "".join(draw.choice(alphabet) for _ in range(draw.randint(1, 60)))
        text = text if legacy else text.lstrip(" ")  # see the trap in the code
        assert words(text, add_special_tokens=False)["input_ids"] == wanted.encode(text), text
        assert words.decode(wanted.encode(text)) == wanted.decode(wanted.encode(text))


def test_begin_mark_and_end_mark_are_llamas(tmp_path: Path) -> None:
    words = convert(write_model(tmp_path))
    assert words("no")["input_ids"][0] == words.bos_token_id == 1
    assert (words.eos_token_id, words.unk_token_id, words.pad_token_id) == (2, 0, None)
    assert words("no</s>", add_special_tokens=False)["input_ids"][-1] == 2


@pytest.mark.parametrize("legacy", [False, True])
def test_blank_behind_a_special_token_is_there_in_legacy_mode_alone(tmp_path: Path, legacy: bool) -> None:
    words = convert(write_model(tmp_path, legacy=legacy))
    pieces = words.convert_ids_to_tokens(words("no</s>USER", add_special_tokens=False)["input_ids"])
    assert pieces[pieces.index("</s>") + 1].startswith("▁") == legacy


def test_answers_are_learnt_with_the_blank_before_them(tmp_path: Path) -> None:
    words = convert(write_model(tmp_path))
    turns = [Message(role="human", text="<image>\nWhat is it?"), Message(role="gpt", text="A red boot")]
    rendered = render(template("v1_short"), turns)
    found = tokenize(words, rendered.text, rendered.spans, has_image=True)
    learnt = [label for label in found.labels if label >= 0]
    assert "".join(words.convert_ids_to_tokens(learnt)) == "▁A▁red▁boot</s>"
    assert found.image_at is not None
    # As in the reference, the piece behind the image begins with a blank of its own.
    assert "".join(words.convert_ids_to_tokens(list(found.ids[found.image_at :]))).startswith("▁<0x0A>What")


def test_language_model_with_tokenizer_model_alone_is_loaded(tmp_path: Path) -> None:
    folder = layouts.write_llama(tmp_path, vocab_size=400)
    (folder / "tokenizer.json").unlink()
    _, words = load_language_model(str(write_model(folder)))
    assert words.is_fast
    assert words("USER: no", add_special_tokens=False)["input_ids"] == own(folder).encode("USER: no")


def test_other_kind_of_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="it is no BPE model") as caught:
        convert(write_model(tmp_path, kind="unigram"))
    assert "tokenizer.json" in caught.value.fix


def test_model_with_rules_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="otherwise than Llama's does"):
        convert(write_model(tmp_path, add_dummy_prefix=False))


def test_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"not a model")
    with pytest.raises(ConfigError, match="sentencepiece cannot read it"):
        convert(tmp_path)
