"""The layout of diffusers' `AutoencoderRAE`: settings, key names, and the encoders that it builds.

Checked against diffusers 0.42.1, models/autoencoders/autoencoder_rae.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling.sources import read_json_file
from ovbench.harness.generation.decoder_config import DecoderConfig

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
VERSION = "0.42.1"  # of diffusers, whose layout this is
DECODER_EPS = 1e-12  # of its decoder's LayerNorms
_NAMES = {
    ".attention.to_q.": ".attention.attention.query.",
    ".attention.to_k.": ".attention.attention.key.",
    ".attention.to_v.": ".attention.attention.value.",
    ".attention.to_out.0.": ".attention.output.dense.",
}  # diffusers' → RAE's
DEFAULTS: Mapping[str, Any] = {
    "encoder_type": "dinov2", "encoder_hidden_size": 768, "encoder_patch_size": 14, "encoder_num_hidden_layers": 12,
    "decoder_hidden_size": 512, "decoder_num_hidden_layers": 8, "decoder_num_attention_heads": 16,
    "decoder_intermediate_size": 2048, "patch_size": 16, "encoder_input_size": 224, "image_size": None,
    "num_channels": 3, "encoder_norm_mean": None, "encoder_norm_std": None, "latents_mean": None, "latents_std": None,
    "noise_tau": 0.0, "reshape_to_2d": True, "use_encoder_loss": False, "scaling_factor": 1.0,
}  # fmt: skip
_COUNTS = (
    "encoder_hidden_size", "encoder_patch_size", "encoder_num_hidden_layers", "encoder_input_size",
    "decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads", "decoder_intermediate_size",
    "patch_size", "num_channels",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Tower:
    """An encoder as diffusers builds it; it takes no other sizes."""

    spec: str  # of ovbench
    fields: Mapping[str, Any]  # of transformers' configuration, beside those of config.json
    final_norm: str  # whose affine the files do not hold
    exported: str = ""  # class of transformers; empty: diffusers cannot build it with transformers 5


TOWERS: Mapping[str, Tower] = {
    "dinov2": Tower(
        spec="dinov2/base-reg",
        fields={
            "model_type": "dinov2_with_registers", "image_size": 518, "mlp_ratio": 4, "num_register_tokens": 4,
            "layer_norm_eps": 1e-6, "hidden_act": "gelu", "qkv_bias": True, "use_swiglu_ffn": False,
        },
        final_norm="layernorm",
        exported="Dinov2WithRegistersModel",
    ),
    "siglip2": Tower(
        spec="siglip2/base-256",
        fields={
            "model_type": "siglip_vision_model", "image_size": 256, "intermediate_size": 3072, "layer_norm_eps": 1e-6,
            "hidden_act": "gelu_pytorch_tanh",
        },
        final_norm="post_layernorm",
    ),
    "mae": Tower(
        spec="mae/base-256",
        fields={
            "model_type": "vit_mae", "image_size": 224, "intermediate_size": 3072, "layer_norm_eps": 1e-12,
            "hidden_act": "gelu", "qkv_bias": True,
        },
        final_norm="layernorm",
        exported="ViTMAEModel",
    ),
}  # fmt: skip


def tower_config(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns transformers' configuration of an encoder as diffusers builds it: heads are 64 wide."""
    width = int(config["encoder_hidden_size"])
    return {
        **TOWERS[kind].fields,
        "hidden_size": width,
        "num_hidden_layers": int(config["encoder_num_hidden_layers"]),
        "num_attention_heads": max(1, width // 64),
        "patch_size": int(config["encoder_patch_size"]),
    }


def decoder_config_of(config: Mapping[str, Any], *, where: str) -> DecoderConfig:
    """Returns the decoder's architecture of an `AutoencoderRAE` configuration with defaults filled in.

    Raises:
        DataError: The numbers do not fit each other.
    """
    side, patch = config["encoder_input_size"], config["encoder_patch_size"]
    grid = side // patch
    if side % patch or config["image_size"] not in (None, grid * config["patch_size"]):
        raise DataError(
            f"sizes do not fit: encoder_input_size {side}, encoder_patch_size {patch}, patch_size "
            f"{config['patch_size']}, image_size {config['image_size']}",
            where=where,
            fix="image_size is patch_size * encoder_input_size / encoder_patch_size",
        )
    try:
        return DecoderConfig(
            latent_dim=config["encoder_hidden_size"],
            num_patches=grid * grid,
            patch_px=config["patch_size"],
            width=config["decoder_hidden_size"],
            depth=config["decoder_num_hidden_layers"],
            num_heads=config["decoder_num_attention_heads"],
            mlp_width=config["decoder_intermediate_size"],
            num_channels=config["num_channels"],
        )
    except ConfigError as error:
        raise DataError(error.what, where=where, fix=error.fix) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Returns a folder's config.json with diffusers' defaults filled in, checked.

    Raises:
        DataError: It is missing or damaged, is of another class, or cannot be used.
    """
    where = folder / "config.json"
    document = read_json_file(where, fix="name an AutoencoderRAE folder")
    kind = document.get("_class_name")
    if kind != "AutoencoderRAE":
        raise DataError(f"the configuration is of the class '{kind}', not 'AutoencoderRAE'", where=str(where))
    config = {**DEFAULTS, **{key: value for key, value in document.items() if not key.startswith("_")}}
    if extra := sorted(set(config) - set(DEFAULTS)):
        raise DataError(
            f"the configuration has unknown settings: {', '.join(extra)}",
            where=str(where),
            fix=f"ovbench knows those of diffusers {VERSION}",
        )
    if bad := [key for key in _COUNTS if type(config[key]) is not int or config[key] < 1]:
        raise DataError(f"'{bad[0]}' must be a whole number from 1, got {config[bad[0]]!r}", where=str(where))
    if config["encoder_type"] not in TOWERS:
        raise DataError(
            f"unknown encoder_type '{config['encoder_type']}'", where=str(where), fix=f"known: {', '.join(TOWERS)}"
        )
    if config["reshape_to_2d"] is not True:
        raise DataError("the latents are no maps (reshape_to_2d is off)", where=str(where), fix="ovbench reads maps")
    if not isinstance(config["scaling_factor"], int | float) or not config["scaling_factor"] > 0:
        raise DataError(f"'scaling_factor' must be positive, got {config['scaling_factor']!r}", where=str(where))
    return config


def official_key(key: str) -> str:
    """Returns RAE's name of one of diffusers' decoder keys."""
    key = key.removeprefix("decoder.")
    for theirs, ours in _NAMES.items():
        key = key.replace(theirs, ours)
    return key


def diffusers_key(key: str) -> str:
    """Returns diffusers' name of one of RAE's decoder keys."""
    for theirs, ours in _NAMES.items():
        key = key.replace(ours, theirs)
    return key
