from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench._base.files import read_jsonl
from ovbench._base.seeding import torch_generator
from ovbench.harness.checkpoint import load_tensors
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.data import WorldTrainingData
from ovbench.harness.understanding.train import train_llava

DIM = 8
DATA = WorldTrainingData(seed=0, num_scenes=8, num_turns=4, new_questions=False)


def tokens(image_ids: Sequence[str]) -> torch.Tensor:
    """Four random tokens per image, always the same ones."""
    return torch.stack([torch.randn(4, DIM, generator=torch_generator(0, image_id)) for image_id in image_ids])


def config(language_model: str, *, steps: int = 6, checkpoint_every: int = 100) -> LlavaConfig:
    return LlavaConfig(
        language_model=language_model,
        stage1=StageConfig(steps=steps, batch_size=4, lr=2e-3, template="plain", checkpoint_every=checkpoint_every),
        stage2=StageConfig(steps=steps, batch_size=4, lr=2e-3, template="v1_short", checkpoint_every=checkpoint_every),
        precision="float32",
    )


def test_eight_samples_can_be_learnt_by_heart(toy_language_model: str, tmp_path: Path) -> None:
    recipe = config(toy_language_model)
    recipe = replace(recipe, stage2=replace(recipe.stage2, steps=200, batch_size=8, lr=1e-2))
    train_llava(tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path, stage=2)
    losses = [row["loss"] for row in read_jsonl(tmp_path / "stage2.log.jsonl")]
    assert losses[0] > 1.5
    assert losses[-1] < 0.1


def test_stage_one_changes_the_projector_alone(toy_language_model: str, tmp_path: Path) -> None:
    recipe = config(toy_language_model)
    first = load_tensors(
        train_llava(tokens, dim=DIM, data=DATA, config=recipe.with_steps(1, 1), seed=0, folder=tmp_path / "a", stage=1)
    )
    longer = load_tensors(
        train_llava(tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path / "b", stage=1)
    )
    assert set(longer) == {f"model.mm_projector.{key}" for key in ("0.weight", "0.bias", "2.weight", "2.bias")}
    assert not torch.equal(first["model.mm_projector.0.weight"], longer["model.mm_projector.0.weight"])


def test_stage_two_starts_from_stage_one_and_trains_everything(toy_language_model: str, tmp_path: Path) -> None:
    recipe = config(toy_language_model, steps=2)
    first = train_llava(tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path, stage=1)
    second = load_tensors(
        train_llava(tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path, stage=2, init=first)
    )
    stored = load_tensors(Path(toy_language_model) / "model.safetensors")
    change = second["model.mm_projector.0.weight"] - load_tensors(first)["model.mm_projector.0.weight"]
    assert 0 < float(change.abs().max()) < 0.02  # two steps of at most 2e-3 each, far from a fresh start
    for key, value in stored.items():
        assert not torch.equal(value, second[key]), key


@pytest.mark.parametrize("stage", [1, 2])
def test_a_killed_run_ends_with_the_same_weights(toy_language_model: str, tmp_path: Path, stage: int) -> None:
    recipe = config(toy_language_model, steps=6, checkpoint_every=2)
    whole = train_llava(tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path / "whole", stage=stage)

    def killed(done: int, total: int, **fields: float) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_llava(
            tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path / "cut", stage=stage, progress=killed
        )
    calls: list[int] = []
    resumed = train_llava(
        tokens,
        dim=DIM,
        data=DATA,
        config=recipe,
        seed=0,
        folder=tmp_path / "cut",
        stage=stage,
        progress=lambda done, total, **fields: calls.append(done),
    )
    assert calls == [5, 6]
    assert resumed.read_bytes() == whole.read_bytes()


def test_a_checkpoint_of_other_features_is_not_used(toy_language_model: str, tmp_path: Path) -> None:
    recipe = config(toy_language_model, steps=2)
    train_llava(tokens, dim=DIM, data=DATA, config=recipe, seed=0, folder=tmp_path, stage=1, source="a")
    calls: list[int] = []
    train_llava(
        tokens,
        dim=DIM,
        data=DATA,
        config=recipe,
        seed=0,
        folder=tmp_path,
        stage=1,
        source="b",
        progress=lambda done, total, **fields: calls.append(done),
    )
    assert calls == [1, 2]


def test_stage_one_refuses_initial_weights(toy_language_model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fresh projector"):
        train_llava(
            tokens,
            dim=DIM,
            data=DATA,
            config=config(toy_language_model),
            seed=0,
            folder=tmp_path,
            stage=1,
            init=tmp_path / "x",
        )
