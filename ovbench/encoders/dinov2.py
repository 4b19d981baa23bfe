"""DINOv2 (arXiv 2304.07193), with register tokens (arXiv 2309.16588) and without."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant
from ovbench.encoders.preprocess import IMAGENET


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.hf import load_transformers

    return load_transformers(request, "dinov2", "dinov2_with_registers")


_WIDTHS = {"small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}  # width, blocks, heads


def _released(name: str, revision: str, num_params: int, protocol: str = "") -> Variant:
    size, _, registers = name.partition("-")
    width, blocks, heads = _WIDTHS[size]
    architecture: Mapping[str, Any] = {
        "model_type": "dinov2_with_registers" if registers else "dinov2",
        "hidden_size": width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
        "mlp_ratio": 4,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": 518,
        "patch_size": 14,
        "layerscale_value": 1.0,
        "qkv_bias": True,
        **({"num_register_tokens": 4} if registers else {}),
    }
    return Variant(
        name=name,
        title=f"DINOv2 ViT-{size[0].upper()}/14{' with registers' if registers else ''}, 224 px",
        protocol=protocol,
        weights=f"facebook/dinov2-{'with-registers-' if registers else ''}{size}",
        revision=revision,
        licence="Apache-2.0",
        training_data="LVD-142M, not public",
        objective="self-distillation + masked prediction",
        resolution_px=224,
        num_tokens=256,
        dim=width,
        depth=blocks,
        num_prefix=5 if registers else 1,
        num_params=num_params,
        citation="arXiv 2304.07193" + (", arXiv 2309.16588" if registers else ""),
        architecture=architecture,
        # The processor's: short side 256, middle 224. The library interpolates the 37 x 37 positions.
        input=PreprocessSpec(size=(224, 224), aspect="crop", short_side=256),
        normalisation=IMAGENET,
        llm_tap=Tap(layer=-2),
        latent_tap=Tap(norm="layernorm"),  # RAE: the final norm without its affine
    )


FAMILIES = (
    Family(
        key="dinov2",
        title="DINOv2",
        load=_load,
        variants=(
            _released("base-reg", "a1d738ccfa7ae170945f210395d99dde8adb1805", 86_583_552, "released"),
            _released("large-reg", "e4c89a4e05589de9b3e188688a303d0f3c04d0f3", 304_372_736),
            _released("small", "ed25f3a31f01632728cabb09d1542f84ab7b0056", 22_056_576),
            _released("base", "f9e44c814b77203eaa57a6bdbbd535f21ede1415", 86_580_480),
            _released("large", "47b73eefe95e8d44ec3623f8890bd894b6ea2d6c", 304_368_640),
        ),
    ),
)
