from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.protocols import load_protocol
from ovbench.harness.understanding.config import GateConfig, LlavaConfig, StageConfig
from ovbench.harness.understanding.section_config import read_section

STAGE = StageConfig(epochs=1, batch_size=128, lr=1e-3, template="v1")
# The names that recipes had when they were a plain dump of the settings.
FIRST_NAMES = {"steps", "batch_size", "lr", "template", "warmup_ratio", "weight_decay", "clip_norm", "checkpoint_every"}


@pytest.mark.parametrize("name", ["mini", "mini-smoke"])
def test_recipes_of_the_first_version_keep_their_identity(name: str) -> None:
    recipe = read_section(load_protocol(name).section("understanding")).llava
    dump = {key: asdict(recipe)[key] for key in asdict(recipe) if key not in ("gate", "gradient_checkpointing")}
    for stage in ("stage1", "stage2"):
        dump[stage] = {key: value for key, value in dump[stage].items() if key in FIRST_NAMES}
    assert fingerprint(recipe.identity()) == fingerprint(dump)
    assert set(recipe.stage1.identity()) == FIRST_NAMES - {"checkpoint_every"}


def test_the_identity_of_the_miniature_recipe_is_what_it_was() -> None:
    recipe = read_section(load_protocol("mini").section("understanding")).llava
    digest = fingerprint(replace(recipe, language_model="lm/mini").identity())
    assert digest == "24e849958cb4af428ea3ab25597adb5abc27a5e97c77c33af9e96f53e2513cd1"


@pytest.mark.parametrize(
    "change",
    [
        {"micro_batch": 16},
        {"loss_normalisation": "global_tokens"},
        {"group_by_modality_length": True},
        {"aspect": "pad"},
        {"warmup_from_zero": True},
        {"betas": (0.9, 0.95)},
        {"eps": 1e-6},
        {"weight_decay": 0.1},
        {"epochs": 2},
    ],
)
def test_what_moves_a_weight_is_in_the_identity(change: dict[str, Any]) -> None:
    assert replace(STAGE, **change).identity() != STAGE.identity()


def test_what_moves_no_weight_is_not() -> None:
    assert replace(STAGE, checkpoint_every=7).identity() == STAGE.identity()
    summed = replace(STAGE, loss_normalisation="global_tokens")
    assert replace(summed, micro_batch=16).identity() == summed.identity()
    recipe = LlavaConfig(language_model="here", stage1=STAGE)
    other = replace(recipe, gradient_checkpointing=True, stage1=replace(STAGE, checkpoint_every=9))
    assert other.identity() == recipe.identity()
    assert replace(recipe, gate=GateConfig()).identity() != recipe.identity()  # rows are held out


def test_epochs_become_the_steps_of_the_published_runs() -> None:
    assert replace(STAGE, batch_size=256).num_steps(558_128) == 2181
    assert STAGE.num_steps(665_298) == 5198
    assert STAGE.warmup_steps_of(5198) == 156
    assert replace(STAGE, epochs=0.5).num_steps(256) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 3}, "steps or epochs, and not both"),
        ({"epochs": None}, "steps or epochs, and not both"),
        ({"epochs": 0.0}, "must be positive"),
        ({"micro_batch": 48}, "no whole number of micro-batches of 48"),
        ({"template": ""}, "no template"),
        ({"betas": (0.9, 1.0)}, "betas"),
        ({"weight_decay": -1.0}, "weight decay"),
        ({"warmup_ratio": 1.0}, "warm-up ratio"),
    ],
)
def test_impossible_stages_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(STAGE, **change)


@pytest.mark.parametrize("change", [{"num_images": 1}, {"max_loss": 0.0}, {"min_drop": 2.0}, {"max_empty": -0.1}])
def test_impossible_gates_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(change))):
        GateConfig(**change)


def test_a_gate_that_is_off_holds_nothing_out() -> None:
    assert (GateConfig(mode="off").num_held_out, GateConfig(mode="warn").num_held_out) == (0, 64)
