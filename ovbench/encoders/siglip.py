"""SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786): image and text towers trained with the sigmoid loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Resample, Tap, Variant
from ovbench.encoders.preprocess import HALF


def _load(request: LoadRequest) -> Encoder:
    if request.variant.name == "mini":
        from ovbench.encoders.modeling.trunk import load_trunk

        return load_trunk(request)
    from ovbench.encoders.modeling.hf import load_transformers

    return load_transformers(request, "siglip")


_BASE: Mapping[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "patch_size": 16,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}
_SO400M: Mapping[str, Any] = {
    **_BASE,
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}


def _released(
    name: str,
    title: str,
    repository: str,
    revision: str,
    architecture: Mapping[str, Any],
    px: int,
    num_params: int,
    *,
    resample: Resample,
    objective: str,
    citation: str,
    protocol: str = "",
) -> Variant:
    side = px // architecture["patch_size"]
    return Variant(
        name=name,
        title=f"{title}, {px} px",
        protocol=protocol,
        weights=f"google/{repository}",
        revision=revision,
        licence="Apache-2.0",
        training_data="WebLI, not public",
        objective=objective,
        resolution_px=px,
        num_tokens=side * side,
        dim=architecture["hidden_size"],
        depth=architecture["num_hidden_layers"],
        num_params=num_params,
        citation=citation,
        architecture={**architecture, "image_size": px},
        input=PreprocessSpec(size=(px, px), resample=resample),
        normalisation=HALF,
        llm_tap=Tap(layer=-2),
        latent_tap=Tap(norm="layernorm"),  # RAE: the final norm without its affine
    )


_SIGMOID = "sigmoid contrastive"
_SECOND = "sigmoid contrastive + captioning + self-distillation + masked prediction"

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
                origin="embedded",
                weights="encoders/siglip-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective=_SIGMOID,
                resolution_px=64,
                num_tokens=64,
                dim=128,
                depth=4,
                num_prefix=1,
                num_params=842_752,
                citation="arXiv 2303.15343 (objective); weights trained by ovbench",
                latent_tap=Tap(norm="layernorm", eps=1e-6),
            ),
            _released(
                "so400m-384",
                "SigLIP So400m/14",
                "siglip-so400m-patch14-384",
                "9fdffc58afc957d1a03a25b10dba0329ab15c2a3",
                _SO400M,
                384,
                428_225_600,
                resample="bicubic",
                objective=_SIGMOID,
                citation="arXiv 2303.15343",
                protocol="released",
            ),
            _released(
                "base-256",
                "SigLIP B/16",
                "siglip-base-patch16-256",
                "b078df89e446d623010d890864d4207fe6399f61",
                _BASE,
                256,
                92_930_304,
                resample="bicubic",
                objective=_SIGMOID,
                citation="arXiv 2303.15343",
            ),
        ),
    ),
    Family(
        key="siglip2",
        title="SigLIP 2",
        load=_load,
        variants=(
            _released(
                "base-256",
                "SigLIP 2 B/16",
                "siglip2-base-patch16-256",
                "3f9f96cb90da5dbc758b01813f2f6f1aee24c1ab",
                _BASE,
                256,
                92_930_304,
                resample="bilinear",
                objective=_SECOND,
                citation="arXiv 2502.14786",
                protocol="released",
            ),
        ),
    ),
)
