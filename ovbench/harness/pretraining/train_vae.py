"""Trains the miniature VAE on cut-outs and scenes of the garment world."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from ovbench._base.seeding import derive, torch_generator
from ovbench.encoders.modeling.tiny_vae import TinyVAE, TinyVAEConfig
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.pretraining.config import VAERecipe
from ovbench.harness.pretraining.data import scene_batch, single_batch, to_pm1
from ovbench.harness.training import LoopConfig, Progress, no_progress, train_loop
from ovbench.tasks.world.draw import Sprites, draw_scenes, draw_single
from ovbench.tasks.world.scene import make_scene, make_single


def images_for_step(seed: int, step: int, recipe: VAERecipe, sprites: Sprites) -> torch.Tensor:
    """Returns the training images of one step: float32 [B, 3, S, S] in [-1, 1], cut-outs or whole scenes."""
    if step % recipe.scene_every == recipe.scene_every - 1:
        return scene_batch(derive(seed, "vae"), step, recipe.batch_size // 4, sprites, group_size=1).images_pm1
    return single_batch(derive(seed, "vae"), step, recipe.batch_size, sprites).images_pm1


@torch.no_grad()
def measure(vae: TinyVAE, sprites: Sprites, count: int = 512) -> dict[str, float]:
    """Returns mean PSNR in dB over `count` held-out cut-outs and scenes, and the standard deviation of the latents."""
    singles = to_pm1(np.stack([draw_single(make_single(1, "test", index), sprites) for index in range(count)]))
    scenes = to_pm1(draw_scenes([make_scene(1, "test", index) for index in range(count // 4)], sprites))
    result = {"latent_std": float(vae.moments(scenes)[0].std())}
    for name, images in (("psnr_32px_db", singles), ("psnr_64px_db", scenes)):
        decoded = vae.decoder(vae.moments(images)[0]).float().clamp(-1, 1)
        error = ((decoded - images) / 2).square().flatten(1).mean(dim=1)
        result[name] = float((-10 * error.log10()).mean())
    return result


def _set_memory_format(module: torch.nn.Module, memory_format: torch.memory_format) -> None:
    for parameter in module.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=memory_format)


def train_vae(
    folder: Path,
    *,
    train_sprites: Sprites,
    test_sprites: Sprites,
    recipe: VAERecipe,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Trains the VAE and writes `vae.safetensors` (bfloat16, configuration in its header) into `folder`.

    Returns:
        The figures of `measure`, on test photographs, computed with the stored bfloat16 weights.
    """
    torch.manual_seed(derive(seed, "vae/init"))
    config = TinyVAEConfig()
    vae = TinyVAE(config)
    _set_memory_format(vae, torch.channels_last)  # faster convolutions on CPU

    def losses(step: int) -> dict[str, torch.Tensor]:
        images = images_for_step(seed, step, recipe, train_sprites).contiguous(memory_format=torch.channels_last)
        shape = (len(images), config.latent_channels, images.shape[2] // 4, images.shape[3] // 4)
        noise = torch.randn(shape, generator=torch_generator(seed, "vae/noise", step))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            terms = vae.elbo_terms(images, noise)
        return {**terms, "loss": terms["l1"] + terms["l2"] + recipe.kl_weight * terms["kl"]}

    train_loop(
        modules={"vae": vae},
        losses=losses,
        config=LoopConfig(
            steps=recipe.steps,
            lr=recipe.lr,
            warmup_steps=recipe.warmup_steps,
            checkpoint_every=recipe.checkpoint_every,
            log_every=20,
        ),
        folder=folder,
        name="vae",
        recipe={"recipe": recipe, "seed": seed, "sprites": train_sprites.digest},
        progress=progress,
    )
    _set_memory_format(vae, torch.contiguous_format)
    stored = {key: value.to(torch.bfloat16) for key, value in vae.state_dict().items()}
    vae.load_state_dict({key: value.float() for key, value in stored.items()})
    figures = measure(vae, test_sprites)
    config = replace(config, scaling_factor=round(1.0 / figures["latent_std"], 6))
    save_tensors(folder / "vae.safetensors", stored, {"config": json.dumps(asdict(config))})
    return figures
