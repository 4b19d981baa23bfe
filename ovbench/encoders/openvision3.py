"""OpenVision 3 (arXiv 2601.15369): VAE latents → ViT tokens, one representation for understanding and generation."""

from __future__ import annotations

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import Encoder, Family, LoadRequest, PreprocessSpec, Tap, Variant


def _load(request: LoadRequest) -> Encoder:
    from ovbench.encoders.modeling.trunk import load_released, load_trunk

    if request.variant.name == "mini":
        return load_trunk(request)
    if "decoder" in request.options:
        raise ConfigError(
            f"the option 'decoder' has no effect on {request.name}, whose pixel decoder is not released",
            where="--encoder …?decoder=",
            fix="leave it out: a decoder is trained on its latents (decoder: rae)",
        )
    return load_released(request)


_SIZES = {"base": (768, 12), "large": (1024, 24)}  # width, blocks


def _released(size: str, px: int, num_params: int, protocol: str = "") -> Variant:
    width, blocks = _SIZES[size]
    return Variant(
        name=f"{size}-{px}",
        title=f"OpenVision 3 ViT-{size[0].upper()}/2 behind the FLUX.1 VAE, {px} px",
        protocol=protocol,
        weights=f"UCSC-VLAA/openvision3-vit-{size}-patch2-{px // 8}",  # the name has the latents' side, not pixels
        frontend="Letian2003/black-forest-labs_FLUX.1-dev_vae",  # as the official script has it
        licence="Apache-2.0 (github UCSC-VLAA/OpenVision); its VAE: FLUX.1 [dev] non-commercial",
        training_data="Recap-DataComp-1B",
        objective="reconstruction + softmax contrastive + captioning",
        resolution_px=px,
        num_tokens=(px // 16) ** 2,
        dim=width,
        depth=blocks,
        num_prefix=1,
        num_params=num_params,
        num_params_frontend=83_819_683,
        citation="arXiv 2601.15369 (released in January 2026: probably the models of v1)",
        # What the released configuration is known or inferred to say; used for untrained weights alone, and the size of
        # the pooled output (embed_dim) of L is not known.
        architecture={
            "embed_dim": width,
            "vision_cfg": {
                "in_channels": 16,
                "image_size": px // 8,
                "patch_size": 2,
                "width": width,
                "layers": blocks,
                "head_width": 64,
                "no_ln_pre": True,
                "pool_type": "avg",
                "final_ln_after_pool": True,
            },
        },
        input=PreprocessSpec(size=(px, px)),
        latent_tap=Tap(norm="layernorm", eps=1e-6),
    )


FAMILIES = (
    Family(
        key="ovis3",
        title="OpenVision 3",
        aliases=("openvision3",),
        load=_load,
        options={
            "decoder": "file of the pixel decoder that `ovbench pretrain` trained together with a mini's weights",
            "vae": "folder or ID@COMMIT of the FLUX.1 VAE (diffusers layout)",
            "latent_shift": "true: subtract the VAE's shift, which the official script does not",
            "final_ln_after_pool": "true or false, where the weights' configuration does not say it",
            "positions": "bicubic: interpolate the stored positions for another size; stored: refuse one",
        },
        variants=(
            Variant(
                name="mini",
                title="OpenVision 3 objective, miniature trunk behind a small VAE",
                protocol="mini",
                origin="embedded",
                weights="encoders/ovis3-mini.safetensors",
                frontend="encoders/vae-mini.safetensors",
                licence="Apache-2.0",
                training_data="garment world (Fashion-MNIST photographs, Expat licence)",
                objective="reconstruction + softmax contrastive + captioning",
                resolution_px=64,
                num_tokens=64,
                dim=128,
                depth=4,
                num_prefix=1,
                num_params=826_368,
                num_params_frontend=473_804,
                citation="arXiv 2601.15369v2 (objective); weights trained by ovbench",
                latent_tap=Tap(norm="layernorm", eps=1e-6),
            ),
            _released("base", 256, 85_893_120, "released"),
            _released("large", 256, 303_689_728),
            _released("base", 224, 85_847_040),
        ),
    ),
)
