"""What goes into a diffusion transformer: tokens of a latent, their positions, the time and the label.

Source: github.com/bytetriper/RAE, src/stage2/models/model_utils.py; module names are those of the official checkpoints.
"""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import TIME_FREQUENCIES
from ovbench.harness.generation.decoder import sincos_positions


def position_table(width: int, grid: int) -> Tensor:
    """Returns the decoder's sin-cos positions without their class token, [1, grid * grid, width].

    Trap: the first half of the channels encodes the column; the rotary table has rows first.
    """
    return sincos_positions(width, grid)[:, 1:].clone()


class RotaryPositions(nn.Module):
    """Rotary positions in two dimensions (arXiv 2104.09864): first half of a head's channels row, second half column.

    Channels come in neighbouring pairs (2k, 2k + 1), turned by position * 10000^(-2k / (head_width / 2)).
    """

    freqs_cos: Tensor  # [N, head_width]
    freqs_sin: Tensor  # [N, head_width]

    def __init__(self, head_width: int, grid: int) -> None:
        super().__init__()
        half = head_width // 2
        omega = 10000.0 ** -(torch.arange(0, half, 2, dtype=torch.float64) / half)  # [head_width / 4]
        angle = (torch.arange(grid, dtype=torch.float64)[:, None] * omega).repeat_interleave(2, dim=1)  # [grid, half]
        shape = (grid, grid, half)
        table = torch.cat([angle[:, None].expand(shape), angle[None].expand(shape)], dim=2).reshape(grid**2, head_width)
        # Persistent: the official checkpoints hold both tables.
        self.register_buffer("freqs_cos", table.cos().float())
        self.register_buffer("freqs_sin", table.sin().float())

    def forward(self, x: Tensor) -> Tensor:
        """Turns queries or keys [B, heads, N, head_width]; the dtype stays."""
        even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
        turned = torch.stack([-odd, even], dim=-1).flatten(-2)
        return (x * self.freqs_cos + turned * self.freqs_sin).to(x.dtype)


class PatchEmbedding(nn.Module):
    """Latent [B, C, H, W] → tokens [B, N, width] in raster order."""

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, patch_size, patch_size)

    def forward(self, latents: Tensor) -> Tensor:
        """Returns the tokens of latents; under autocast too they come out in float32, as the residual stream stays."""
        return self.proj(latents).flatten(2).transpose(1, 2).float()


class TimeEmbedding(nn.Module):
    """Gaussian Fourier features of t in [0, 1], then an MLP; always in float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        # Frozen here; the reference's scripts train it by accident, so it is always read from a checkpoint.
        self.W = nn.Parameter(torch.randn(TIME_FREQUENCIES), requires_grad=False)
        self.mlp = nn.Sequential(nn.Linear(2 * TIME_FREQUENCIES, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, t: Tensor) -> Tensor:
        """Returns embeddings [B, width] of times [B]."""
        # Trap: autocast knows no device `meta`, on which operations are counted.
        with nullcontext() if t.is_meta else torch.autocast(t.device.type, enabled=False):
            angles = t.float()[:, None] * self.W[None] * (2.0 * math.pi)
            return self.mlp(torch.cat([angles.sin(), angles.cos()], dim=1))


class LabelEmbedding(nn.Module):
    """A vector per class, and where labels are dropped in training one for "no class", number `num_classes`."""

    def __init__(self, num_classes: int, width: int, *, has_null: bool) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.has_null = has_null
        self.embedding_table = nn.Embedding(num_classes + has_null, width)

    @property
    def null_label(self) -> int:
        """The label of "no class".

        Raises:
            ConfigError: The table has no row for it.
        """
        if not self.has_null:
            raise ConfigError(
                "the network has no label for 'no class', since it was built with class_dropout_prob 0",
                where="guidance",
                fix="leave out classifier-free guidance and label dropout, or train with class_dropout_prob 0.1",
            )
        return self.num_classes

    def forward(self, labels: Tensor, drop: Tensor | None = None) -> Tensor:
        """Returns embeddings [B, width] of labels, int64 [B]; where `drop`, bool [B], is true the null label's."""
        if drop is not None:
            labels = torch.where(drop, self.null_label, labels)
        return F.embedding(labels, self.embedding_table.weight)
