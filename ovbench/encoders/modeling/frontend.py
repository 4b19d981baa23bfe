"""What stands in front of a trunk: nothing, the miniature VAE, or a diffusers VAE such as FLUX's; always frozen."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.sources import find_file, hub_folder, read_json_file, read_state, seeded
from ovbench.encoders.modeling.tiny_vae import TinyVAE, TinyVAEConfig
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.modeling.weights_file import build_config, read_weights
from ovbench.encoders.vae_configs import FLUX_VAE

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
    """A diffusers `AutoencoderKL` behind the calls that ovbench needs, in float32.

    Contract: latents are the posterior mean times `scaling_factor`. The shift is subtracted first only where it is
    asked for: OpenVision 3's script leaves it out (src/convert_upload/openvision3_test.py), FLUX's pipeline does not.

    Args:
        vae: The autoencoder.
        latent_shift: Subtract `shift_factor`, where the VAE has one.
    """

    def __init__(self, vae: Any, *, latent_shift: bool = False) -> None:
        super().__init__()
        self.vae: Any = vae
        self.scaling_factor = float(vae.config.scaling_factor)
        self.latent_shift = latent_shift
        self.shift = float(vae.config.get("shift_factor") or 0.0) if latent_shift else 0.0

    @property
    def downsampling(self) -> int:
        """Pixels per latent cell along a side: one halving per level but the last."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return int(self.vae.config.latent_channels)

    def describe(self) -> dict[str, Any]:
        """Returns what decides the latents, but for the weights."""
        names = ("block_out_channels", "layers_per_block", "norm_num_groups", "act_fn", "mid_block_add_attention")
        return {
            "class": "AutoencoderKL",
            "architecture": {name: self.vae.config.get(name) for name in names},
            "latent_channels": self.latent_channels,
            "latent_shift": self.latent_shift,
            "posterior": "mean",
            "scaling_factor": self.scaling_factor,
            "shift_factor": self.shift,
        }

    def encode(self, images_pm1: Tensor) -> Tensor:
        """Turns images [B, 3, H, W] in [-1, 1] into latents [B, Z, H/8, W/8]."""
        with torch.autocast(images_pm1.device.type, enabled=False):
            return (self.vae.encode(images_pm1.float()).latent_dist.mode() - self.shift) * self.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Turns latents [B, Z, h, w] into images [B, 3, 8h, 8w], about [-1, 1]."""
        with torch.autocast(latents.device.type, enabled=False):
            return self.vae.decode(latents.float() / self.scaling_factor + self.shift).sample


VAE_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_SD_SCALE = 0.18215  # diffusers' default
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}


def load_diffusers_vae(folder: Path) -> Any:
    """Returns the `AutoencoderKL` of a diffusers folder (`config.json`, `diffusion_pytorch_model.*`), loaded strictly.

    Raises:
        DataError: Files are missing or damaged, or are of another kind of network.
        DependencyError: diffusers is not installed.
    """
    document = read_json_file(folder / "config.json", fix="name a diffusers VAE folder")
    vae = build_diffusers_vae(document, where=str(folder / "config.json"))
    weights = find_file(folder, VAE_FILES)
    state = dict(_renewed(key, value) for key, value in read_state(weights).items())
    load_strict(vae, state, where=str(weights))
    return vae


def _renewed(key: str, value: Tensor) -> tuple[str, Tensor]:
    """Returns an attention weight under today's name and in today's shape.

    Files from before diffusers 0.18, as those of SD's VAEs, have other names; in some of them, the projections are
    1 x 1 convolutions, as in the original code.
    """
    if ".attentions." in key:
        for old, new in _OLD_ATTENTION.items():
            key = key.replace(old, new)
        if ".to_" in key and value.ndim == 4 and value.shape[2:] == (1, 1):
            value = value[:, :, 0, 0]
    return key, value


def build_diffusers_vae(config: Mapping[str, Any], *, where: str) -> Any:
    """Returns an `AutoencoderKL` with the weights of its constructor.

    Raises:
        DataError: The configuration is of another class, or cannot be used.
        DependencyError: diffusers is not installed.
    """
    diffusers = require("diffusers", extra="offline", purpose="a VAE of diffusers")
    kind = config.get("_class_name", "AutoencoderKL")
    if kind != "AutoencoderKL":
        raise DataError(f"the configuration is of the class '{kind}', not 'AutoencoderKL'", where=where)
    fields = {key: value for key, value in config.items() if not key.startswith("_")}
    if "scaling_factor" not in fields and fields.get("latent_channels") == 4:
        fields["scaling_factor"] = _SD_SCALE  # the files of SD's VAEs are older than this key
    missing = [key for key in ("latent_channels", "scaling_factor") if not isinstance(fields.get(key), int | float)]
    if missing:
        raise DataError(
            f"the configuration does not give {' and '.join(missing)}",
            where=where,
            fix="use the config.json of the VAE's folder",
        )
    normalised = [key for key in ("latents_mean", "latents_std") if fields.get(key) is not None]
    if normalised:
        raise DataError(
            f"the VAE normalises its latents per channel ({', '.join(normalised)}), which this adapter does not do",
            where=where,
            fix="write an adapter: docs/add-an-encoder.md",
        )
    try:
        return diffusers.AutoencoderKL(**fields)
    except (TypeError, ValueError, ZeroDivisionError, IndexError) as error:
        raise DataError(f"the VAE's configuration cannot be used: {error}", where=where) from error


def diffusers_frontend(request: LoadRequest, *, latent_shift: bool) -> DiffusersVAE:
    """Returns the frozen VAE in front of a released encoder.

    It is the one that the option `vae` names (a folder, or a hub id with its commit), else the variant's own; under
    `weights=random:SEED` the variant's architecture with seeded weights, unless a VAE is named.

    Raises:
        ConfigError, DataError, DependencyError: It cannot be found, read or built.
    """
    variant, named, spec = request.variant, request.options.get("vae"), f"{request.name}?vae="
    if named is None and request.random_seed is not None:
        vae = seeded(lambda: build_diffusers_vae(FLUX_VAE, where=request.name), request.random_seed)
    elif named is None:
        vae = load_diffusers_vae(hub_folder(variant.frontend, variant.frontend_revision, spec=spec, weights=VAE_FILES))
    elif (path := Path(named).expanduser()).is_dir():
        vae = load_diffusers_vae(path)
    elif "@" in named:
        source, _, revision = named.rpartition("@")
        vae = load_diffusers_vae(hub_folder(source, revision, spec=spec, weights=VAE_FILES))
    else:
        raise DataError(f"no such folder '{named}'", where="?vae=", fix="name a diffusers VAE folder, or ID@COMMIT")
    if latent_shift and vae.config.get("shift_factor") is None:
        raise ConfigError(
            "latent_shift=true was asked for, and the VAE has no shift_factor",
            where=f"--encoder {request.name}?latent_shift=",
            fix="leave the option out",
        )
    return freeze(DiffusersVAE(vae, latent_shift=latent_shift))


def load_frontend(kind: Literal["pixels", "tiny-vae", "flux-vae"], source: Path | None) -> FrontEnd | None:
    """Returns the frozen front end of a trunk in training; None for a trunk that reads pixels.

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
    return freeze(DiffusersVAE(load_diffusers_vae(source)))
