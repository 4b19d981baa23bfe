from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.language_model import load_language_model
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.projector import build_projector
from ovbench.harness.understanding.templates import template
from tests.harness.understanding import llava_layouts as layouts


def remove(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).unlink(missing_ok=True)
    return folder


def llava(folder: Path, form: str) -> Llava:
    model, words = load_language_model(str(folder))
    return Llava(
        model,
        words,
        build_projector("linear", 4, layouts.WIDTH, seed=0),
        template(form, stop=words.eos_token, tokenizer=words),
    )


def test_dtype_and_kernel_are_those_that_were_asked_for(tmp_path: Path) -> None:
    folder = layouts.write_llama(tmp_path)
    model, words = load_language_model(str(folder), dtype="bfloat16", attn="sdpa")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert (model.config._attn_implementation, words.is_fast) == ("sdpa", True)  # type: ignore[union-attr]
    assert load_language_model(str(folder))[0].config._attn_implementation == "eager"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: remove(folder, "tokenizer.json", "tokenizer_config.json"), "there is no tokenizer"),
        (lambda folder: remove(folder, "config.json"), "there is no config.json"),
        (lambda folder: remove(folder, "model.safetensors"), "no language model can be loaded from"),
    ],
    ids=["tokenizer", "config", "weights"],
)
def test_folder_that_lacks_something_says_what(tmp_path: Path, damage: Any, text: str) -> None:
    folder = damage(layouts.write_llama(tmp_path))
    with pytest.raises(ConfigError, match=text) as caught:
        load_language_model(str(folder))
    assert "tokenizer.json" in caught.value.fix


def test_folder_that_is_not_there_is_refused_without_a_network(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such folder"):
        load_language_model(str(tmp_path / "absent"))


def test_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folders have no revision"):
        load_language_model(str(layouts.write_llama(tmp_path)), revision="main")


def test_tokenizer_without_an_end_mark_is_refused(tmp_path: Path) -> None:
    folder = layouts.write_llama(tmp_path)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).is_file():
            content = json.loads((folder / name).read_text(encoding="utf-8"))
            content.pop("eos_token", None)
            (folder / name).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ConfigError, match="has no end mark"):
        load_language_model(str(folder))


def test_tokenizer_of_a_larger_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"knows \d+ tokens, and the model has 64 embeddings"):
        load_language_model(str(layouts.write_llama(tmp_path, vocab_size=64)))


def test_weights_that_are_not_there_are_never_drawn(tmp_path: Path) -> None:
    folder = layouts.write_llama(tmp_path)
    state = load_file(folder / "model.safetensors")
    del state["model.layers.1.mlp.up_proj.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"missing: model\.layers\.1\.mlp\.up_proj\.weight"):
        load_language_model(str(folder))


def test_pad_is_the_unknown_mark_where_there_is_no_padding_mark(tmp_path: Path) -> None:
    assert llava(layouts.write_llama(tmp_path), "v1").pad == 0


def test_pad_beyond_the_embeddings_is_not_used(tmp_path: Path) -> None:
    model = llava(layouts.write_llama(tmp_path), "v1")
    model.tokenizer.add_tokens(["<pad>"], special_tokens=True)
    model.tokenizer.pad_token = "<pad>"
    model.tokenizer.unk_token = None
    assert model.pad == model.tokenizer.eos_token_id


def test_answers_end_at_the_marks_of_template_tokenizer_and_model(tmp_path: Path) -> None:
    folder = layouts.write_llama(tmp_path)
    model = llava(folder, "llama_3")
    end, turn = (model.tokenizer.convert_tokens_to_ids(mark) for mark in ("</s>", "<|eot_id|>"))
    assert model.end_ids == {end, turn}
    model.language_model.generation_config.eos_token_id = [end, 9]
    assert model.end_ids == {end, turn, 9}
    assert llava(folder, "v1").end_ids == {end}


def test_captions_end_with_their_line(tmp_path: Path) -> None:
    model = llava(layouts.write_llama(tmp_path), "plain")
    line = model.tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert model.end_ids == {model.tokenizer.eos_token_id, *line}
