"""MAE (arXiv 2111.06377): a ViT trained to reconstruct masked patches; here nothing is masked and the order is kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant
from ovbench.encoders.preprocess import IMAGENET


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.hf import load_transformers

    return load_transformers(request, "vit_mae")


_BASE: Mapping[str, Any] = {
    "model_type": "vit_mae",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "image_size": 224,
    "patch_size": 16,
    "qkv_bias": True,
}


def _released(name: str, px: int, protocol: str = "") -> Variant:
    return Variant(
        name=name,
        title=f"MAE ViT-B/16, {px} px" + ("" if px == 224 else ", interpolated positions as RAE uses it"),
        protocol=protocol,
        weights="facebook/vit-mae-base",
        revision="25b184bea5538bf5c4c852c79d221195fdd2778d",
        licence="Apache-2.0 (hub card; github facebookresearch/mae: CC-BY-NC-4.0)",
        training_data="ImageNet-1k",
        objective="masked reconstruction",
        resolution_px=px,
        num_tokens=(px // 16) ** 2,
        dim=768,
        depth=12,
        num_prefix=1,
        num_params=85_798_656,
        citation="arXiv 2111.06377",
        architecture=_BASE,
        input=PreprocessSpec(size=(px, px), resample="bilinear"),
        normalisation=IMAGENET,
        latent_tap=Tap(norm="layernorm"),
    )


FAMILIES = (
    Family(
        key="mae",
        title="MAE",
        load=_load,
        variants=(_released("base-256", 256, "released"), _released("base-224", 224)),
    ),
)
