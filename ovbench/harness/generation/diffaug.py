"""DiffAug: differentiable translation, colour and cutout in front of the discriminator (arXiv 2006.10738).

Source of the constants and of the order: github.com/bytetriper/RAE, src/disc/diffaug.py. Randomness comes from an
explicit generator, or from the number of each picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import torch_generator
from ovbench.harness.generation.decoder_config import AugmentConfig

_UNIFORMS = 7  # shift of rows, shift of columns, brightness, saturation, contrast, cutout row, cutout column
_POLICIES = 3  # translation, colour, cutout


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentDraws:
    """Everything random of one call."""

    uniforms: Tensor  # [7, B, 1, 1] in [0, 1)
    applied: Tensor  # bool [3, B]: translation, colour, cutout

    def __post_init__(self) -> None:
        count = self.uniforms.shape[1] if self.uniforms.ndim == 4 else -1
        if tuple(self.uniforms.shape) != (_UNIFORMS, count, 1, 1) or tuple(self.applied.shape) != (_POLICIES, count):
            raise ConfigError(
                f"draws must be [7, B, 1, 1] and [3, B], got {list(self.uniforms.shape)} and "
                f"{list(self.applied.shape)}",
                where="diff_augment",
            )


def draw(config: AugmentConfig, batch: int, generator: torch.Generator) -> AugmentDraws:
    """Returns draws for a batch from one generator, on the generator's device."""
    device = generator.device
    uniforms = torch.rand(_UNIFORMS, batch, 1, 1, generator=generator, device=device)
    applied = torch.rand(_POLICIES, batch, generator=generator, device=device) < config.prob
    return AugmentDraws(uniforms=uniforms, applied=applied)


def draw_by_index(config: AugmentConfig, indices: Sequence[int], seed: int, label: str) -> AugmentDraws:
    """Returns draws of which those of a picture depend on (seed, label, its index) alone, on the CPU.

    Args:
        config: Probabilities.
        indices: Global sample numbers.
        seed: Of the run.
        label: Of the use: real and fake pictures get draws of their own.
    """
    parts = [draw(config, 1, torch_generator(seed, "diffaug", label, int(index))) for index in indices]
    return AugmentDraws(
        uniforms=torch.cat([part.uniforms for part in parts], dim=1),
        applied=torch.cat([part.applied for part in parts], dim=1),
    )


def diff_augment(images: Tensor, draws: AugmentDraws, config: AugmentConfig) -> Tensor:
    """Returns augmented pictures, float32 [B, C, H, W]; gradients pass.

    With u0 … u6 the draws of a picture and r the relative size of a policy:
    translation: pixel i comes from i + floor(u * (2d + 1)) - d, d = round(r * side), and is 0 from outside;
    brightness + (u2 - 0.5); saturation: distance to the mean over channels times 2 * u3; contrast: distance to the mean
    of the picture times (u4 + 0.5); cutout: a rectangle of zeros of round(r * side), its middle anywhere.

    Args:
        images: [B, C, H, W], usually in [-1, 1].
        draws: One column per picture.
        config: Sizes.

    Raises:
        ConfigError: There is not one draw per picture.
    """
    if images.ndim != 4 or draws.uniforms.shape[1] != len(images):
        raise ConfigError(f"pictures {list(images.shape)} have {draws.uniforms.shape[1]} draws", where="diff_augment")
    x = images.float()
    u = draws.uniforms.to(x)
    moved, coloured, cut = (part.to(x.device).view(-1, 1, 1, 1) for part in draws.applied)
    if config.translation > 0.0:
        x = torch.where(moved, _translated(x, u[0], u[1], config.translation), x)
    x = torch.where(coloured, _coloured(x, u[2:5, ..., None]), x)
    if config.cutout > 0.0:
        x = torch.where(cut & _rectangle(x, u[5], u[6], config.cutout), 0.0, x)
    return x


def _translated(x: Tensor, rows: Tensor, columns: Tensor, ratio: float) -> Tensor:
    """Moves the window of each picture; [B, 1, 1] draws."""
    height, width = x.shape[-2:]
    index: list[Tensor] = []
    inside: list[Tensor] = []
    for uniform, side in ((rows, height), (columns, width)):
        most = round(side * ratio)
        shift = (uniform * (2 * most + 1)).floor().long() - most
        source = torch.arange(side, device=x.device) + shift.view(-1, 1)  # [B, side]
        inside.append((source >= 0) & (source < side))
        index.append(source.clamp(0, side - 1))
    batch = torch.arange(len(x), device=x.device)[:, None, None]
    moved = x.permute(0, 2, 3, 1)[batch, index[0][:, :, None], index[1][:, None, :]].permute(0, 3, 1, 2)
    return moved * (inside[0][:, None, :, None] & inside[1][:, None, None, :])


def _coloured(x: Tensor, u: Tensor) -> Tensor:
    """Changes brightness, saturation and contrast, in this order; [3, B, 1, 1, 1] draws."""
    x = x + (u[0] - 0.5)
    grey = x.mean(dim=1, keepdim=True)
    x = (x - grey) * (2.0 * u[1]) + grey
    mean = x.mean(dim=(1, 2, 3), keepdim=True)
    return (x - mean) * (u[2] + 0.5) + mean


def _rectangle(x: Tensor, rows: Tensor, columns: Tensor, ratio: float) -> Tensor:
    """Returns where the cutout of each picture lies, bool [B, 1, H, W]; [B, 1, 1] draws.

    Trap: as in the reference, the rectangle's pixels are clamped into the picture, so one that sticks out covers the
    border row or column even where it lies outside.
    """
    spans: list[Tensor] = []
    for uniform, side in ((rows, x.shape[-2]), (columns, x.shape[-1])):
        length = round(side * ratio)
        middle = (uniform * (side + (1 - length % 2))).floor().long().view(-1, 1)
        covered = (torch.arange(length, device=x.device) + middle - length // 2).clamp(0, side - 1)  # [B, length]
        span = torch.zeros(len(x), side, dtype=torch.bool, device=x.device)
        spans.append(span.scatter(1, covered, True))
    return spans[0][:, None, :, None] & spans[1][:, None, None, :]
