"""The adapter of a VAE that is judged by itself: its latents are the features, and it decodes them."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.paths import asset
from ovbench.encoders.base import EncoderInfo, Features, LoadRequest, PreprocessSpec, Tap
from ovbench.encoders.modeling.frontend import (
    VAE_FILES,
    DiffusersVAE,
    build_diffusers_vae,
    load_diffusers_vae,
    load_tiny_vae,
)
from ovbench.encoders.modeling.frozen import FrozenEncoder, check_device, check_images, weights_digest
from ovbench.encoders.modeling.sources import locate, read_json_file, seeded
from ovbench.encoders.modeling.tiny_vae import TinyVAE
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.preprocess import HALF, as_asked

log = logging.getLogger(__name__)
ADAPTER_VERSION = 2


class VAEEncoder(FrozenEncoder):
    """A frozen VAE behind the encoder contract, with `decode`; it runs in float32 whatever is asked for.

    Args:
        name: `family/variant`.
        vae: The autoencoder.
        input: How pictures become its input: any multiple of its downsampling.
        random_seed: Of seeded, untrained weights.
        device: Where it runs.
    """

    def __init__(
        self,
        *,
        name: str,
        vae: FrontEnd,
        input: PreprocessSpec,
        random_seed: int | None = None,
        device: str = "cpu",
    ) -> None:
        super().__init__()
        self.vae = vae
        digest = weights_digest(vae)
        height, width = input.size
        if height % vae.downsampling or width % vae.downsampling:
            raise ConfigError(
                f"{height} x {width} pixels are no multiple of the VAE's {vae.downsampling}",
                where="--encoder …?size=",
                fix=f"use a multiple of {vae.downsampling}",
            )
        info = EncoderInfo(
            name=name,
            adapter_version=ADAPTER_VERSION,
            input=input,
            grid=(height // vae.downsampling, width // vae.downsampling),
            dim=vae.latent_channels,
            depth=0,
            num_prefix=0,
            patch_px=vae.downsampling,
            mean=HALF.mean,
            std=HALF.std,
            llm_tap=Tap(),
            latent_tap=Tap(),
            num_params=0,
            num_params_frontend=sum(p.numel() for p in vae.parameters()),
            weights_digest=digest,
            identity=fingerprint(
                {
                    "adapter": "vae",
                    "version": ADAPTER_VERSION,
                    "vae": vae.describe(),
                    "weights": digest,
                    "size": input.size,
                }
            ),
            random_seed=random_seed,
            supports_decode=True,
        )
        self._seal(info, check_device(device))

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        """Returns the scaled latents as tokens [B, N, Z]; a VAE has no other tap."""
        check_images(images_01, self._info.input.size)
        return self._run(images_01, tap or Tap())

    @torch.no_grad()
    def _run(self, images_01: Tensor, tap: Tap) -> Features:
        if tap != Tap():
            raise ConfigError("a VAE has no layers to tap; its latents are the features", where="tap")
        with torch.autocast(self._device.type, enabled=False):  # the caller's must not change the features
            latents = self.vae.encode(images_01.to(self._device, torch.float32) * 2.0 - 1.0)
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

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Turns what `latents` returns into images [B, 3, H, W] in about [0, 1], unclamped."""
        with torch.autocast(self._device.type, enabled=False):
            return (self.vae.decode(latents.to(self._device, torch.float32)) + 1.0) / 2.0


def load_vae_encoder(request: LoadRequest) -> VAEEncoder:
    """Builds the encoder from the embedded file, from a diffusers folder, or untrained.

    Raises:
        ConfigError: An option does not fit a VAE.
        DataError: The weights are missing, damaged, or of another architecture.
    """
    if request.llm_tap is not None:
        raise ConfigError("a VAE has no layers to tap", where="--encoder", fix="leave out layer= and norm=")
    if request.dtype != "float32":
        log.warning("%s runs in float32: the dtype %s has no effect on a VAE", request.name, request.dtype)
    variant = request.variant
    vae = _mini(request) if variant.origin == "embedded" else _released(request)
    published = variant.input or PreprocessSpec(size=(variant.resolution_px, variant.resolution_px))
    spec = as_asked(published, request, HALF.mean)
    return VAEEncoder(name=request.name, vae=vae, input=spec, random_seed=request.random_seed, device=request.device)


def _mini(request: LoadRequest) -> FrontEnd:
    if request.options:
        raise ConfigError(
            f"the option '{next(iter(request.options))}' has no effect on {request.name}, whose VAE has no shift",
            where="--encoder",
            fix="leave the option out",
        )
    if request.source and Path(request.source).is_dir():
        raise DataError(
            f"'{Path(request.source).name}' is a folder, and {request.name} reads one file of ovbench",
            where=request.source,
            fix=f"name the kind of VAE for a diffusers folder: vae/sd:{request.source}, vae/sd3:… or vae/flux:…",
        )
    vae = load_tiny_vae(Path(request.source) if request.source else asset(request.variant.weights))
    if request.random_seed is None:
        return vae
    return seeded(lambda: TinyVAE(vae.config), request.random_seed)


def _released(request: LoadRequest) -> FrontEnd:
    shift = request.flag("latent_shift")
    seed = request.random_seed
    if seed is not None and request.source is None:
        vae = seeded(lambda: build_diffusers_vae(request.variant.architecture, where=request.name), seed)
    else:
        folder = locate(request, weights=VAE_FILES)
        if not folder.is_dir():
            raise DataError(f"'{folder.name}' is no folder", where=str(folder), fix="name a diffusers VAE folder")
        if seed is None:
            vae = load_diffusers_vae(folder)
        else:
            config = read_json_file(folder / "config.json", fix="name a diffusers VAE folder")
            vae = seeded(lambda: build_diffusers_vae(config, where=str(folder)), seed)
    return DiffusersVAE(vae, latent_shift=shift is not False)
