"""Figures of a latent space that tell why a generator on it may fail: scale, rank, noise, drift. Pure functions.

They are diagnostics, not scores: no leaderboard ranks by them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.seeding import torch_generator
from ovbench.harness.metrics.moments import Moments

ImageMap = Callable[[Tensor], Tensor]


def channel_scale(latents: Tensor) -> Tensor:
    """Returns the standard deviation of each channel over pictures and places, float64 [C], of [B, C, h, w].

    s_c = sqrt(mean (z_c - mean z_c)^2): after normalisation all are near 1; a few large ones dominate a velocity loss.

    Raises:
        DataError: Not a batch of latents.
    """
    return _rows(latents).std(dim=0, correction=0)


def effective_rank(covariance: Tensor) -> float:
    """Returns exp(-sum p log p) with p = eigenvalues / their sum: between 1 and C (Roy & Vetterli 2007).

    Args:
        covariance: [C, C], symmetric. Eigenvalues below 0 are rounding, and count as 0.

    Raises:
        DataError: Not a finite square matrix with a positive trace.
    """
    matrix = covariance.double()
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not bool(matrix.isfinite().all()):
        raise DataError(f"a covariance must be a finite [C, C], got {list(covariance.shape)}", where="effective_rank")
    values = torch.linalg.eigvalsh(matrix).clamp_min(0.0)
    if not float(values.sum()) > 0.0:
        raise DataError("the latents do not vary at all", where="effective_rank", fix="check the encoder's weights")
    shares = values / values.sum()
    return float(torch.exp(-torch.special.xlogy(shares, shares).sum()))


def token_covariance(latents: Tensor) -> Tensor:
    """Returns the covariance of tokens over pictures and places, float64 [C, C], of [B, C, h, w].

    Raises:
        DataError: Not a batch of latents, or fewer than two tokens.
    """
    moments = Moments()
    moments.add(_rows(latents))
    return moments.covariance()


def noise_sensitivity(
    decode: ImageMap, latents: Tensor, sigmas: Sequence[float], *, seed: int, indices: Sequence[int] | None = None
) -> Tensor:
    """Returns how far a decoder's pictures move per unit of latent noise, float64 [len(sigmas), B].

    rms(decode(z + sigma n) - decode(z)) / sigma with n ~ N(0, 1) and the root mean square over pixels and channels. A
    decoder trained with noise is flat here; a rising curve means that a sampler's small errors become visible.

    Args:
        decode: Latents [B, C, h, w] → pictures [B, 3, H, W]; pass the normalised ones to compare encoders.
        latents: [B, C, h, w].
        sigmas: Noise levels, all positive.
        seed: Of the noise; that of a picture depends on it and the picture's index alone.
        indices: Numbers of the pictures; None: 0, 1, …

    Raises:
        ConfigError: A level is not positive, or there is not one index per picture.
    """
    if not sigmas or not all(0.0 < sigma < math.inf for sigma in sigmas):
        raise ConfigError(f"noise levels must be positive, got {list(sigmas)}", where="noise_sensitivity")
    numbers = range(len(latents)) if indices is None else indices
    if len(numbers) != len(latents):
        raise ConfigError(f"{len(latents)} latents have {len(numbers)} indices", where="noise_sensitivity")
    shape = latents.shape[1:]
    noise = torch.stack(
        [torch.randn(shape, generator=torch_generator(seed, "health/noise", int(index))) for index in numbers]
    ).to(latents)
    with torch.no_grad():
        clean = decode(latents).double()
        moved = [(decode(latents + sigma * noise).double() - clean).flatten(1) for sigma in sigmas]
    return torch.stack([gap.square().mean(dim=1).sqrt() / sigma for gap, sigma in zip(moved, sigmas, strict=True)])


@dataclass(frozen=True, kw_only=True, slots=True)
class Drift:
    """Where latents go that are decoded and encoded again, per picture."""

    relative: Tensor  # |z' - z| / |z|, float64 [B]
    cosine: Tensor  # between z' and z, float64 [B]


def drift(encode: ImageMap, decode: ImageMap, latents: Tensor) -> Drift:
    """Returns how far encode(decode(z)) is from z: 0 and 1 where the decoder's pictures keep all of their latent.

    Args:
        encode: Pictures [B, 3, H, W] in [0, 1] → latents.
        decode: Latents → pictures in [0, 1].
        latents: [B, C, h, w], all different from 0.

    Raises:
        DataError: The two maps do not lead back to the same shape, or a latent is 0.
    """
    with torch.no_grad():
        again = encode(decode(latents))
    if again.shape != latents.shape:
        raise DataError(f"{list(latents.shape)} came back as {list(again.shape)}", where="drift")
    before, after = latents.flatten(1).double(), again.flatten(1).double().to(latents.device)
    norms = before.norm(dim=1)
    if not bool((norms > 0.0).all()):
        raise DataError("a latent is 0 everywhere, so that no drift can be stated", where="drift")
    return Drift(
        relative=(after - before).norm(dim=1) / norms,
        cosine=torch.nn.functional.cosine_similarity(before, after, dim=1),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentHealth:
    """All figures of one latent space, as plain numbers for a record."""

    num_pictures: int
    num_channels: int
    scale_min: float  # of `channel_scale`
    scale_median: float
    scale_max: float
    effective_rank: float  # of the tokens' covariance, 1 … num_channels
    sensitivity: dict[str, float]  # noise level → mean over pictures of `noise_sensitivity`
    drift_relative: float  # mean over pictures
    drift_cosine: float  # mean over pictures


def latent_health(
    encode: ImageMap, decode: ImageMap, latents: Tensor, *, sigmas: Sequence[float] = (0.1, 0.5), seed: int = 0
) -> LatentHealth:
    """Returns the figures of a batch of latents under an autoencoder; see the functions above.

    Args:
        encode: Pictures → latents: `RAE.encode`.
        decode: Latents → pictures in [0, 1]: `RAE.decode`.
        latents: [B, C, h, w], as `encode` gives them.
        sigmas: Noise levels.
        seed: Of the noise.
    """
    scale = channel_scale(latents)
    sensitivity = noise_sensitivity(decode, latents, sigmas, seed=seed).mean(dim=1)
    moved = drift(encode, decode, latents)
    return LatentHealth(
        num_pictures=len(latents),
        num_channels=latents.shape[1],
        scale_min=float(scale.min()),
        scale_median=float(scale.median()),
        scale_max=float(scale.max()),
        effective_rank=effective_rank(token_covariance(latents)),
        sensitivity={f"{sigma:g}": float(value) for sigma, value in zip(sigmas, sensitivity, strict=True)},
        drift_relative=float(moved.relative.mean()),
        drift_cosine=float(moved.cosine.mean()),
    )


def _rows(latents: Tensor) -> Tensor:
    """Returns tokens as rows, float64 [B * h * w, C]."""
    if latents.ndim != 4 or len(latents) == 0:
        raise DataError(f"latents must be [B, C, h, w], got {list(latents.shape)}", where="latents")
    return latents.detach().double().permute(0, 2, 3, 1).flatten(0, 2)
