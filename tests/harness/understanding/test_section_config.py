from __future__ import annotations

from typing import Any

import pytest
import yaml

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import Tap
from ovbench.harness.protocols import load_protocol, protocol_names
from ovbench.harness.understanding.section_config import read_section

WITH_QUESTIONS = [name for name in protocol_names() if "understanding" in load_protocol(name).suites]
LLAVA = [name for name in WITH_QUESTIONS if name.startswith("llava15-")]


def section(name: str) -> dict[str, Any]:
    return yaml.safe_load(yaml.safe_dump(dict(load_protocol(name).section("understanding"))))


@pytest.mark.parametrize("name", WITH_QUESTIONS)
def test_every_protocol_reads(name: str) -> None:
    assert read_section(section(name)).llava.language_model.endswith(section(name)["language_model"])


def test_the_paper_protocols_are_there() -> None:
    assert LLAVA == ["llava15-llama3-8b", "llava15-proxy", "llava15-vicuna7b"]


def test_vicuna_has_the_published_hyper_parameters() -> None:
    """scripts/v1_5/pretrain.sh and finetune.sh of haotian-liu/LLaVA."""
    read = read_section(section("llava15-vicuna7b"))
    one, two = read.llava.stage1, read.llava.stage2
    assert (one.batch_size, one.micro_batch, one.lr, one.epochs, one.template) == (256, 32, 1e-3, 1.0, "plain")
    assert (two.batch_size, two.micro_batch, two.lr, two.epochs, two.template) == (128, 16, 2e-5, 1.0, "v1")
    assert (one.aspect, two.aspect, read.answer_aspect) == ("square", "pad", "pad")
    assert (one.group_by_modality_length, two.group_by_modality_length) == (False, True)
    for stage in (one, two):
        assert (stage.warmup_ratio, stage.weight_decay, stage.clip_norm, stage.betas) == (0.03, 0.0, 1.0, (0.9, 0.999))
        assert stage.loss_normalisation == "micro_batch"
    assert read.llava.language_model == "lmsys/vicuna-7b-v1.5"
    assert (read.llava.max_length, read.max_new_tokens, read.controls) == (2048, 128, ("shuffled", "blind"))
    assert read.tap is None


@pytest.mark.parametrize(
    ("name", "model", "template"),
    [
        ("llava15-llama3-8b", "meta-llama/Meta-Llama-3-8B-Instruct", "llama_3"),
        ("llava15-proxy", "Qwen/Qwen2.5-0.5B-Instruct", "qwen"),
    ],
)
def test_each_model_speaks_its_template(name: str, model: str, template: str) -> None:
    recipe = read_section(section(name)).llava
    assert (recipe.language_model, recipe.stage1.template, recipe.stage2.template) == (model, "plain", template)


def test_only_the_proxy_takes_a_share_of_the_data() -> None:
    for name in LLAVA:
        data = read_section(section(name)).data
        assert data is not None
        assert (data.stage1.share, data.stage2.share) == ((0.2, 0.2) if name == "llava15-proxy" else (1.0, 1.0))


def test_what_is_inferred_is_marked() -> None:
    assert "inferred" in load_protocol("llava15-llama3-8b").description


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_turn": 3}, "unknown key 'num_turn'"),
        ({"stage1": {"batch_size": 1, "lr": 1.0, "template": "plain", "step": 1}}, "unknown key 'step'"),
        ({"controls": ["blindd"]}, "'blindd' is none of"),
        ({"tap": {"layr": 1}}, "unknown key 'layr'"),
        ({"data": {"source": "llava", "stage1": {"json": "../x"}, "stage2": {"json": "y"}}}, "below the data folder"),
        ({"data": {"source": "llava", "stage1": {"json": "x"}}}, "'stage2' is missing"),
        ({"data": {"source": "web", "stage1": {"json": "x"}, "stage2": {"json": "y"}}}, "none of: llava"),
        ({"data": None}, "training data are either"),
        ({"world_seed": 1}, "training data are either"),
        ({"gate": "maybe"}, "none of: refuse, warn, off"),
        ({"gate": {"min_dropp": 1}}, "unknown key 'min_dropp'"),
        ({"max_new_tokens": 0}, "max_new_tokens must be 1"),
        ({"precision": "float16"}, "none of: float32, bfloat16"),
    ],
)
def test_a_section_with_a_mistake_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_section({**section("llava15-vicuna7b"), **change})


@pytest.mark.parametrize(("text", "mode"), [("gate: off", "off"), ("gate: warn", "warn"), ("gate: {mode: off}", "off")])
def test_a_gate_may_be_one_word(text: str, mode: str) -> None:
    changed = {**section("llava15-vicuna7b"), **yaml.safe_load(text)}
    assert read_section(changed).llava.gate.mode == mode


def test_the_miniature_world_has_no_gate_and_its_own_tap() -> None:
    read = read_section(section("mini"))
    assert read.llava.gate.mode == "off"
    assert read.tap == Tap(layer="final", norm="native")
    assert read.data is None
