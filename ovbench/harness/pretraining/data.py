"""Endless, seeded training batches from the garment world: images, captions, and which pairs are true.

Contract: batch *s* depends on (seed, phase, *s*) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovbench._base.seeding import derive
from ovbench.tasks.world.captions import item_caption, scene_caption, words
from ovbench.tasks.world.draw import Sprites, draw_scenes, draw_single
from ovbench.tasks.world.scene import (
    CELLS,
    COLOURS,
    GARMENTS,
    Item,
    Scene,
    hard_negatives,
    make_scene,
    make_single,
)

PAD, BOS, EOS = 0, 1, 2
_WORD_ID = {word: number for number, word in enumerate(words(), start=3)}
VOCABULARY_SIZE = len(_WORD_ID) + 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """One training batch."""

    images_pm1: Tensor  # float32 [B, 3, H, W]
    cells: Tensor | None  # int64 [B]: the quadrant each image stands for; None where images are whole scenes
    captions: tuple[Tensor, ...]  # one or two caption sets, int64 [B, T], 0-padded; the last is the full caption
    allowed: tuple[Tensor, ...]  # per caption set bool [B, B]: (image, caption) pairs that may serve in the contrast


def encode_caption(text: str) -> list[int]:
    """Returns word ids with begin and end marks."""
    return [BOS, *(_WORD_ID[word] for word in text.split()), EOS]


def pad_captions(rows: Sequence[list[int]]) -> Tensor:
    """Returns int64 [B, T], padded with 0 on the right."""
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [PAD] * (longest - len(row)) for row in rows])


def to_pm1(images_u8: np.ndarray) -> Tensor:
    """Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2))).float() / 127.5 - 1.0


def _code(item: Item) -> int:
    return (item.cell * len(COLOURS) + COLOURS.index(item.colour)) * len(GARMENTS) + GARMENTS.index(item.garment)


def _contrast_mask(scenes: Sequence[Scene], told: Sequence[Sequence[Item]]) -> Tensor:
    """Returns bool [B, B]: False where caption j is true of another image i, which would be a false negative."""
    size = len(CELLS) * len(COLOURS) * len(GARMENTS)
    holds = torch.zeros(len(scenes), size)
    says = torch.zeros(len(scenes), size)
    for row, (scene, items) in enumerate(zip(scenes, told, strict=True)):
        holds[row, [_code(item) for item in scene.items]] = 1.0
        says[row, [_code(item) for item in items]] = 1.0
    true = holds @ says.T >= says.sum(dim=1)[None, :]
    return ~true | torch.eye(len(scenes), dtype=torch.bool)


def single_batch(seed: int, step: int, batch_size: int, sprites: Sprites) -> Batch:
    """Returns one garment per image, 32 x 32, with the caption `<colour> <garment> <cell>`."""
    scenes = [make_single(seed, "train", step * batch_size + number) for number in range(batch_size)]
    images = np.stack([draw_single(scene, sprites) for scene in scenes])
    return Batch(
        images_pm1=to_pm1(images),
        cells=torch.tensor([scene.items[0].cell for scene in scenes]),
        captions=(pad_captions([encode_caption(item_caption(scene.items[0])) for scene in scenes]),),
        allowed=(_contrast_mask(scenes, [scene.items for scene in scenes]),),
    )


def scene_batch(seed: int, step: int, batch_size: int, sprites: Sprites, *, group_size: int = 4) -> Batch:
    """Returns whole scenes, 64 x 64, in groups that differ in their garments alone.

    Each image has two captions, as in OpenVision's training: a short one that names one of its garments, and the full
    one.
    """
    scenes: list[Scene] = []
    for group in range(batch_size // group_size):
        scene = make_scene(seed, "train", step * (batch_size // group_size) + group)
        scenes += [scene, *hard_negatives(scene, derive(seed, "hard-negatives", step), group_size - 1)]
    rng = np.random.default_rng(derive(seed, "short-caption", step))
    told = [scene.items[int(rng.integers(len(scene.items)))] for scene in scenes]
    return Batch(
        images_pm1=to_pm1(draw_scenes(scenes, sprites)),
        cells=None,
        captions=(
            pad_captions([encode_caption(item_caption(item)) for item in told]),
            pad_captions([encode_caption(scene_caption(scene)) for scene in scenes]),
        ),
        allowed=(
            _contrast_mask(scenes, [(item,) for item in told]),
            _contrast_mask(scenes, [scene.items for scene in scenes]),
        ),
    )
