"""Trains an encoder with its own objective, in two stages, and writes the weights of trunk and pixel decoder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import derive, torch_generator
from ovbench.encoders.modeling.frontend import load_frontend
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.reconstruction_decoder import ReconstructionDecoder
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.modeling.vit import OpenVisionViT
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.pretraining.config import PhaseConfig, PretrainRecipe
from ovbench.harness.pretraining.data import Batch, scene_batch, single_batch
from ovbench.harness.pretraining.model import Pretrainer
from ovbench.harness.pretraining.objective import Objective
from ovbench.harness.pretraining.probe import probe
from ovbench.harness.training import LoopConfig, Progress, train_loop
from ovbench.tasks.world.draw import Sprites

Phase = Callable[[str], Progress]


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainResult:
    """What training an encoder leaves behind."""

    weights: Path  # safetensors in bfloat16, architecture in the header
    decoder: Path | None  # of the reconstruction branch, likewise; None where the recipe has none
    probes: dict[str, float]  # class and colour accuracy of the stored weights
    log: list[dict[str, Any]]  # loss rows of all stages, with the stage's name


def phase_batch(recipe: PretrainRecipe, phase: PhaseConfig, seed: int, step: int, sprites: Sprites) -> Batch:
    """Returns the batch of one step: cut-outs at half resolution, whole scenes at full."""
    full = recipe.trunk.input_size
    data_seed = derive(seed, "pretrain", phase.name)
    if phase.resolution * 2 == full:
        return single_batch(data_seed, step, phase.batch_size, sprites)
    if phase.single_every and step % phase.single_every == phase.single_every - 1:
        return single_batch(data_seed, step, 2 * phase.batch_size, sprites)
    return scene_batch(data_seed, step, phase.batch_size, sprites, group_size=recipe.group_size)


def tokens_of(visual: OpenVisionViT, vae: FrontEnd | None) -> Callable[[Tensor], Tensor]:
    """Returns the function images in [-1, 1] → tokens, as the frozen encoder computes it."""

    def run(images_pm1: Tensor) -> Tensor:
        return visual(images_pm1 if vae is None else vae.encode(images_pm1)).tokens

    return run


def pretrain(
    recipe: PretrainRecipe,
    folder: Path,
    *,
    seed: int,
    train_sprites: Sprites,
    test_sprites: Sprites,
    vae_weights: Path | None,
    phase_progress: Phase,
) -> PretrainResult:
    """Trains an encoder on the garment world.

    Args:
        recipe: One of `recipes.MINI`, or a variation.
        folder: Checkpoints, logs and the result; the same call again continues.
        seed: Initialisation, data order and noise.
        train_sprites: Photographs to train on.
        test_sprites: Photographs that the probes are scored on.
        vae_weights: Weights of the frozen VAE, for a trunk that reads latents.
        phase_progress: Stage name → where its progress goes.

    Returns:
        Where the weights are (of the trunk, and of a reconstruction branch), their probe figures, and the loss log.

    Raises:
        ConfigError: The recipe is not one for the garment world.
    """
    if recipe.trunk.input_size != 64:
        raise ConfigError(
            f"the recipe '{recipe.name}' is for {recipe.trunk.input_size}-pixel photographs; the embedded world has 64",
            where="--recipe",
            fix="choose ovis3, clip or siglip with --protocol mini",
        )
    if any((p.lambda_lpips or 0.0) > 0 for p in recipe.phases) or recipe.objective.lambda_lpips > 0:
        raise ConfigError(
            f"the recipe '{recipe.name}' weighs LPIPS, and no perceptual network is shipped",
            where="lambda_lpips",
            fix="set the weight to 0",
        )
    torch.manual_seed(derive(seed, "pretrain/init"))
    model = Pretrainer(recipe)
    vae = load_frontend(recipe.trunk.frontend, vae_weights)
    objective = Objective(model, vae)
    log: list[dict[str, Any]] = []
    for number, phase in enumerate(recipe.phases):
        lpips = phase.lambda_lpips if phase.lambda_lpips is not None else recipe.objective.lambda_lpips

        def losses(step: int, phase: PhaseConfig = phase, lpips: float = lpips) -> dict[str, Tensor]:
            batch = phase_batch(recipe, phase, seed, step, train_sprites)
            generator = torch_generator(seed, "pretrain/noise", phase.name, step)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=recipe.autocast):
                return objective(batch, generator, lambda_lpips=lpips)

        rows = train_loop(
            modules={"model": model},
            losses=losses,
            config=LoopConfig(
                steps=phase.steps,
                lr=phase.lr,
                warmup_steps=phase.warmup_steps,
                weight_decay=recipe.weight_decay,
                betas=recipe.betas,
                checkpoint_every=recipe.checkpoint_every,
            ),
            folder=folder,
            name=phase.name,
            # A stage depends on those before it, so another schedule for a later one keeps the earlier checkpoints.
            recipe={
                "recipe": replace(recipe, phases=recipe.phases[: number + 1]),
                "seed": seed,
                "sprites": train_sprites.digest,
            },
            progress=phase_progress(phase.name),
        )
        log += [{"stage": phase.name, **row} for row in rows]
    stored = {key: value.to(torch.bfloat16) for key, value in model.visual.state_dict().items()}
    visual = OpenVisionViT(model.visual.config).eval()
    visual.load_state_dict({key: value.float() for key, value in stored.items()})
    probes = probe(tokens_of(visual, vae), train_sprites, test_sprites, num_scenes=recipe.probe_scenes)
    weights = folder / f"{recipe.name}-mini.safetensors"
    metadata = {"recipe": recipe.name, "config": json.dumps(asdict(model.visual.config))}
    if vae is not None:
        metadata["vae"] = weights_digest(vae)
    save_tensors(weights, stored, metadata)
    decoder = None
    if recipe.objective.omega_rec > 0:
        decoder = folder / f"{recipe.name}-mini-decoder.safetensors"
        _save_decoder(decoder, model.decoder, {**metadata, "trunk": weights_digest(visual)})
    return PretrainResult(weights=weights, decoder=decoder, probes=probes, log=log)


def _save_decoder(path: Path, decoder: ReconstructionDecoder, metadata: Mapping[str, str]) -> None:
    """Writes the reconstruction branch in bfloat16, with what it belongs to in its header."""
    stored = {key: value.to(torch.bfloat16) for key, value in decoder.state_dict().items()}
    save_tensors(path, stored, {**metadata, "config": json.dumps(decoder.describe())})
