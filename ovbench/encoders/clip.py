"""CLIP (arXiv 2103.00020): image and text towers trained with the softmax contrastive loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant
from ovbench.encoders.preprocess import OPENAI_CLIP


def _load(request: LoadRequest) -> Encoder:
    if request.variant.name == "mini":
        from ovbench.encoders.modeling.trunk import load_trunk

        return load_trunk(request)
    from ovbench.encoders.modeling.hf import load_transformers

    return load_transformers(request, "clip")


_LARGE: Mapping[str, Any] = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "hidden_act": "quick_gelu",
    "layer_norm_eps": 1e-5,
    "projection_dim": 768,
}
_BASE: Mapping[str, Any] = {
    **_LARGE,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "projection_dim": 512,
}


def _released(
    name: str,
    repository: str,
    revision: str,
    architecture: Mapping[str, Any],
    px: int,
    num_params: int,
    protocol: str = "",
) -> Variant:
    side = px // architecture["patch_size"]
    return Variant(
        name=name,
        title=f"CLIP ViT-{name.split('-')[0].upper().replace('L14', 'L/14').replace('B16', 'B/16')}, {px} px",
        protocol=protocol,
        weights=f"openai/{repository}",
        revision=revision,
        licence="MIT (github openai/CLIP; the hub's card states none)",
        training_data="WIT-400M, not public",
        objective="softmax contrastive",
        resolution_px=px,
        num_tokens=side * side,
        dim=architecture["hidden_size"],
        depth=architecture["num_hidden_layers"],
        num_prefix=1,
        num_params=num_params,
        citation="arXiv 2103.00020",
        architecture={**architecture, "image_size": px},
        # The processor's own crop. LLaVA pads instead in its second stage and at evaluation: ?aspect=pad
        input=PreprocessSpec(size=(px, px), aspect="crop", short_side=px),
        normalisation=OPENAI_CLIP,
        llm_tap=Tap(layer=-2),  # LLaVA-1.5's mm_vision_select_layer
        latent_tap=Tap(norm="layernorm"),
    )


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
                origin="embedded",
                weights="encoders/clip-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="softmax contrastive",
                resolution_px=64,
                num_tokens=64,
                dim=128,
                depth=4,
                num_prefix=1,
                num_params=842_752,
                citation="arXiv 2103.00020 (objective); weights trained by ovbench",
                latent_tap=Tap(norm="layernorm", eps=1e-6),
            ),
            _released(
                "l14-336",
                "clip-vit-large-patch14-336",
                "ce19dc912ca5cd21c8a653c79e251e808ccabcd1",
                _LARGE,
                336,
                303_507_456,
                "released",
            ),
            _released(
                "l14", "clip-vit-large-patch14", "32bd64288804d66eefd0ccbe215aa642df71cc41", _LARGE, 224, 303_179_776
            ),
            _released(
                "b16", "clip-vit-base-patch16", "57c216476eefef5ab752ec549e440a49ae4ae5f3", _BASE, 224, 85_799_424
            ),
        ),
    ),
)
