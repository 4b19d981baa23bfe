"""A small convolutional VAE: the miniature stand-in for FLUX's autoencoder, with the same three calls.

Downsampling 4, no normalisation layers, so a picture and a cut-out of it get the same latents away from the border.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.encoders.modeling.vae_base import FrontEnd


@dataclass(frozen=True, kw_only=True, slots=True)
class TinyVAEConfig:
    """Architecture of the miniature VAE."""

    latent_channels: int = 16
    stem_width: int = 32  # at half the resolution
    width: int = 64  # at a quarter of the resolution
    blocks: int = 2  # residual blocks at a quarter of the resolution, on each side
    scaling_factor: float = 1.0  # latents are multiplied by it: 1 / standard deviation over the training scenes


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        assert self.conv2.bias is not None
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class TinyVAE(FrontEnd):
    """Encoder and decoder between images in [-1, 1] and latents at a quarter of the resolution."""

    def __init__(self, config: TinyVAEConfig) -> None:
        super().__init__()
        self.config = config
        stem, width = config.stem_width, config.width
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, stem, 3, padding=1),
            _Residual(stem),
            nn.Conv2d(stem, width, 4, stride=2, padding=1),
            *(_Residual(width) for _ in range(config.blocks)),
            nn.Conv2d(width, 2 * config.latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(config.latent_channels, width, 3, padding=1),
            *(_Residual(width) for _ in range(config.blocks)),
            nn.Conv2d(width, 4 * stem, 3, padding=1),
            nn.PixelShuffle(2),
            _Residual(stem),
            nn.Conv2d(stem, 12, 3, padding=1),
            nn.PixelShuffle(2),
        )

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell along a side: 4."""
        return 4

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.config.latent_channels

    def describe(self) -> dict[str, Any]:
        """Returns the configuration."""
        return asdict(self.config)

    def moments(self, images_pm1: Tensor) -> tuple[Tensor, Tensor]:
        """Returns mean and log-variance of the posterior, unscaled: [B, 3, H, W] → two of [B, Z, H/4, W/4]."""
        mean, log_variance = self.encoder(images_pm1).float().chunk(2, dim=1)
        return mean, log_variance.clamp(-20.0, 10.0)

    def encode(self, images_pm1: Tensor) -> Tensor:
        """Returns scaled latents, the posterior mean times `scaling_factor`: [B, 3, H, W] → [B, Z, H/4, W/4]."""
        return self.moments(images_pm1)[0] * self.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Returns images, about [-1, 1] and unclamped: scaled latents [B, Z, h, w] → [B, 3, 4h, 4w]."""
        return self.decoder(latents / self.config.scaling_factor).float()

    def elbo_terms(self, images_pm1: Tensor, noise: Tensor) -> dict[str, Tensor]:
        """Returns the training terms for posterior noise [B, Z, H/4, W/4]: `l1`, `l2`, `kl` (nats per latent value)."""
        mean, log_variance = self.moments(images_pm1)
        reconstruction = self.decoder(mean + torch.exp(0.5 * log_variance) * noise).float()
        return {
            "l1": F.l1_loss(reconstruction, images_pm1),
            "l2": F.mse_loss(reconstruction, images_pm1),
            "kl": 0.5 * (mean.square() + log_variance.exp() - 1.0 - log_variance).mean(),
        }
