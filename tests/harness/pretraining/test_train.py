"""What training an encoder leaves behind: the trunk, and the pixel decoder where the recipe has one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from ovbench._base.errors import DataError
from ovbench._base.paths import asset
from ovbench.encoders.modeling.weights_file import read_tensors
from ovbench.encoders.registry import load_encoder
from ovbench.harness.pretraining.recipes import MINI, smoke
from ovbench.harness.pretraining.train import PretrainResult, pretrain
from ovbench.harness.training import no_progress
from ovbench.tasks.world.draw import embedded_sprites


def _train(name: str, folder: Path) -> PretrainResult:
    recipe = smoke(MINI[name])
    phases = tuple(replace(phase, steps=2, batch_size=8, warmup_steps=1) for phase in recipe.phases)
    return pretrain(
        replace(recipe, phases=phases, probe_scenes=40),
        folder,
        seed=0,
        train_sprites=embedded_sprites("train"),
        test_sprites=embedded_sprites("test"),
        vae_weights=asset("encoders/vae-mini.safetensors") if name == "ovis3" else None,
        phase_progress=lambda _phase: no_progress,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> PretrainResult:
    """A few steps of OpenVision 3's objective."""
    return _train("ovis3", tmp_path_factory.mktemp("trained"))


def test_the_decoder_lies_beside_the_weights(trained: PretrainResult) -> None:
    assert trained.decoder == trained.weights.with_name("ovis3-mini-decoder.safetensors")
    with safe_open(trained.decoder, framework="pt") as stream:
        header = stream.metadata()
    assert set(header) == {"recipe", "config", "vae", "trunk"}
    assert json.loads(header["config"])["layers"] == MINI["ovis3"].objective.decoder_layers


def test_the_stored_decoder_is_that_of_the_last_checkpoint(trained: PretrainResult) -> None:
    assert trained.decoder is not None
    stored, _ = read_tensors(trained.decoder)
    checkpoint, _ = read_tensors(trained.weights.parent / "full.state.safetensors")
    prefix = "model/model/decoder."
    last = {key.removeprefix(prefix): value for key, value in checkpoint.items() if key.startswith(prefix)}
    assert set(stored) == set(last)
    assert all(torch.equal(value, last[key].to(torch.bfloat16)) for key, value in stored.items())


def test_it_decodes_the_tokens_of_its_own_trunk_alone(trained: PretrainResult) -> None:
    encoder = load_encoder(f"ovis3/mini:{trained.weights}?decoder={trained.decoder}&size=32")
    assert encoder.info.supports_decode
    with pytest.raises(DataError, match="trained with another trunk"):
        load_encoder(f"ovis3/mini?decoder={trained.decoder}")


def test_a_recipe_without_the_branch_leaves_none(tmp_path: Path) -> None:
    assert _train("clip", tmp_path).decoder is None
    assert not list(tmp_path.glob("*decoder*"))
