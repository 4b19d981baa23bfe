"""LightningDiT and DiT-DH against the reference program's tensors, and what the networks promise besides."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.blocks import SwiGLU
from ovbench.harness.generation.config import LightningDiTConfig, Stage2Config
from ovbench.harness.generation.dit import LightningDiT
from ovbench.harness.generation.embeddings import RotaryPositions, position_table
from ovbench.harness.generation.head import DiTwDDTHead
from ovbench.harness.generation.network_weights import build_network
from tests.harness.generation.dit_golden import DIT_DH, LIGHTNING_DIT, NETWORKS, close, golden


def inputs(name: str) -> tuple[Tensor, Tensor, Tensor]:
    file = golden(name)
    return file["in.x"], file["in.t"], file["in.y"]


def test_golden_files_are_there() -> None:
    assert {"dit_dh_tiny", "dit_dh_tiny_alt"} <= set(DIT_DH)
    assert {"lightningdit_tiny", "lightningdit_tiny_alt"} <= set(LIGHTNING_DIT)


@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_velocity_equals_the_reference(name: str, multiple: int) -> None:
    file = golden(name)
    network = file.network(swiglu_multiple=multiple)
    x, t, labels = inputs(name)
    close(network(x, t, labels), file["out.v"])
    close(network(x, t, torch.full_like(labels, network.null_label)), file["out.v_null"])


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_equal_the_reference_and_frozen_tables_have_none(name: str) -> None:
    file = golden(name)
    network = file.network()
    (network(*inputs(name)) * file["in.w"]).mean().backward()
    gradients = {key: p.grad for key, p in network.named_parameters() if p.grad is not None}
    expected = file.group("out.grad.")
    assert set(expected) <= set(gradients)
    for key, value in expected.items():
        close(gradients[key], value)
    assert not {"pos_embed", "t_embedder.W"} & set(gradients)


@pytest.mark.parametrize("name", DIT_DH)
@torch.no_grad()
def test_every_stage_of_dit_dh_equals_the_reference(name: str) -> None:
    file = golden(name)
    network = file.network()
    assert isinstance(network, DiTwDDTHead)
    seen: dict[str, Tensor] = {}

    def keep(stage: str, _module: nn.Module, _inputs: object, out: Tensor) -> None:
        seen[stage] = out

    stages: dict[str, nn.Module] = {
        "t_emb": network.t_embedder,
        "y_emb": network.y_embedder,
        "block0_out": network.blocks[0],
        "head_cond": network.s_projector,
        "x_tokens": network.x_embedder,
        "last_block_out": network.blocks[-1],
    }
    for stage, module in stages.items():
        module.register_forward_hook(partial(keep, stage))
    network(*inputs(name))
    seen["head_cond_pre_proj"] = network.backbone(*inputs(name))
    expected = file.group("dbg.")
    assert set(expected) == set(seen)
    for stage, value in expected.items():
        close(seen[stage], value)


@pytest.mark.parametrize("name", DIT_DH)
@torch.no_grad()
def test_given_condition_of_the_head_skips_the_backbone(name: str) -> None:
    file = golden(name)
    network = file.network()
    assert isinstance(network, DiTwDDTHead)
    x, t, labels = inputs(name)
    network.blocks[0].register_forward_hook(lambda *_: pytest.fail("the backbone ran"))
    close(network(x, t, labels, s=file["dbg.head_cond_pre_proj"]), file["out.v"])
    with pytest.raises(ConfigError, match=r"s must be \[3, 16,"):
        network(x, t, labels, s=file["dbg.head_cond_pre_proj"][:2])


@pytest.mark.parametrize("name", DIT_DH)
@torch.no_grad()
def test_dropped_labels_equal_the_reference(name: str) -> None:
    file = golden(name)
    network, drop = file.network(), file["in.drop_ids"] == 1
    x, t, labels = inputs(name)
    close(network.y_embedder(labels, drop), file["out.y_emb_dropped"])
    mixed = torch.where(drop.reshape(-1, 1, 1, 1), file["out.v_null"], file["out.v"])
    close(network(x, t, labels, drop=drop), mixed)


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_train_mode_computes_the_same(name: str) -> None:
    network = golden(name).network()
    before = torch.get_rng_state()
    assert torch.equal(network.train()(*inputs(name)), network.eval()(*inputs(name)))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_conditions_of_distinct_labels_serve_many_images(name: str) -> None:
    network = golden(name).network()
    x, _, _ = inputs(name)
    rows = torch.tensor([2, 0, 2])
    labels, times = torch.tensor([4, 1, 7]), torch.full((3,), 0.6)
    torch.testing.assert_close(network(x, times, labels, rows=rows), network(x, times, labels[rows]))


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_tables_of_a_new_network_are_those_of_the_reference(name: str) -> None:
    file = golden(name)
    network = build_network(file.network().config, seed=0)
    own = network.state_dict()
    for key, value in file.group("sd.").items():
        if "_rope." in key or key.endswith("freqs_cos"):
            torch.testing.assert_close(own[key], value, rtol=0, atol=1e-6)
        if key == "pos_embed":  # the golden one has noise on top
            assert (own[key] - value).abs().mean() < 0.2
            assert torch.corrcoef(torch.stack([own[key].flatten(), value.flatten()]))[0, 1] > 0.9


def test_position_table_has_columns_before_rows() -> None:
    table = position_table(16, 3)[0].reshape(3, 3, 16)
    for row in range(3):
        for column in range(3):
            for half, place in ((0, column), (8, row)):
                for k in range(4):
                    angle = place / 10000 ** (k / 4)
                    assert float(table[row, column, half + k]) == pytest.approx(math.sin(angle), abs=1e-6)
                    assert float(table[row, column, half + 4 + k]) == pytest.approx(math.cos(angle), abs=1e-6)


def test_rotary_positions_turn_neighbouring_pairs_by_row_then_column() -> None:
    rope = RotaryPositions(8, 3)
    x = torch.randn(1, 1, 9, 8, generator=torch.Generator().manual_seed(0))
    turned = rope(x)[0, 0]
    for token in range(9):
        for pair in range(4):
            place = (token // 3, token % 3)[pair // 2]
            angle = place * 10000 ** (-2 * (pair % 2) / 4)
            a, b = (float(value) for value in x[0, 0, token, 2 * pair : 2 * pair + 2])
            expected = (a * math.cos(angle) - b * math.sin(angle), b * math.cos(angle) + a * math.sin(angle))
            assert turned[token, 2 * pair : 2 * pair + 2].tolist() == pytest.approx(expected, abs=1e-6)


def test_other_latents_are_refused() -> None:
    network = golden("dit_dh_tiny").network()
    with pytest.raises(ConfigError) as caught:
        network(torch.zeros(2, 12, 8, 8), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
    assert caught.value.what == "latents must be [B, 12, 4, 4], got [2, 12, 8, 8]"


def test_network_without_null_label_refuses_to_drop() -> None:
    config = LightningDiTConfig(
        input_size=4, in_channels=4, hidden_size=16, depth=1, num_heads=2, num_classes=3, class_dropout_prob=0.0
    )
    network = build_network(config, seed=0)
    assert network.state_dict()["y_embedder.embedding_table.weight"].shape == (3, 16)
    x, t, labels = torch.zeros(2, 4, 4, 4), torch.zeros(2), torch.tensor([0, 2])
    assert network(x, t, labels).shape == x.shape
    with pytest.raises(ConfigError, match="no label for 'no class'"):
        network(x, t, labels, drop=torch.tensor([True, False]))


def test_learn_sigma_throws_the_second_half_away() -> None:
    name = "lightningdit_tiny_alt"
    network = golden(name).network()
    assert isinstance(network, LightningDiT)
    assert network.config.learn_sigma
    before = network(*inputs(name))
    with torch.no_grad():
        patches = network.final_layer.linear.weight.unflatten(0, (4, 8))  # [p * p, channels, C]
        patches[:, 4:] += 1.0
    assert torch.equal(network(*inputs(name)), before)


def test_tables_are_trained_only_on_request() -> None:
    network = build_network(golden("dit_dh_tiny").network().config, seed=0)
    frozen = {key for key, p in network.named_parameters() if not p.requires_grad}
    assert frozen == {"pos_embed", "t_embedder.W"}
    network.train_tables()
    assert all(p.requires_grad for p in network.parameters())


def config_of(name: str, **changes: Any) -> Stage2Config:
    return replace(golden(name).network().config, **changes)


@pytest.mark.parametrize("name", NETWORKS)
def test_new_weights_depend_on_the_seed_alone(name: str) -> None:
    config = config_of(name)
    before = torch.get_rng_state()
    first, again, other = (build_network(config, seed=seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    padded = build_network(config, seed=0, swiglu_multiple=64).state_dict()
    assert list(first) == list(padded)
    for key, value in first.items():
        assert torch.equal(value, again[key])
        assert torch.equal(value, padded[key])
    assert any(not torch.equal(value, other[key]) for key, value in first.items())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_new_network_predicts_zero_and_learns_from_the_first_step(name: str) -> None:
    network = build_network(config_of(name), seed=0)
    x, t, labels = inputs(name)
    assert not network(x, t, labels).any()
    state = network.state_dict()
    zero = {key for key, value in state.items() if not value.any()}
    assert {key for key in zero if "adaLN" not in key and not key.endswith("bias")} == {"final_layer.linear.weight"}


def test_starting_weights_have_the_published_spread() -> None:
    wide = {"hidden_size": (64, 128), "num_heads": (2, 4), "label_init_std": 0.5, "num_classes": 200}
    state = build_network(config_of("dit_dh_tiny", **wide), seed=0).state_dict()
    bound = 1 / 8  # torch's default: uniform in ±1/sqrt(inputs)
    for key in ("blocks.0.attn.qkv.weight", "blocks.0.attn.qkv.bias", "blocks.0.mlp.w12.weight", "s_projector.weight"):
        assert 0.95 * bound < float(state[key].abs().max()) <= bound
        assert float(state[key].std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)
    embed = math.sqrt(6 / (12 + 128))  # Xavier over the flattened kernel
    assert 0.95 * embed < float(state["x_embedder.proj.weight"].abs().max()) <= embed
    assert not state["x_embedder.proj.bias"].any()
    assert float(state["y_embedder.embedding_table.weight"].std()) == pytest.approx(0.5, rel=0.05)
    assert float(state["t_embedder.mlp.0.weight"].std()) == pytest.approx(0.02, rel=0.05)
    assert float(state["t_embedder.W"].std()) == pytest.approx(1.0, rel=0.15)


def test_lightning_dit_starts_with_xavier_weights() -> None:
    state = build_network(config_of("lightningdit_tiny"), seed=0).state_dict()
    bound = math.sqrt(6 / (48 + 144))
    assert 0.95 * bound < float(state["blocks.0.attn.qkv.weight"].abs().max()) <= bound
    assert not state["blocks.0.attn.qkv.bias"].any()
    assert float(state["y_embedder.embedding_table.weight"].std()) == pytest.approx(0.02, rel=0.15)
    assert float(state["t_embedder.mlp.2.weight"].std()) == pytest.approx(0.02, rel=0.1)


def padded_pair() -> tuple[SwiGLU, SwiGLU]:
    plain, padded = SwiGLU(12, 21), SwiGLU(12, 21, multiple=8)
    padded.load_state_dict(plain.state_dict())
    return plain, padded


def test_padded_swiglu_gives_the_same_and_saves_without_padding() -> None:
    plain, padded = padded_pair()
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(padded(x), plain(x))
    assert padded.w12.weight.shape == (48, 12)
    assert padded.w3.weight.shape == (12, 24)
    stored = padded.state_dict()
    assert {key: value.shape for key, value in stored.items()} == {k: v.shape for k, v in plain.state_dict().items()}
    assert all(torch.equal(value, stored[key]) for key, value in plain.state_dict().items())


def test_padding_stays_zero_in_training() -> None:
    _, padded = padded_pair()
    optimizer = torch.optim.AdamW(padded.parameters(), lr=0.1, weight_decay=0.0)
    x = torch.randn(5, 12, generator=torch.Generator().manual_seed(0))
    before = padded.w3.weight.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        padded(x).square().sum().backward()
        optimizer.step()
    rows = torch.cat([padded.w12.weight[21:24], padded.w12.weight[45:48]])
    assert not rows.any()
    assert not padded.w12.bias.unflatten(0, (2, 24))[:, 21:].any()
    assert not padded.w3.weight[:, 21:].any()
    assert not torch.equal(padded.w3.weight[:, :21], before[:, :21])


def test_copy_of_a_padded_network_saves_its_own_weights() -> None:
    _, padded = padded_pair()
    twin = copy.deepcopy(padded)
    with torch.no_grad():
        twin.w3.weight.zero_()
    assert padded.state_dict()["w3.weight"].any()
    assert not twin.state_dict()["w3.weight"].any()


def test_padded_swiglu_refuses_weights_of_another_width() -> None:
    _, padded = padded_pair()
    with pytest.raises(RuntimeError, match="size mismatch"):
        padded.load_state_dict(SwiGLU(12, 22).state_dict())


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_autocast_keeps_time_and_residual_stream_in_float32(name: str) -> None:
    network = golden(name).network()
    kinds: dict[str, torch.dtype] = {}
    network.t_embedder.register_forward_hook(lambda _m, _i, out: kinds.__setitem__("time", out.dtype))
    network.blocks[-1].register_forward_hook(lambda _m, _i, out: kinds.__setitem__("tokens", out.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        low = network(*inputs(name))
    assert kinds == {"time": torch.float32, "tokens": torch.float32}
    exact = network(*inputs(name))
    assert float((low - exact).norm() / exact.norm()) < 0.03
