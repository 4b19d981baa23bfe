"""The adapter of a VAE that is judged by itself: its latents are the features, and it decodes them."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.paths import asset
from ovbench.encoders.base import EncoderInfo, Features, LoadRequest, PreprocessSpec, Tap
from ovbench.encoders.modeling.frontend import load_tiny_vae
from ovbench.encoders.modeling.frozen import FrozenEncoder, check_device, check_images, weights_digest
from ovbench.encoders.modeling.tiny_vae import TinyVAE

_SIDE_PX = 64


class VAEEncoder(FrozenEncoder):
    """A frozen miniature VAE behind the encoder contract, with `decode`."""

    def __init__(self, *, name: str, vae: TinyVAE, device: torch.device) -> None:
        super().__init__()
        self.vae = vae
        side = _SIDE_PX // vae.downsampling
        digest = weights_digest(vae)
        info = EncoderInfo(
            name=name,
            adapter_version=1,
            input=PreprocessSpec(size=(_SIDE_PX, _SIDE_PX)),
            grid=(side, side),
            dim=vae.config.latent_channels,
            depth=0,
            num_prefix=0,
            patch_px=vae.downsampling,
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
            llm_tap=Tap(),
            latent_tap=Tap(),
            supports_decode=True,
            num_params=0,
            num_params_frontend=sum(p.numel() for p in vae.parameters()),
            weights_digest=digest,
            identity=fingerprint({"adapter": "vae", "version": 1, "config": asdict(vae.config), "weights": digest}),
        )
        self._seal(info, device)

    @torch.no_grad()
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        """Returns the scaled latents as tokens [B, N, Z]; a VAE has no other tap."""
        tap = tap or Tap()
        if tap != Tap():
            raise ConfigError("a VAE has no layers to tap; its latents are the features", where="tap")
        check_images(images_01, self._info.input.size)
        device = next(self.vae.parameters()).device
        latents = self.vae.encode(images_01.to(device, torch.float32) * 2.0 - 1.0)
        return Features(
            tokens=latents.flatten(2).transpose(1, 2), prefix=None, pooled=None, grid=self._info.grid, tap=tap
        )

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        """Refuses: a VAE alone is not offered to a language model.

        Raises:
            ConfigError: Always.
        """
        del images_01, tap
        raise ConfigError(
            f"'{self._info.name}' is offered to generation and reconstruction, not to a language model",
            where="--encoder",
            fix="choose another encoder for --suite understanding; see: ovbench encoders",
        )

    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        """Returns the scaled posterior means, float32 [B, Z, h, w]."""
        del resize
        tokens = self.features(images_01, tap).tokens
        rows, columns = self._info.grid
        return tokens.transpose(1, 2).reshape(len(tokens), -1, rows, columns).contiguous()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Turns what `latents` returns into images [B, 3, H, W] in about [0, 1], unclamped."""
        return (self.vae.decode(latents) + 1.0) / 2.0


def load_vae_encoder(request: LoadRequest) -> VAEEncoder:
    """Builds the encoder from embedded weights or from a file."""
    path = Path(request.source).expanduser() if request.source else asset(request.variant.weights)
    return VAEEncoder(
        name=f"{request.family}/{request.variant.name}", vae=load_tiny_vae(path), device=check_device(request.device)
    )
