"""Frozen features of a set of images, computed once and read back by image id."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from torch import Tensor

from ovbench._base.errors import DataError
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.training import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np

FILE = "features.safetensors"


def encode_images(
    encoder: Encoder,
    image_ids: Sequence[str],
    image_u8: Callable[[str], np.ndarray],
    out: Path,
    *,
    tap: Tap | None = None,
    batch_size: int = 64,
    dtype: torch.dtype = torch.bfloat16,
    progress: Progress = no_progress,
) -> None:
    """Writes the visual tokens of images, in the order of `image_ids`, into `out`.

    Args:
        encoder: The frozen encoder.
        image_ids: Distinct names.
        image_u8: Name → uint8 [H, W, 3].
        out: Folder for `features.safetensors`.
        tap: Layer and norm; None: the encoder's own choice for language models.
        batch_size: Images per forward pass; changes nothing but speed.
        dtype: Storage type.
        progress: Told after each batch.
    """
    from PIL import Image

    chunks: list[Tensor] = []
    for start in range(0, len(image_ids), batch_size):
        names = image_ids[start : start + batch_size]
        images = torch.stack([encoder.prepare(Image.fromarray(image_u8(name))) for name in names])
        chunks.append(encoder.llm_tokens(images, tap).to("cpu", dtype))
        progress(start + len(names), len(image_ids))
    tokens = torch.cat(chunks)
    if not bool(tokens.isfinite().all()):
        raise DataError(
            f"the encoder '{encoder.info.name}' returned NaN or infinite features",
            where="features",
            fix="check its weights and its input range with: ovbench encoders show NAME",
        )
    save_tensors(out / FILE, {"tokens": tokens}, {"image_ids": json.dumps(list(image_ids))})


class FeatureStore:
    """Visual tokens by image id.

    Args:
        folders: Folders written by `encode_images`; later ones add images.
    """

    def __init__(self, *folders: Path) -> None:
        self._rows: dict[str, tuple[int, int]] = {}
        self._tensors: list[Tensor] = []
        for number, folder in enumerate(folders):
            with safe_open(folder / FILE, framework="pt") as stream:
                names = json.loads((stream.metadata() or {})["image_ids"])
                self._tensors.append(stream.get_tensor("tokens"))
            self._rows.update({name: (number, row) for row, name in enumerate(names)})

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self._tensors[0].shape[-1]

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self._tensors[0].shape[1]

    def __call__(self, image_ids: Sequence[str]) -> Tensor:
        """Returns float32 [B, N, C]."""
        places = [self._rows[name] for name in image_ids]
        return torch.stack([self._tensors[number][row] for number, row in places]).float()
