"""Vision transformers of whole libraries: `timm`, `open_clip` and `hf` (transformers), by folder, hub id or name."""

from __future__ import annotations

from ovbench.encoders.base import Encoder, Family, LoadRequest, Variant


def _load_timm(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.timm_vit import load_timm

    return load_timm(request)


def _load_open_clip(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.open_clip_tower import load_open_clip

    return load_open_clip(request)


def _load_hf(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.hf_generic import load_hf

    return load_hf(request)


def _any(title: str) -> tuple[Variant, ...]:
    """Returns the one variant of a generic family: what it says depends on the weights that are named."""
    unknown = "see the model's card"
    return (
        Variant(
            name="any",
            title=title,
            origin="given",
            licence=unknown,
            training_data=unknown,
            objective=unknown,
            citation=unknown,
            resolution_px=0,
            num_tokens=0,
            dim=0,
        ),
    )


FAMILIES = (
    Family(
        key="timm",
        title="any plain ViT of timm",
        load=_load_timm,
        options={"model": "architecture, where the source is a file, or with weights=random:SEED"},
        variants=_any("a plain vision transformer of timm"),
    ),
    Family(
        key="open_clip",
        title="any image tower of open_clip",
        aliases=("openclip",),
        load=_load_open_clip,
        options={"model": "name in open_clip's list, with weights=random:SEED"},
        variants=_any("an image tower of open_clip"),
    ),
    Family(
        key="hf",
        title="any vision transformer of AutoModel",
        aliases=("transformers",),
        load=_load_hf,
        options={"prefix": "class and register tokens; counted by a trial run where not given"},
        variants=_any("a vision transformer of the transformers library"),
    ),
)
