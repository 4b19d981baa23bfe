"""Autoencoders as encoders of their own: offered to generation and reconstruction, not to a language model."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.vae_encoder import load_vae_encoder

    return load_vae_encoder(request)


FAMILIES = (
    Family(
        key="vae",
        title="VAE",
        load=_load,
        variants=(
            Variant(
                name="mini",
                title="small convolutional VAE, the front end of ovis3/mini",
                protocol="mini",
                weights="encoders/vae-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="l1 + l2 + KL",
                resolution_px=64,
                num_tokens=256,
                dim=16,
                citation="arXiv 1312.6114 (objective); weights trained by ovbench",
                for_understanding=False,
            ),
        ),
    ),
)
