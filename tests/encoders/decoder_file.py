"""Writes reconstruction decoders with seeded weights, in the layout of `ovbench pretrain`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from ovbench._base.paths import asset
from ovbench.encoders.modeling.frontend import load_tiny_vae
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.encoders.modeling.reconstruction_decoder import ReconstructionDecoder
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.modeling.vit import OpenVisionViT
from ovbench.encoders.registry import load_encoder
from ovbench.harness.checkpoint import save_tensors


def mini_trunk() -> OpenVisionViT:
    """The trunk of `ovis3/mini`."""
    return cast(OpenVisionViT, cast(TokenEncoder, load_encoder("ovis3/mini")).model)


def write_decoder(
    path: Path, *, seed: int = 0, layers: int = 1, header: Mapping[str, str] | None = None
) -> ReconstructionDecoder:
    """Writes a decoder of the embedded `ovis3/mini`, whose header is changed by `header`, and returns it."""
    trunk = mini_trunk()
    torch.manual_seed(seed)
    decoder = ReconstructionDecoder(trunk.config, layers)
    stored = {key: value.to(torch.bfloat16) for key, value in decoder.state_dict().items()}
    metadata = {
        "recipe": "ovis3",
        "config": json.dumps(decoder.describe()),
        "trunk": weights_digest(trunk),
        "vae": weights_digest(load_tiny_vae(asset("encoders/vae-mini.safetensors"))),
    }
    save_tensors(path, stored, {**metadata, **(header or {})})
    decoder.load_state_dict({key: value.float() for key, value in stored.items()})
    return decoder.eval().requires_grad_(False)
