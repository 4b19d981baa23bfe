"""Operations by formula: those that torch counts, and those that the specification's table states."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ovbench.harness.generation.config import DiTDHConfig, LightningDiTConfig, Stage2Config, preset
from ovbench.harness.generation.flops import forward_flops
from ovbench.harness.generation.network_weights import build_network

# GFLOP on latents of 768 x 16 x 16, and on 768 x 32 x 32.
TABLE = {
    "dit-dh-s": (96.9, 415),
    "dit-dh-b": (131.4, 567),
    "dit-dh-l": (247.1, 1078),
    "dit-dh-xl": (323.2, 1406),
    "dit-xl": (238.1, None),
}
SMALL_DH = DiTDHConfig(
    input_size=4, in_channels=12, hidden_size=(32, 64), depth=(2, 3), num_heads=(2, 4), num_classes=10
)
SMALL_DIT = LightningDiTConfig(
    input_size=8, patch_size=2, in_channels=4, hidden_size=48, depth=2, num_heads=3, num_classes=10, learn_sigma=True
)


@pytest.mark.parametrize("name", TABLE)
def test_formula_gives_the_published_operations(name: str) -> None:
    small, large = TABLE[name]
    assert forward_flops(preset(name)).total / 1e9 == pytest.approx(small, rel=0.002)
    if large is not None:
        assert forward_flops(preset(name, input_size=32)).total / 1e9 == pytest.approx(large, rel=0.002)


@pytest.mark.parametrize(
    "config",
    [
        SMALL_DH,
        replace(SMALL_DH, use_swiglu=False, use_qknorm=True, hidden_size=(48, 48), num_heads=(3, 3)),
        SMALL_DIT,
        replace(SMALL_DIT, use_swiglu=False, use_rope=False, patch_size=1, mlp_ratio=3.0),
        preset("dit-dh-s"),
    ],
)
def test_formula_counts_what_torch_counts(config: Stage2Config) -> None:
    with torch.device("meta"):
        network = build_network(config, seed=0)
        latents = torch.empty(1, config.in_channels, config.input_size, config.input_size)
        labels = torch.empty(1, dtype=torch.int64)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            network(latents, torch.empty(1), labels)
    assert forward_flops(config).total == counter.get_total_flops()


def test_parts_add_up_and_only_dit_dh_has_a_head() -> None:
    xl, dh = forward_flops(preset("dit-xl")), forward_flops(preset("dit-dh-xl"))
    assert xl.head == 0
    assert dh.backbone == xl.backbone
    assert dh.backbone / 1e9 == pytest.approx(228, abs=1)
    assert dh.head / 1e9 == pytest.approx(51, abs=1)
    assert dh.total == dh.backbone + dh.head + dh.attention + dh.modulation + dh.embedding
