"""OpenVision 1 (arXiv 2505.04601) and OpenVision 2 (arXiv 2509.01644): ViTs on pixels, in open_clip's layout."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant
from ovbench.encoders.preprocess import IMAGENET


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.trunk import load_released

    return load_released(request)


# width, blocks, head width, MLP ratio, width of OpenVision 1's pooled output
_SIZES = {
    "base": (768, 12, 64, 4.0, 512),
    "large": (1024, 24, 64, 4.0, 768),
    "so400m": (1152, 27, 72, 3.7362, 1152),
    "huge": (1280, 32, 80, 4.0, 1024),
    "giant": (1408, 40, 88, 6144 / 1408, 1408),
}


def _released(generation: int, size: str, patch: int, px: int, num_params: int, protocol: str = "") -> Variant:
    width, blocks, head_width, mlp_ratio, embed_dim = _SIZES[size]
    repository = f"openvision-vit-{size}-patch{patch}-{px}" if generation == 1 else (
        f"openvision2-vit-{size}-patch{patch}-{px}-vision-only"
    )  # fmt: skip
    return Variant(
        name=f"{size}-{patch}-{px}",
        title=f"OpenVision{' 2' if generation == 2 else ''} ViT-{size}/{patch}, {px} px",
        protocol=protocol,
        weights=f"UCSC-VLAA/{repository}",
        licence="Apache-2.0 (github UCSC-VLAA/OpenVision)",
        training_data="Recap-DataComp-1B",
        objective="softmax contrastive + captioning" if generation == 1 else "captioning",
        resolution_px=px,
        num_tokens=(px // patch) ** 2,
        dim=width,
        depth=blocks,
        num_prefix=1,
        num_params=num_params,
        citation="arXiv 2505.04601" if generation == 1 else "arXiv 2509.01644",
        architecture={
            "embed_dim": embed_dim if generation == 1 else width,
            "vision_cfg": {
                "image_size": px,
                "patch_size": patch,
                "width": width,
                "layers": blocks,
                "head_width": head_width,
                "mlp_ratio": mlp_ratio,
                "no_ln_pre": True,
                "pool_type": "avg",
                "final_ln_after_pool": True,
            },
        },
        # preprocess_cfg of OpenVision 1; OpenVision 2's files have none, and its training normalises in the same way.
        input=PreprocessSpec(size=(px, px), resample="bilinear"),
        normalisation=IMAGENET,
        latent_tap=Tap(norm="layernorm", eps=1e-6),
    )


_OPTIONS = {
    "final_ln_after_pool": "true or false, where the weights' configuration does not say it",
    "positions": "bicubic: interpolate the stored positions for another size; stored: refuse one",
}

FAMILIES = (
    Family(
        key="ovis1",
        title="OpenVision",
        aliases=("openvision",),
        load=_load,
        options=_OPTIONS,
        variants=(
            _released(1, "large", 14, 224, 303_964_160, "released"),
            _released(1, "large", 14, 336, 304_291_840),
            _released(1, "base", 16, 224, 86_191_104),
            _released(1, "base", 16, 384, 86_482_944),
            _released(1, "so400m", 14, 384, 414_315_504),
            _released(1, "huge", 14, 224, 632_074_240),
        ),
    ),
    Family(
        key="ovis2",
        title="OpenVision 2",
        aliases=("openvision2",),
        load=_load,
        options=_OPTIONS,
        variants=(
            _released(2, "large", 14, 224, 304_226_304, "released"),
            _released(2, "large", 14, 336, 304_553_984),
            _released(2, "so400m", 14, 384, 414_315_504),
            _released(2, "huge", 14, 448, 633_384_960),
            _released(2, "giant", 14, 224, 1_013_183_488),
        ),
    ),
)
