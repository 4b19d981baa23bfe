"""Parameters and operations of language models, against transformers and against published sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from torch.utils.flop_counter import FlopCounterMode

from ovbench._base.errors import DataError
from ovbench._base.paths import asset_folder
from ovbench.harness.understanding.llm_cost import KNOWN, llm_shape

PUBLISHED = {
    "lmsys/vicuna-7b-v1.5": 6_738_415_616,
    "meta-llama/Meta-Llama-3-8B-Instruct": 8_030_261_248,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_protocols_language_models_have_their_published_number_of_parameters(name: str) -> None:
    assert KNOWN[name].num_params == PUBLISHED[name]


def _tiny(kind: str, folder: Path) -> torch.nn.Module:
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = transformers.AutoConfig.for_model(kind, **sizes, intermediate_size=48, vocab_size=40)
    config._attn_implementation = "eager"
    config.save_pretrained(folder)
    return transformers.AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_parameters_are_those_that_transformers_builds(kind: str, tmp_path: Path) -> None:
    model = _tiny(kind, tmp_path)
    shape = llm_shape(str(tmp_path))
    assert shape is not None
    assert shape.num_params == sum(parameter.numel() for parameter in model.parameters())


def test_operations_are_those_that_torch_counts_but_for_the_half_that_a_causal_mask_hides(tmp_path: Path) -> None:
    model = _tiny("llama", tmp_path)
    shape = llm_shape(str(tmp_path))
    assert shape is not None
    positions = 24
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=torch.zeros(1, positions, dtype=torch.int64), use_cache=False)
    hidden_half = 2 * shape.layers * shape.heads * shape.head_dim * positions * (positions - 1)
    assert counter.get_total_flops() == shape.forward_flops(positions) + hidden_half


def test_the_embedded_language_model_is_counted_from_its_folder() -> None:
    shape = llm_shape(str(asset_folder("lm/mini")))
    assert shape is not None
    assert shape.num_params < 1_000_000


def test_a_language_model_that_nobody_knows_has_no_shape() -> None:
    assert llm_shape("nobody/knows-it") is None


def test_a_configuration_without_a_size_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 8}))
    with pytest.raises(DataError, match="lacks a size: 'num_attention_heads'"):
        llm_shape(str(tmp_path))
