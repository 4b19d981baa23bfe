"""What stands in front of a trunk: nothing, the miniature VAE, or a diffusers VAE such as FLUX's; always frozen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.modeling.tiny_vae import TinyVAE, TinyVAEConfig
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.modeling.weights_file import build_config, read_weights

M = TypeVar("M", bound=nn.Module)


def freeze(module: M) -> M:
    """Returns the module in eval mode with no parameter that takes gradients."""
    module.eval().requires_grad_(False)
    return module


def load_tiny_vae(path: Path) -> TinyVAE:
    """Returns the frozen miniature VAE of a weights file."""
    stored = read_weights(path)
    vae = TinyVAE(build_config(TinyVAEConfig, stored.config, where=str(path)))
    load_strict(vae, stored.tensors, where=str(path))
    freeze(vae)
    return vae


class DiffusersVAE(FrontEnd):
    """A diffusers `AutoencoderKL` behind the two calls that ovbench needs.

    Contract: latents are the posterior mean times `scaling_factor`, in float32, and the shift is left out, as
    OpenVision 3's script does it (src/convert_upload/openvision3_test.py) and unlike FLUX's own pipeline.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae: Any = vae
        self.scaling_factor = float(vae.config.scaling_factor)

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell along a side: one halving per level but the last."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    def describe(self) -> dict[str, Any]:
        """Returns what decides the latents."""
        return {"class": "AutoencoderKL", "latent_shift": False, "scaling_factor": self.scaling_factor}

    def encode(self, images_pm1: Tensor) -> Tensor:
        """Turns images [B, 3, H, W] in [-1, 1] into latents [B, Z, H/8, W/8]."""
        with torch.autocast(images_pm1.device.type, enabled=False):
            return self.vae.encode(images_pm1.float()).latent_dist.mode() * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Turns latents [B, Z, h, w] into images [B, 3, 8h, 8w], about [-1, 1]."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.vae.decode(latents.float() / self.scaling_factor).sample


def load_frontend(kind: Literal["pixels", "tiny-vae", "flux-vae"], source: Path | None) -> FrontEnd | None:
    """Returns the frozen front end of a trunk; None for a trunk that reads pixels.

    Args:
        kind: What the trunk reads.
        source: The miniature VAE's file, or a diffusers VAE folder (`config.json` and weights).

    Raises:
        ConfigError: A VAE is needed and none was named.
        DataError: The weights cannot be read.
        DependencyError: diffusers is needed and not installed.
    """
    if kind == "pixels":
        return None
    if source is None:
        raise ConfigError("this recipe reads VAE latents, and no VAE was named", where="--vae")
    if kind == "tiny-vae":
        return load_tiny_vae(source)
    diffusers = require("diffusers", extra="offline", purpose="the FLUX VAE")
    try:
        vae = diffusers.AutoencoderKL.from_pretrained(str(source), local_files_only=True, torch_dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot load the VAE: {error}", where=str(source), fix="name a diffusers VAE folder"
        ) from error
    return freeze(DiffusersVAE(vae))
