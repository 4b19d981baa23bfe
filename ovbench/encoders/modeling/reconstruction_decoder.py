"""OpenVision 3's pixel branch: visual tokens → VAE latents, trained together with the tokens that it reads.

The VAE's own decoder makes the pictures of them (arXiv 2601.15369v2, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovbench._base.errors import DataError
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.modeling.vit import Block, OpenVisionViT, ViTConfig, load_strict, sincos_positions
from ovbench.encoders.modeling.weights_file import StoredWeights, build_config, read_weights

_EPS = 1e-6
_WHERE = "--encoder …?decoder="
_FIX = "name the file ovis3-mini-decoder.safetensors of: ovbench pretrain --recipe ovis3"


class ReconstructionDecoder(nn.Module):
    """ViT with patch 1 and a linear layer: visual tokens → VAE latents (arXiv 2601.15369v2, section 3.2).

    Args:
        trunk: Architecture of the ViT whose un-normed tokens it reads.
        layers: Blocks.
    """

    def __init__(self, trunk: ViTConfig, layers: int) -> None:
        super().__init__()
        width = trunk.width
        self.trunk, self.layers = trunk, layers
        self.patch_size, self.channels = trunk.patch_size, trunk.in_channels
        self.positions = nn.Parameter(sincos_positions(width, trunk.grid), requires_grad=False)
        self.input = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Block(width, trunk.heads, 4 * width, _EPS) for _ in range(layers))
        self.ln_post = nn.LayerNorm(width, eps=_EPS)
        self.output = nn.Linear(width, trunk.in_channels * trunk.patch_size**2)

    def forward(self, tokens: Tensor, positions: Tensor | None = None) -> Tensor:
        """Turns tokens [B, N, C] of a square grid into latents [B, Z, S, S]."""
        rows = self.positions if positions is None else self.positions[positions]
        x = self.input(tokens) + rows
        for block in self.blocks:
            x = block(x)
        x = self.output(self.ln_post(x))
        side, patch = math.isqrt(tokens.shape[1]), self.patch_size
        x = x.view(len(x), side, side, self.channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
        return x.reshape(len(x), self.channels, side * patch, side * patch)

    def describe(self) -> dict[str, Any]:
        """Returns the architecture as plain values, as it stands in a file's header."""
        return {"layers": self.layers, "trunk": asdict(self.trunk)}

    def corner(self, image_size: int) -> ReconstructionDecoder:
        """Returns the decoder for a smaller input side in cells: the positions of the upper left corner, unchanged."""
        other = ReconstructionDecoder(replace(self.trunk, image_size=image_size), self.layers)
        rows = corner_rows(self.trunk.grid, other.trunk.grid).to(self.positions.device)
        other.load_state_dict({**self.state_dict(), "positions": self.positions.detach()[rows]})
        return other


def corner_rows(grid: int, side: int) -> Tensor:
    """Returns the places of the upper left `side` x `side` tokens in a raster of `grid` x `grid`: int64 [side²]."""
    return torch.arange(grid * grid).reshape(grid, grid)[:side, :side].flatten()


def load_reconstruction_decoder(
    path: Path, *, trunk: OpenVisionViT, vae: FrontEnd, recipe: str, random_seed: int | None = None
) -> ReconstructionDecoder:
    """Returns the decoder of a file of `ovbench pretrain`, in float32.

    Args:
        path: The file.
        trunk: The whole trunk that makes the tokens, before it is cut to a smaller input.
        vae: The VAE that decodes the latents.
        recipe: Name of the recipe that trunks of this family are trained with.
        random_seed: Build the file's architecture with seeded, untrained weights, as those of the trunk are then.

    Raises:
        DataError: The file is missing or damaged, holds something else, or was trained with another trunk or VAE.
    """
    if not path.is_file():
        raise DataError(f"no such file '{path.name}'", where=f"{_WHERE}{path}", fix=_FIX)
    stored = read_weights(path)
    layers, config = _read_config(stored, path)
    if stored.recipe != recipe:
        raise DataError(
            f"this decoder was trained with the recipe '{stored.recipe}', not as '{recipe}'", where=str(path), fix=_FIX
        )
    if stored.vae != weights_digest(vae):
        raise DataError(
            f"the decoder '{path.name}' was trained with another VAE than the one that would decode its latents",
            where=str(path),
            fix="train it with the embedded VAE: leave --vae out of ovbench pretrain",
        )
    if config != trunk.config or (random_seed is None and stored.trunk != weights_digest(trunk)):
        raise DataError(
            f"the decoder '{path.name}' was trained with another trunk: it cannot read these tokens",
            where=str(path),
            fix=f"name both files of one training: --encoder {recipe}/mini:{recipe}-mini.safetensors"
            f"?decoder={recipe}-mini-decoder.safetensors",
        )
    if random_seed is not None:
        return seeded(lambda: ReconstructionDecoder(config, layers), random_seed)
    decoder = ReconstructionDecoder(config, layers)
    load_strict(decoder, stored.tensors, where=str(path))
    return decoder


def _read_config(stored: StoredWeights, path: Path) -> tuple[int, ViTConfig]:
    layers, fields = stored.config.get("layers"), stored.config.get("trunk")
    if stored.trunk is None or not isinstance(fields, Mapping):
        raise DataError(f"'{path.name}' is no reconstruction decoder", where=str(path), fix=_FIX)
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 0:
        raise DataError(f"the header of '{path.name}' gives {layers!r} layers", where=str(path), fix=_FIX)
    return layers, build_config(ViTConfig, fields, where=str(path))
