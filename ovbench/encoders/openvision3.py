"""OpenVision 3 (arXiv 2601.15369): VAE latents → ViT tokens, one representation for understanding and generation."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.trunk import load_trunk

    return load_trunk(request)


FAMILIES = (
    Family(
        key="ovis3",
        title="OpenVision 3",
        aliases=("openvision3",),
        load=_load,
        variants=(
            Variant(
                name="mini",
                title="OpenVision 3 objective, miniature trunk behind a small VAE",
                protocol="mini",
                weights="encoders/ovis3-mini.safetensors",
                frontend="encoders/vae-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="reconstruction + softmax contrastive + captioning",
                resolution_px=64,
                num_tokens=64,
                dim=128,
                citation="arXiv 2601.15369v2 (objective); weights trained by ovbench",
            ),
        ),
    ),
)
