"""Autoencoders as encoders of their own: offered to generation and reconstruction, not to a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant
from ovbench.encoders.vae_configs import FLUX_VAE, SD3_VAE, SD_VAE


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.vae_encoder import load_vae_encoder

    return load_vae_encoder(request)


def _released(
    name: str,
    title: str,
    weights: str,
    revision: str,
    architecture: Mapping[str, Any],
    num_params: int,
    *,
    licence: str,
    training_data: str,
    citation: str,
    protocol: str = "",
) -> Variant:
    return Variant(
        name=name,
        title=title,
        protocol=protocol,
        weights=weights,
        revision=revision,
        licence=licence,
        training_data=training_data,
        objective="l1 + LPIPS + GAN + KL",
        resolution_px=256,
        num_tokens=32 * 32,
        dim=architecture["latent_channels"],
        num_params_frontend=num_params,
        citation=citation,
        for_understanding=False,
        architecture=architecture,
        input=PreprocessSpec(size=(256, 256), aspect="crop"),
        latent_tap=Tap(),  # scaled latents, no LayerNorm
    )


FAMILIES = (
    Family(
        key="vae",
        title="VAE",
        load=_load,
        options={"latent_shift": "false: leave out the subtraction of the VAE's shift_factor, where it has one"},
        variants=(
            Variant(
                name="mini",
                title="small convolutional VAE, the front end of ovis3/mini",
                protocol="mini",
                origin="embedded",
                weights="encoders/vae-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="l1 + l2 + KL",
                resolution_px=64,
                num_tokens=256,
                dim=16,
                num_params_frontend=473_804,
                citation="arXiv 1312.6114 (objective); weights trained by ovbench",
                for_understanding=False,
                latent_tap=Tap(),
            ),
            _released(
                "sd",
                "VAE of Stable Diffusion, ft-MSE, 256 px",
                "stabilityai/sd-vae-ft-mse",
                "31f26fdeee1355a5c34592e401dd41e45d25a493",
                SD_VAE,
                83_653_863,
                licence="MIT",
                training_data="OpenImages, LAION-Aesthetics and LAION-Humans",
                citation="arXiv 2112.10752",
                protocol="released",
            ),
            _released(
                "sd3",
                "VAE of Stable Diffusion 3, 256 px",
                "stabilityai/stable-diffusion-3-medium-diffusers/vae",
                "ea42f8cef0f178587cf766dc8129abd379c90671",
                SD3_VAE,
                83_819_683,
                licence="Stability AI Community Licence",
                training_data="not public",
                citation="arXiv 2403.03206",
            ),
            _released(
                "flux",
                "VAE of FLUX.1 [dev], 256 px",
                "black-forest-labs/FLUX.1-dev/vae",
                "3de623fc3c33e44ffbe2bad470d0f45bccf2eb21",
                FLUX_VAE,
                83_819_683,
                licence="FLUX.1 [dev] non-commercial",
                training_data="not public",
                citation="github black-forest-labs/flux",
            ),
        ),
    ),
)
