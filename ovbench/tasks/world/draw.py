"""Scene graph → pixels, from real garment photographs (Fashion-MNIST, Expat licence)."""

from __future__ import annotations

import gzip
import lzma
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import asset
from ovbench.tasks.world.scene import (
    CELL_PX,
    FASHION_MNIST_CLASS,
    GARMENTS,
    SCENE_PX,
    TINTS,
    Item,
    Scene,
)

SPRITE_PX = 28
_EMBEDDED = {"train": "world/sprites-train.npy.xz", "test": "world/sprites-test.npy.xz"}
_ALPHA_GAIN = 3.0  # opacity = min(1, 3 x grey / 255): the dark background of a photograph is transparent


@dataclass(frozen=True, kw_only=True, slots=True)
class Sprites:
    """Garment photographs: `images` uint8 [8, num_sprites, 28, 28] in the order of GARMENTS, and their origin."""

    images: np.ndarray
    digest: str  # sha256 of the source file: part of every data key


@lru_cache(maxsize=4)
def embedded_sprites(split: str) -> Sprites:
    """Returns the photographs shipped with ovbench.

    Args:
        split: `train` (1,000 per garment, from Fashion-MNIST's training file) or `test` (200, from its test file).

    Raises:
        DataError: The file is missing or damaged.
    """
    path = asset(_EMBEDDED[split])
    with lzma.open(path) as stream:
        images = np.load(stream, allow_pickle=False)
    return Sprites(images=images, digest=file_sha256(path))


def read_fashion_mnist(folder: Path, split: str) -> Sprites:
    """Reads the original Fashion-MNIST files (`train-images-idx3-ubyte.gz` …).

    Args:
        folder: The folder that holds the four files, e.g. where Debian's `dataset-fashion-mnist` puts them.
        split: `train` (6,000 photographs per garment) or `test` (1,000).

    Raises:
        DataError: A file is missing or not what its name says.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    files = folder / f"{prefix}-images-idx3-ubyte.gz", folder / f"{prefix}-labels-idx1-ubyte.gz"
    try:
        raw_images, raw_labels = (gzip.decompress(path.read_bytes()) for path in files)
    except (OSError, EOFError) as error:
        raise DataError(
            f"cannot read Fashion-MNIST: {error}",
            where=str(folder),
            fix="install the Debian package dataset-fashion-mnist, or name the folder that holds its four .gz files",
        ) from error
    labels = np.frombuffer(raw_labels, np.uint8, offset=8)
    images = np.frombuffer(raw_images, np.uint8, offset=16).reshape(-1, SPRITE_PX, SPRITE_PX)
    per_class = [images[labels == FASHION_MNIST_CLASS[name]] for name in GARMENTS]
    return Sprites(images=np.stack(per_class), digest=file_sha256(files[0]))


def _paste(canvas: np.ndarray, item: Item, sprites: Sprites, left: int, top: int) -> None:
    photographs = sprites.images[GARMENTS.index(item.garment)]
    grey = photographs[item.sprite % len(photographs)].astype(np.float32)
    if item.flip:
        grey = grey[:, ::-1]
    shade = grey[..., None] / 255.0
    alpha = np.minimum(1.0, _ALPHA_GAIN * shade)
    colour = shade * np.asarray(TINTS[item.colour], np.float32)
    area = canvas[top : top + SPRITE_PX, left : left + SPRITE_PX]
    area *= 1.0 - alpha
    area += alpha * colour


def _background(scene: Scene, height: int, width: int, offset: int) -> np.ndarray:
    rows = (np.arange(height, dtype=np.float32) + offset) / (SCENE_PX - 1) * scene.gradient
    canvas = np.asarray(scene.background, np.float32) + rows[:, None, None]
    return np.ascontiguousarray(np.broadcast_to(canvas, (height, width, 3)))


def _to_u8(canvas: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)


def draw_scene(scene: Scene, sprites: Sprites) -> np.ndarray:
    """Returns the picture of a scene: uint8 [64, 64, 3], RGB."""
    canvas = _background(scene, SCENE_PX, SCENE_PX, 0)
    for item in scene.items:
        row, column = divmod(item.cell, 2)
        _paste(canvas, item, sprites, column * CELL_PX + item.dx, row * CELL_PX + item.dy)
    return _to_u8(canvas)


def draw_single(scene: Scene, sprites: Sprites) -> np.ndarray:
    """Returns the only occupied cell of a one-garment scene: uint8 [32, 32, 3], RGB."""
    (item,) = scene.items
    canvas = _background(scene, CELL_PX, CELL_PX, item.cell // 2 * CELL_PX)
    _paste(canvas, item, sprites, item.dx, item.dy)
    return _to_u8(canvas)


def draw_scenes(scenes: Sequence[Scene], sprites: Sprites) -> np.ndarray:
    """Returns the pictures of scenes: uint8 [B, 64, 64, 3]."""
    return np.stack([draw_scene(scene, sprites) for scene in scenes])
