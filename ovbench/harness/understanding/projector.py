"""Maps visual tokens into the language model's embedding space."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from ovbench._base.names import lookup
from ovbench._base.seeding import derive


def _mlp2x_gelu(dim: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))


def _linear(dim: int, width: int) -> nn.Module:
    return nn.Linear(dim, width)


_KINDS = {"mlp2x_gelu": _mlp2x_gelu, "linear": _linear}


def build_projector(kind: Literal["mlp2x_gelu", "linear"], dim: int, width: int, *, seed: int) -> nn.Module:
    """Returns a projector, `[B, N, dim]` → `[B, N, width]`, with torch's default initialisation.

    Source: llava/model/multimodal_projector/builder.py (exact GELU, biases).

    Args:
        kind: `mlp2x_gelu` is LLaVA-1.5's.
        dim: Width of the visual tokens.
        width: Width of the language model.
        seed: The initialisation depends on it alone.
    """
    build = lookup(_KINDS, kind, kind="projector", where="projector")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "llava/projector"))
        return build(dim, width)
