"""Official checkpoints are read strictly, and what does not fit is said in words."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from ovbench._base.errors import DataError
from ovbench.harness.generation.config import DiTDHConfig, LightningDiTConfig
from ovbench.harness.generation.network_weights import build_network, load_network, read_network_state, save_network
from tests.harness.generation.dit_golden import NETWORKS, close, golden

NAME = "dit_dh_tiny"


def state_of(name: str = NAME) -> dict[str, Tensor]:
    return golden(name).group("sd.")


def config_of(name: str = NAME, **changes: Any) -> DiTDHConfig | LightningDiTConfig:
    return replace(golden(name).network().config, **changes)


@pytest.mark.parametrize("multiple", [1, 64])
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_state_dict_alone_is_loaded_frozen(tmp_path: Path, name: str, multiple: int) -> None:
    file = golden(name)
    torch.save(file.group("sd."), tmp_path / "stage2_model.pt")
    network = load_network(tmp_path / "stage2_model.pt", config_of(name), swiglu_multiple=multiple)
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    close(network(file["in.x"], file["in.t"], file["in.y"]), file["out.v"])


def test_training_checkpoint_gives_its_average_without_wrappers(tmp_path: Path) -> None:
    state = state_of()
    live = {f"module.{key}": torch.zeros_like(value) for key, value in state.items()}
    average = {f"module._orig_mod.{key}": value for key, value in state.items()}
    document = {"step": 7, "model": live, "ema": average, "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}}}
    torch.save(document, tmp_path / "ep-0000001.pt")
    found = read_network_state(tmp_path / "ep-0000001.pt")
    assert set(found) == set(state)
    assert all(torch.equal(found[key], value) for key, value in state.items())


def test_our_own_file_comes_back(tmp_path: Path) -> None:
    network = build_network(config_of(), seed=3, swiglu_multiple=64)
    save_network(tmp_path / "dit.safetensors", network)
    again = load_network(tmp_path / "dit.safetensors", config_of())
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in network.state_dict().items())


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    save_file({key: value.bfloat16() for key, value in state_of().items()}, tmp_path / "dit.safetensors")
    network = load_network(tmp_path / "dit.safetensors", config_of())
    assert {value.dtype for value in network.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": (48, 64), "num_heads": (3, 4)}, "width 32 + 64 where the configuration has 48 + 64"),
        ({"depth": (3, 2)}, "depth 2 + 2 where the configuration has 3 + 2"),
        ({"in_channels": 16}, "latent channels 12 where the configuration has 16"),
        ({"num_classes": 1000}, "classes with the null label 11 where the configuration has 1001"),
        ({"input_size": 16}, "positions 16 where the configuration has 256"),
        ({"use_swiglu": False}, "MLP SwiGLU where the configuration has GELU"),
    ],
)
def test_another_architecture_is_named_in_words(tmp_path: Path, changes: dict[str, Any], text: str) -> None:
    torch.save(state_of(), tmp_path / "model.pt")
    with pytest.raises(DataError) as caught:
        load_network(tmp_path / "model.pt", config_of(**changes))
    assert "'model.pt' is of another architecture: " in caught.value.what
    assert text in caught.value.what
    assert caught.value.where == str(tmp_path / "model.pt")
    assert caught.value.fix == "name the preset or configuration that the weights were trained with"


def test_the_other_network_is_named(tmp_path: Path) -> None:
    torch.save(state_of(), tmp_path / "model.pt")
    with pytest.raises(DataError, match="network DiT-DH where the configuration has LightningDiT"):
        load_network(tmp_path / "model.pt", config_of("lightningdit_tiny"))


def test_other_heads_and_norms_are_named_by_their_tensors(tmp_path: Path) -> None:
    torch.save(state_of(), tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"enc_feat_rope.freqs_cos: \(16, 16\) instead of \(16, 8\)"):
        load_network(tmp_path / "model.pt", config_of(num_heads=(4, 4)))
    with pytest.raises(DataError, match=r"missing: .*q_norm"):
        load_network(tmp_path / "model.pt", config_of(use_qknorm=True))


def test_missing_and_surplus_tensors_are_refused(tmp_path: Path) -> None:
    state = state_of()
    state["stray"] = state.pop("s_projector.bias")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(DataError, match=r"missing: s_projector.bias; unexpected: stray"):
        load_network(tmp_path / "model.pt", config_of())


def test_broken_weights_are_refused(tmp_path: Path) -> None:
    state = state_of()
    state["s_projector.bias"][0] = float("nan")
    torch.save(state, tmp_path / "model.pt")
    with pytest.raises(DataError, match="NaN or infinite values: s_projector.bias"):
        load_network(tmp_path / "model.pt", config_of())


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ([1, 2], "holds a list, no weights"),
        ({"a.weight": torch.zeros(2)}, "holds no diffusion transformer of RAE (it holds: a.weight, …)"),
        ({"ema": {"step": 3}}, "is not a dictionary of tensors: 'step' is a int"),
        ({"t_embedder.W": torch.zeros(2), "module.t_embedder.W": torch.zeros(2)}, "two tensors for 't_embedder.W'"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, document: object, text: str) -> None:
    torch.save(document, tmp_path / "model.pt")
    with pytest.raises(DataError) as caught:
        read_network_state(tmp_path / "model.pt")
    assert text in caught.value.what


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit('ran')",))


def test_code_in_a_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"ema": Payload()}, tmp_path / "model.pt")
    with pytest.raises(DataError, match="holds pickled code or objects"):
        read_network_state(tmp_path / "model.pt")


def test_missing_file_is_said(tmp_path: Path) -> None:
    for name in ("none.pt", "none.safetensors"):
        with pytest.raises(DataError, match=f"no such file '{name}'"):
            read_network_state(tmp_path / name)


def test_a_network_narrower_than_the_latent_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        build_network(LightningDiTConfig(hidden_size=384, depth=1, num_heads=6), seed=0)
    assert "the last block is 384 wide and the latents have 768 channels" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING), torch.device("meta"):
        build_network(DiTDHConfig(hidden_size=(384, 2048), depth=(1, 1), num_heads=(6, 16)), seed=0)
    assert caplog.text == ""
