"""SigLIP (arXiv 2303.15343): image and text towers trained with the sigmoid contrastive loss."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.trunk import load_trunk

    return load_trunk(request)


FAMILIES = (
    Family(
        key="siglip",
        title="SigLIP",
        load=_load,
        variants=(
            Variant(
                name="mini",
                title="SigLIP objective, miniature trunk on pixels",
                protocol="mini",
                weights="encoders/siglip-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="sigmoid contrastive",
                resolution_px=64,
                num_tokens=64,
                dim=128,
                citation="arXiv 2303.15343 (objective); weights trained by ovbench",
            ),
        ),
    ),
)
