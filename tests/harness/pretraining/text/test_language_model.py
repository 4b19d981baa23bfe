from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench._base.files import read_json
from ovbench.harness.pretraining.text.language_model import (
    KIND_WEIGHTS,
    LanguageModelRecipe,
    train_language_model,
    weighted_loss,
)
from ovbench.harness.pretraining.text.text_data import TextWeights, draw_batch, text_pool
from ovbench.harness.pretraining.text.tokenizer import vocabulary
from ovbench.tasks.world.captions import words
from ovbench.tasks.world.questions import KINDS

TINY = LanguageModelRecipe(
    width=32,
    layers=1,
    heads=2,
    mlp_width=32,
    steps=4,
    batch_size=4,
    num_turns=3,
    num_scenes=30,
    num_test_scenes=10,
    checkpoint_every=2,
    bfloat16=False,
)
TABLE = vocabulary(words())


def test_answers_weigh_most_and_padding_nothing() -> None:
    pool = text_pool(TABLE, seed=0, first=0, count=10)
    batch = draw_batch(
        pool,
        TABLE,
        seed=0,
        step=0,
        batch_size=4,
        num_turns=3,
        kind_weights=KIND_WEIGHTS,
        weights=TextWeights(caption=1.0, question=0.1, answer=4.0),
    )
    names = {number: word for word, number in TABLE.items()}
    for ids, weights in zip(batch.ids.tolist(), batch.weights.tolist(), strict=True):
        text = [names[number] for number in ids]
        assert (text[0], weights[0]) == ("<s>", 0.0)
        for place, word in enumerate(text):
            if word == "ASSISTANT:":
                assert weights[place] == pytest.approx(0.1)
                assert weights[place + 1] == 4.0
                assert (text[place + 2], weights[place + 2]) == ("</s>", 1.0)
            if word == "<pad>":
                assert weights[place] == 0.0


def test_a_batch_depends_on_seed_and_step_alone() -> None:
    pool = text_pool(TABLE, seed=0, first=0, count=10)
    settings = {"batch_size": 4, "num_turns": 3, "kind_weights": KIND_WEIGHTS, "weights": TextWeights()}
    first = draw_batch(pool, TABLE, seed=0, step=5, **settings)
    again = draw_batch(pool, TABLE, seed=0, step=5, **settings)
    other = draw_batch(pool, TABLE, seed=0, step=6, **settings)
    assert torch.equal(first.ids, again.ids)
    assert first.ids.shape != other.ids.shape or not torch.equal(first.ids, other.ids)


def test_loss_is_the_weighted_mean_over_next_tokens() -> None:
    logits, ids = torch.randn(1, 3, 5), torch.tensor([[0, 2, 4]])
    nll = -logits.log_softmax(-1)
    wanted = (2.0 * nll[0, 0, 2] + 0.5 * nll[0, 1, 4]) / 2.5
    assert torch.allclose(weighted_loss(logits, ids, torch.tensor([[9.0, 2.0, 0.5]])), wanted)


def test_the_folder_loads_offline_with_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    figures = train_language_model(tmp_path / "lm", seed=0, recipe=TINY)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "lm")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lm")
    assert model.dtype == torch.bfloat16
    assert len(tokenizer) == model.config.vocab_size
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", "<pad>")
    ids = tokenizer("USER: Where is the boot? ASSISTANT:", return_tensors="pt")["input_ids"]
    assert model(input_ids=ids).logits.shape == (1, ids.shape[1], len(TABLE))
    accuracies = {f"accuracy_{kind}" for kind in (*KINDS, "pope")}
    assert set(figures) == {*accuracies, "loss_first", "loss_last"}
    stored = read_json(tmp_path / "lm" / "training.json")["text_accuracy"]
    assert all(figures[f"accuracy_{kind}"] == value for kind, value in stored.items())


def test_a_killed_training_ends_with_the_same_folder(tmp_path: Path) -> None:
    train_language_model(tmp_path / "whole", seed=0, recipe=TINY)

    def killed(done: int, total: int, **fields: float) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_language_model(tmp_path / "cut", seed=0, recipe=TINY, progress=killed)
    train_language_model(tmp_path / "cut", seed=0, recipe=TINY)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a multiple of heads"):
        replace(TINY, heads=3)
