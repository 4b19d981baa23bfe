"""What every VAE in front of a trunk offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor, nn


class FrontEnd(nn.Module, ABC):
    """A VAE seen through two calls; latents are scaled, the posterior mean is taken."""

    @property
    @abstractmethod
    def downsampling(self) -> int:
        """Pixels per latent cell along a side."""

    @property
    @abstractmethod
    def latent_channels(self) -> int:
        """Channels of the latents."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Returns the configuration as plain values; part of the encoder's identity."""

    @abstractmethod
    def encode(self, images_pm1: Tensor) -> Tensor:
        """Turns images [B, 3, H, W] in [-1, 1] into scaled latents [B, Z, h, w]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Turns scaled latents [B, Z, h, w] into images [B, 3, H, W], about [-1, 1] and unclamped."""
