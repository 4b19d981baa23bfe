"""CLIP (arXiv 2103.00020): image and text towers trained with the softmax contrastive loss."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.trunk import load_trunk

    return load_trunk(request)


FAMILIES = (
    Family(
        key="clip",
        title="CLIP",
        load=_load,
        variants=(
            Variant(
                name="mini",
                title="CLIP objective, miniature trunk on pixels",
                protocol="mini",
                weights="encoders/clip-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="softmax contrastive",
                resolution_px=64,
                num_tokens=64,
                dim=128,
                citation="arXiv 2103.00020 (objective); weights trained by ovbench",
            ),
        ),
    ),
)
