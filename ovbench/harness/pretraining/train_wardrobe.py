"""Trains the garment classifier behind `FD-wardrobe` on pictures of one tinted garment."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.seeding import derive, torch_generator
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.metrics.wardrobe import Wardrobe, WardrobeConfig, to_input
from ovbench.harness.pretraining.config import WardrobeRecipe
from ovbench.harness.training import LoopConfig, Progress, no_progress, train_loop
from ovbench.tasks.world.draw import Sprites, draw_single
from ovbench.tasks.world.scene import COLOURS, GARMENTS, Scene, make_single

_TEST_SEED = 1  # fixed: figures of different runs are comparable
_BATCH = 100  # pictures at once where nothing is trained
_TRACE = 268.0  # of the features' covariance: that of the prototype, with which the mini protocol's bands were set


def labelled(scenes: Sequence[Scene], sprites: Sprites) -> tuple[Tensor, Tensor, Tensor]:
    """Returns uint8 pictures [B, 3, 32, 32] of one-garment scenes, garments [B] and tints [B] as class numbers."""
    images = np.stack([draw_single(scene, sprites) for scene in scenes]).transpose(0, 3, 1, 2)
    items = [scene.items[0] for scene in scenes]
    return (
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.tensor([GARMENTS.index(item.garment) for item in items]),
        torch.tensor([COLOURS.index(item.colour) for item in items]),
    )


@torch.no_grad()
def measure(network: Wardrobe, sprites: Sprites, count: int) -> dict[str, float]:
    """Returns the share of `count` pictures of test photographs whose garment and whose tint are named right.

    Also the lowest share of any garment that was drawn, `garment_accuracy_worst`. The network is put into eval mode.
    """
    network.eval()
    right: list[Tensor] = []
    named: list[Tensor] = []
    for start in range(0, count, _BATCH):
        scenes = [make_single(_TEST_SEED, "test", index) for index in range(start, min(start + _BATCH, count))]
        images, garments, tints = labelled(scenes, sprites)
        reading = network(to_input(images))
        hits = reading.garment_logits.argmax(dim=1) == garments, reading.tint_logits.argmax(dim=1) == tints
        right.append(torch.stack(hits, dim=1))
        named.append(garments)
    correct, garments = torch.cat(right).double(), torch.cat(named)
    each = [float(correct[garments == number, 0].mean()) for number in garments.unique()]
    return {
        "garment_accuracy": float(correct[:, 0].mean()),
        "garment_accuracy_worst": min(each),
        "tint_accuracy": float(correct[:, 1].mean()),
    }


@torch.no_grad()
def rescale(network: Wardrobe, sprites: Sprites, count: int) -> None:
    """Multiplies the features so that their covariance over `count` pictures has the trace 268; no logit changes.

    The scale of a trained network's features is an accident, and a Fréchet distance grows with its square. The network
    is put into eval mode.
    """
    network.eval()
    features: list[Tensor] = []
    for start in range(0, count, _BATCH):
        scenes = [make_single(_TEST_SEED, "train", index) for index in range(start, min(start + _BATCH, count))]
        features.append(network(to_input(labelled(scenes, sprites)[0])).features)
    factor = (_TRACE / float(torch.cat(features).double().var(dim=0).sum())) ** 0.5
    norm = network.trunk[-2]
    assert isinstance(norm, torch.nn.BatchNorm2d)
    for scaled in (norm.weight, norm.bias):
        scaled.mul_(factor)
    for head in (network.garment, network.tint):
        head.weight.div_(factor)


def train_wardrobe(
    folder: Path,
    *,
    train_sprites: Sprites,
    test_sprites: Sprites,
    recipe: WardrobeRecipe,
    seed: int = 0,
    progress: Progress = no_progress,
) -> dict[str, float]:
    """Trains the classifier and writes `wardrobe.safetensors` (float32, configuration in its header) into `folder`.

    The loss is the sum of both heads' cross-entropies. Every step draws new pictures: photograph, mirror, tint, place,
    background, and noise: without it, noise that nobody sees would outweigh a garment that is missing.

    Returns:
        The figures of `measure` on test photographs, and `loss_first` and `loss_last` of the log.
    """
    torch.manual_seed(derive(seed, "wardrobe/init"))
    config = WardrobeConfig()
    network = Wardrobe(config).train()

    def losses(step: int) -> dict[str, Tensor]:
        first = step * recipe.batch_size
        scenes = [
            make_single(derive(seed, "wardrobe"), "train", index) for index in range(first, first + recipe.batch_size)
        ]
        images, garments, tints = labelled(scenes, train_sprites)
        generator = torch_generator(seed, "wardrobe/noise", step)
        levels = recipe.noise * torch.rand(len(images), 1, 1, 1, generator=generator)
        grainy = images + levels * torch.randn(images.shape, generator=generator)
        x = to_input(grainy.clamp_(0, 255)).contiguous(memory_format=torch.channels_last)  # faster on CPU
        with torch.autocast("cpu", dtype=torch.bfloat16):
            reading = network(x)
        garment = F.cross_entropy(reading.garment_logits, garments)
        tint = F.cross_entropy(reading.tint_logits, tints)
        return {"garment": garment, "tint": tint, "loss": garment + tint}

    rows = train_loop(
        modules={"wardrobe": network},
        losses=losses,
        config=LoopConfig(
            steps=recipe.steps,
            lr=recipe.lr,
            warmup_steps=recipe.warmup_steps,
            weight_decay=recipe.weight_decay,
            checkpoint_every=recipe.checkpoint_every,
            log_every=20,
        ),
        folder=folder,
        name="wardrobe",
        recipe={"recipe": recipe, "seed": seed, "sprites": train_sprites.digest},
        progress=progress,
    )
    rescale(network, train_sprites, recipe.num_measured)
    figures = measure(network, test_sprites, recipe.num_measured)
    metadata = {"recipe": "wardrobe", "config": json.dumps(asdict(config))}
    save_tensors(folder / "wardrobe.safetensors", network.state_dict(), metadata)
    return figures | {"loss_first": rows[0]["loss"], "loss_last": rows[-1]["loss"]}
