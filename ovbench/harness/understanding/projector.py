"""Maps visual tokens into the language model's embedding space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import nn

from ovbench._base.errors import DataError
from ovbench._base.names import lookup
from ovbench._base.seeding import derive


def _mlp2x_gelu(dim: int, width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))


def _linear(dim: int, width: int) -> nn.Module:
    return nn.Linear(dim, width)


_KINDS = {"mlp2x_gelu": _mlp2x_gelu, "linear": _linear}
_KEYS: Mapping[Literal["mlp2x_gelu", "linear"], set[str]] = {
    "mlp2x_gelu": {"0.weight", "0.bias", "2.weight", "2.bias"},
    "linear": {"weight", "bias"},
}


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


def projector_widths(projector: nn.Module) -> tuple[int, int]:
    """Returns the width of the tokens that a projector reads, and of those that it writes.

    Its layers are looked at and not called, so that this holds for one that is spread over processes, too.
    """
    layers = [module for module in projector.modules() if isinstance(module, nn.Linear)]
    assert layers, f"a projector of {type(projector).__name__} has no linear layer"
    return layers[0].in_features, layers[-1].out_features


def stored_kind(state: Mapping[str, torch.Tensor], *, where: str) -> Literal["mlp2x_gelu", "linear"]:
    """Returns what kind of projector some tensors are of.

    Raises:
        DataError: Of none that is known; the keys are named.
    """
    for kind, keys in _KEYS.items():
        if set(state) == keys:
            return kind
    raise DataError(
        f"the projector's keys are of no known kind: {', '.join(sorted(state)[:8]) or 'there are none'}",
        where=where,
        fix="ovbench knows mlp2x_gelu (0.weight, 0.bias, 2.weight, 2.bias) and linear (weight, bias)",
    )


def stored_widths(state: Mapping[str, torch.Tensor], *, where: str) -> tuple[int, int]:
    """Returns the width of the tokens that a stored projector reads, and of those that it writes."""
    names = ("0.weight", "2.weight") if stored_kind(state, where=where) == "mlp2x_gelu" else ("weight", "weight")
    return int(state[names[0]].shape[-1]), int(state[names[1]].shape[0])


def check_projector(state: Mapping[str, torch.Tensor], dim: int, width: int, *, where: str) -> None:
    """Refuses a stored projector of another kind or width.

    Args:
        state: Its tensors, under the module's own keys.
        dim: Width of the visual tokens.
        width: Width of the language model.
        where: The file or folder, for the message.

    Raises:
        DataError: It is; both numbers are named.
    """
    found_dim, found_width = stored_widths(state, where=where)
    if found_dim != dim:
        raise DataError(
            f"the weights do not fit the model: the projector reads visual tokens of width {found_dim}, "
            f"and the encoder's have {dim}",
            where=where,
            fix="use the encoder that it was trained with (--encoder)",
        )
    if found_width != width:
        raise DataError(
            f"the weights do not fit the model: the projector writes embeddings of width {found_width}, "
            f"and the language model's have {width}",
            where=where,
            fix="use the language model that it was trained with (--llm)",
        )
