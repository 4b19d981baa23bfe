"""Noise on latent tokens while a decoder is trained, drawn per picture: no batch, process or restart changes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import torch_generator
from ovbench.harness.generation.decoder_config import NoiseConfig


def sigma_of(uniform_or_normal: Tensor, config: NoiseConfig) -> Tensor:
    """Returns noise levels of given draws: tau * u of u ~ U(0, 1), or tau * |n| of n ~ N(0, 1) for `halfnormal`.

    arXiv 2510.11690, section 4.3, has sigma ~ |N(0, tau^2)|; the published code (src/stage1/rae.py) has tau * U(0, 1).
    """
    return config.tau * (uniform_or_normal if config.kind == "uniform" else uniform_or_normal.abs())


def add_noise(latents: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
    """Returns z + sigma * n. On tokens, before any statistics are applied.

    Args:
        latents: [B, …].
        sigma: One level per picture: [B], or [B, 1, …].
        noise: As `latents`.

    Raises:
        ConfigError: The shapes do not fit.
    """
    if noise.shape != latents.shape or sigma.numel() != len(latents):
        raise ConfigError(
            f"noise {list(noise.shape)} and levels {list(sigma.shape)} do not fit latents {list(latents.shape)}",
            where="add_noise",
        )
    return latents + sigma.reshape(-1, *[1] * (latents.ndim - 1)) * noise


def noise_latents(latents: Tensor, indices: Sequence[int], seed: int, config: NoiseConfig) -> Tensor:
    """Returns noised latents for the training of a decoder; unchanged where tau is 0.

    Contract: the noise of a picture depends on (seed, its index) and the shape of one latent alone. An index names one
    use of a picture: count on over the epochs, so that each has noise of its own.

    Args:
        latents: [B, C, h, w] or [B, N, C], as the encoder gave them (not normalised by statistics).
        indices: Global sample numbers, one per row.
        seed: Of the run.
        config: Level and kind.

    Raises:
        ConfigError: There is not one index per row.
    """
    if len(indices) != len(latents):
        raise ConfigError(f"{len(latents)} latents have {len(indices)} indices", where="noise_latents")
    if config.tau == 0.0 or len(latents) == 0:
        return latents
    levels: list[Tensor] = []
    noises: list[Tensor] = []
    for index in indices:
        generator = torch_generator(seed, "decoder/noise", int(index))
        draw = torch.rand if config.kind == "uniform" else torch.randn
        levels.append(draw(1, generator=generator))
        noises.append(torch.randn(latents.shape[1:], generator=generator))
    sigma = sigma_of(torch.cat(levels), config).to(latents)
    return add_noise(latents, sigma, torch.stack(noises).to(latents))
