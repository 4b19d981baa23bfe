"""Configurations of released VAEs, in the words of diffusers' `AutoencoderKL`: what `weights=random:SEED` builds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COMMON: Mapping[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [128, 256, 512, 512],
    "layers_per_block": 2,
    "act_fn": "silu",
    "norm_num_groups": 32,
    "force_upcast": True,
}
_SIXTEEN: Mapping[str, Any] = {
    **_COMMON,
    "latent_channels": 16,
    "sample_size": 1024,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
# Scaling and shift: FLUX from the hub's page of its VAE, SD is diffusers' default, SD3 as its pipelines have it (the
# released vae/config.json was not at hand; loaded folders bring their own).
SD_VAE: Mapping[str, Any] = {**_COMMON, "latent_channels": 4, "sample_size": 256, "scaling_factor": 0.18215}
SD3_VAE: Mapping[str, Any] = {**_SIXTEEN, "scaling_factor": 1.5305, "shift_factor": 0.0609}
FLUX_VAE: Mapping[str, Any] = {**_SIXTEEN, "scaling_factor": 0.3611, "shift_factor": 0.1159}
