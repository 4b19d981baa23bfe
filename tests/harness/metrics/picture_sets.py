"""Small sets of pictures on disk, and an extractor that needs no weights, for tests of all that uses features."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo

SIDE = 16
POOL, SPATIAL, LOGITS = 12, 10, 6


def pictures(count: int, seed: int, *, noise: float = 10.0, side: int = SIDE) -> np.ndarray:
    """Waves with noise, uint8 [count, side, side, 3]; picture i depends on (seed, i) alone."""
    y, x = np.mgrid[:side, :side]
    images = np.empty((count, side, side, 3), dtype=np.uint8)
    for index in range(count):
        draw = np.random.default_rng([seed, index])
        phase, pitch = draw.uniform(0, 6, 3), draw.uniform(2, 6, 3)
        wave = 128 + 90 * np.sin(x[..., None] / pitch + phase) * np.cos(y[..., None] / pitch)
        images[index] = (wave + draw.normal(0, noise, wave.shape)).clip(0, 255)
    return images


def write_folder(folder: Path, images: np.ndarray) -> Path:
    """Writes pictures as 00000.png …"""
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{index:05d}.png")
    return folder


def toy_extractor(*, calls: list[int] | None = None, scale: float = 1.0, name: str = "toy") -> Extractor:
    """A seeded projection of the pixels with three layers, as Inception has them; `calls` gets batch sizes."""
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(3 * SIDE * SIDE, POOL + SPATIAL + LOGITS, generator=generator) / 20

    def run(images_u8: Tensor) -> Mapping[str, Tensor]:
        if calls is not None:
            calls.append(len(images_u8))
        # One row at a time, so that a value does not depend on the batch by a bit.
        rows = torch.cat([scale * image.flatten()[None].float() / 255 @ weights for image in images_u8])
        pool, spatial, logits = rows.split([POOL, SPATIAL, LOGITS], dim=1)
        return {"pool": pool, "spatial": spatial, "logits": logits}

    info = ExtractorInfo(
        name=name,
        network="toy",
        trained=True,
        weights_sha256=f"{scale:064.30f}"[:64],
        resize="none",
        quantisation="none",
        normalisation="x / 255",
        size_px=SIDE,
        layers={"pool": POOL, "spatial": SPATIAL, "logits": LOGITS},
        pool="pool",
        spatial="spatial",
        logits="logits",
        title="FD-Toy",
    )
    return Extractor(info=info, device=torch.device("cpu"), run=run)


def toy_rows(images: np.ndarray, *, scale: float = 1.0) -> dict[str, np.ndarray]:
    """What the toy extractor gives, layer → [N, D]."""
    return {name: value.numpy() for name, value in toy_extractor(scale=scale).extract(images).items()}
