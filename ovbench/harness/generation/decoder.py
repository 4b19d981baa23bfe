"""RAE's decoder: a ViT-MAE decoder that turns latent tokens into pixels, under the official key names.

Source: github.com/bytetriper/RAE, src/stage1/decoders/decoder.py (after arXiv 2111.06377); arXiv 2510.11690, section
4.1. It works in the encoder's normalised pixel space: `rae.RAE` brings its output back to [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder_config import DecoderConfig, square_side


def sincos_positions(width: int, grid: int, *, divisor: float = 1.0) -> Tensor:
    """Returns the position table, float32 [1, 1 + grid * grid, width]; the row of the class token is 0.

    The first half of the channels encodes the column, the last half the row. Each half is [sin, cos] of the position
    times 10000^(-4k / width), k = 0 … width/4 - 1 (arXiv 2111.06377; RAE's get_2d_sincos_pos_embed).

    Args:
        width: Channels, a multiple of 4.
        grid: Tokens along a side.
        divisor: Of the positions 0 … grid - 1; RAE's is 1, diffusers' grid / 16.
    """
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width / 4))
    # Positions in float32, as the published tables have them.
    angles = (torch.arange(grid, dtype=torch.float32) / divisor).double()[:, None] * frequencies  # [grid, width / 4]
    axis = torch.cat([angles.sin(), angles.cos()], dim=1)  # [grid, width / 2]
    columns = axis.expand(grid, grid, -1)
    rows = axis[:, None].expand(grid, grid, -1)
    table = torch.cat([columns, rows], dim=2).reshape(grid * grid, width)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()[None]


def unpatchify(logits: Tensor, patch_px: int, num_channels: int = 3) -> Tensor:
    """Returns pictures of patches, [B, h * w, patch_px * patch_px * channels] → [B, channels, h * px, w * px].

    Inside a patch the order is row, column, channel; patches are in raster order and h = w.

    Raises:
        ConfigError: The patches make no square, or hold another number of values.
    """
    if logits.ndim != 3 or logits.shape[2] != patch_px * patch_px * num_channels:
        raise ConfigError(
            f"patches must be [B, N, {patch_px * patch_px * num_channels}], got {list(logits.shape)}",
            where="unpatchify",
        )
    side = square_side(logits.shape[1], where="unpatchify")
    cells = logits.reshape(len(logits), side, side, patch_px, patch_px, num_channels)
    return cells.permute(0, 5, 1, 3, 2, 4).reshape(len(logits), num_channels, side * patch_px, side * patch_px)


class _Projections(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )  # [B, heads, N, head width]
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x)


class _Attention(nn.Module):
    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.attention = _Projections(config)
        self.output = _Dense(config.width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.attention(x))


class _Block(nn.Module):
    """Pre-norm: x += Wo(attention(LN(x))); x += W2(gelu(W1(LN(x)))), with the exact GELU."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.layernorm_before = nn.LayerNorm(config.width, eps=config.eps)
        self.attention = _Attention(config)
        self.layernorm_after = nn.LayerNorm(config.width, eps=config.eps)
        self.intermediate = _Dense(config.width, config.mlp_width)
        self.output = _Dense(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.layernorm_before(x))
        return x + self.output(F.gelu(self.intermediate(self.layernorm_after(x))))


class ViTDecoder(nn.Module):
    """Latent tokens → pixels in the encoder's normalised space.

    Linear layers begin with torch's defaults and the class token with 0, as in the reference.

    Args:
        config: Architecture.
        train_positions: Let the position table take gradients. The reference declares it fixed and trains it by
            accident, so that a released table is read from its file, never computed.
        checkpointing: Recompute each block in the backward pass instead of keeping its activations.
    """

    def __init__(self, config: DecoderConfig, *, train_positions: bool = False, checkpointing: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = checkpointing
        self.decoder_embed = nn.Linear(config.latent_dim, config.width)
        self.decoder_pos_embed = nn.Parameter(
            sincos_positions(config.width, config.grid).to(self.decoder_embed.weight.device),
            requires_grad=train_positions,
        )
        self.trainable_cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.decoder_layers = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.decoder_norm = nn.LayerNorm(config.width, eps=config.eps)
        self.decoder_pred = nn.Linear(config.width, config.patch_px**2 * config.num_channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns patches of pixels, [B, N, C] → [B, config.num_patches, patch_px * patch_px * channels].

        Tokens of another grid than the trained one are embedded first and then resized to it (bilinear, corners not
        aligned), so the picture's size does not depend on them.

        Raises:
            ConfigError: The tokens have another width, or make no square.
        """
        if tokens.ndim != 3 or tokens.shape[2] != self.config.latent_dim:
            raise ConfigError(
                f"tokens must be [B, N, {self.config.latent_dim}], got {list(tokens.shape)}", where="decoder"
            )
        x = self.decoder_embed(tokens)
        if x.shape[1] != self.config.num_patches:
            side = square_side(x.shape[1], where="decoder")
            grid = (self.config.grid, self.config.grid)
            x = x.transpose(1, 2).unflatten(2, (side, side))
            x = F.interpolate(x, size=grid, mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)
        x = torch.cat([self.trainable_cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x = x + self.decoder_pos_embed.to(x.dtype)
        for block in self.decoder_layers:
            if self.checkpointing and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]
