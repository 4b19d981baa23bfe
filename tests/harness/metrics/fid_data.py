"""The seeded pictures of `tests/golden/inception_random.json`, for all tests of the FID family."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

GOLDEN = Path(__file__).parents[2] / "golden"
SETS = ("256", "64", "299", "512", "200x320")


@cache
def golden() -> dict[str, Any]:
    """Returns the golden file of the FID network."""
    return json.loads((GOLDEN / "inception_random.json").read_text(encoding="utf-8"))


def pictures(height: int, width: int, seed: int) -> np.ndarray:
    """Returns the recipe's four pictures, uint8 [4, H, W, 3]: noise, blocks, a ramp, rings."""
    draw = np.random.RandomState(seed)
    noise = draw.randint(0, 256, (height, width, 3))
    cells = draw.randint(0, 256, (-(-height // 16), -(-width // 16), 3))
    blocks = cells.repeat(16, axis=0).repeat(16, axis=1)[:height, :width]
    y, x = np.mgrid[:height, :width]
    last = height + width - 2
    ramp = np.stack([255 * x // (width - 1), 255 * y // (height - 1), 255 * (x + y) // last], axis=-1)
    q = 200 * ((((y - height // 2) ** 2 + (x - width // 2) ** 2) // 97) % 2) + 30
    rings = np.stack([q, 255 - q, (3 * x + 5 * y) % 256], axis=-1)
    return np.stack([noise, blocks, ramp, rings]).astype(np.uint8)


@cache
def golden_pictures(name: str) -> np.ndarray:
    """Returns the pictures of one set of the golden file."""
    entry = golden()["sets"][name]
    return pictures(entry["height"], entry["width"], entry["seed"])


def nchw(images_u8: np.ndarray) -> Tensor:
    """Returns uint8 [B, 3, H, W]."""
    return torch.from_numpy(np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2)))


def relative(found: Tensor, wanted: Tensor) -> float:
    """Returns the relative L2 difference."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm())
