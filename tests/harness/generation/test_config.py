"""Architectures: the published sizes, and combinations that no network has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import (
    PRESETS,
    DiTDHConfig,
    LightningDiTConfig,
    mlp_width,
    preset,
    read_stage2_config,
)
from ovbench.harness.generation.network_weights import build_network

# Of arXiv 2510.11690 on DINOv2-B latents, in millions.
PUBLISHED = {"dit-dh-s": 196.5, "dit-dh-b": 294.3, "dit-dh-l": 621.7, "dit-dh-xl": 838.7, "dit-xl": 677.3}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_has_the_published_number_of_parameters(name: str) -> None:
    with torch.device("meta"):
        network = build_network(preset(name), seed=0)
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert millions == pytest.approx(PUBLISHED[name], abs=0.06)


@pytest.mark.parametrize(("width", "hidden"), [(384, 1024), (768, 2048), (1024, 2730), (1152, 3072), (2048, 5461)])
def test_swiglu_widths_are_those_of_the_reference(width: int, hidden: int) -> None:
    assert mlp_width(width, 4.0, swiglu=True) == hidden
    assert mlp_width(width, 4.0, swiglu=False) == 4 * width


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": 1150}, "width 1150 is not a multiple of 16 heads"),
        ({"hidden_size": 96, "num_heads": 16}, "gives 6 channels a head, and rotary positions in two dimensions need"),
        ({"hidden_size": 18, "num_heads": 3, "use_rope": False}, "width 18 is not a multiple of 4"),
        ({"patch_size": 3}, "16 cells along a side are no whole number of patches of 3"),
        ({"wo_shift": True}, "wo_shift=true is not supported"),
        ({"class_dropout_prob": 1.0}, "class_dropout_prob must be a number in [0, 1), got 1.0"),
        ({"mlp_ratio": 0.0}, "leaves no hidden layer"),
        ({"depth": 0}, "depth must be a whole number from 1, got 0"),
        ({"num_classes": True}, "num_classes must be a whole number from 1, got True"),
        ({"use_rope": "yes"}, "use_rope must be true or false, got 'yes'"),
        ({"label_init_std": -1.0}, "label_init_std must be a number in [0, inf), got -1.0"),
    ],
)
def test_impossible_lightning_dit_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(LightningDiTConfig(), **changes)
    assert text in caught.value.what
    assert caught.value.where == "LightningDiT"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"patch_size": 2}, "patch size 2 is not supported"),
        ({"use_rope": False}, "use_rope=false is not supported"),
        ({"wo_shift": True}, "wo_shift=true is not supported"),
        ({"hidden_size": 1152}, "hidden_size must be a pair (backbone, head), got 1152"),
        ({"depth": (28, 0)}, "depth of the head must be a whole number from 1, got 0"),
        ({"num_heads": (16, 3)}, "width 2048 is not a multiple of 3 heads"),
        ({"hidden_size": (90, 2048), "num_heads": (9, 16)}, "gives 10 channels a head"),
    ],
)
def test_impossible_dit_dh_is_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(DiTDHConfig(), **changes)
    assert text in caught.value.what
    assert caught.value.where == "DiT-DH"


def test_refused_flag_says_what_to_set() -> None:
    with pytest.raises(ConfigError) as caught:
        DiTDHConfig(patch_size=2)
    assert caught.value.fix == "set patch_size to 1, or take LightningDiT"


def test_preset_is_made_for_other_latents() -> None:
    small = preset("dit-dh-s", in_channels=128, input_size=4, num_classes=8)
    assert isinstance(small, DiTDHConfig)
    assert (small.in_channels, small.num_tokens, small.hidden_size) == (128, 16, (384, 2048))
    assert PRESETS["dit-dh-s"].in_channels == 768


def test_unknown_preset_and_field_get_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown generation network 'dit-dh-m'") as caught:
        preset("dit-dh-m", where="--dit")
    assert "did you mean 'dit-dh-" in caught.value.fix
    with pytest.raises(ConfigError, match="unknown field 'in_chanels' of DiTDH") as caught:
        preset("dit-dh-s", in_chanels=3)
    assert caught.value.fix == "did you mean 'in_channels'?"


def test_reference_fields_are_read_with_one_number_of_heads_for_both_parts() -> None:
    document = {"input_size": 4, "in_channels": 8, "hidden_size": [48, 48], "depth": [1, 2], "num_heads": 3}
    config = read_stage2_config({**document, "patch_size": [1, 1]}, where="file")
    assert isinstance(config, DiTDHConfig)
    assert (config.num_heads, config.patch_size, config.depth) == ((3, 3), 1, (1, 2))
    single = read_stage2_config({**document, "hidden_size": 48, "depth": 2}, where="file")
    assert isinstance(single, LightningDiTConfig)


def test_a_configuration_without_its_sizes_is_refused() -> None:
    with pytest.raises(ConfigError, match="does not say hidden_size, num_heads") as caught:
        read_stage2_config({"input_size": 4, "in_channels": 8, "depth": 2}, where="file.yaml")
    assert caught.value.where == "file.yaml"


def test_field_of_the_other_network_is_refused() -> None:
    fields = {"input_size": 4, "in_channels": 8, "hidden_size": [48, 48], "depth": [1, 2], "num_heads": 3}
    with pytest.raises(ConfigError, match="unknown field 'learn_sigma' of DiTDH"):
        read_stage2_config({**fields, "learn_sigma": True}, where="file")
