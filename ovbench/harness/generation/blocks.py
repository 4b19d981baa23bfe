"""Blocks of the diffusion transformers: norms, attention, MLPs, adaptive modulation and the last layer.

Source: github.com/bytetriper/RAE, src/stage2/models/model_utils.py and lightningDiT.py (after arXiv 2501.01423 and
2212.09748); module names are those of the official checkpoints.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.encoders.modeling.vit import attend
from ovbench.harness.generation.config import Stage2Config, mlp_width
from ovbench.harness.generation.embeddings import RotaryPositions

NORM_EPS = 1e-6  # of every norm but LayerNorm on queries and keys


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + 1e-6) in float32, times a weight per channel."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Norms the last dimension."""
        wide = x.float()
        return (wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + NORM_EPS)).to(x.dtype) * self.weight


def _token_norm(config: Stage2Config, width: int) -> nn.Module:
    return RMSNorm(width) if config.use_rmsnorm else nn.LayerNorm(width, eps=NORM_EPS, elementwise_affine=False)


def _head_norm(config: Stage2Config, width: int) -> nn.Module:
    if not config.use_qknorm:
        return nn.Identity()
    return RMSNorm(width) if config.use_rmsnorm else nn.LayerNorm(width, eps=1e-5)


class Attention(nn.Module):
    """Multi-head self-attention with rotary positions and, where asked for, normed queries and keys."""

    def __init__(self, config: Stage2Config, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.q_norm = _head_norm(config, width // heads)
        self.k_norm = _head_norm(config, width // heads)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: RotaryPositions | None) -> Tensor:
        """Turns [B, N, C] into [B, N, C]."""
        qkv = self.qkv(x).unflatten(-1, (3, self.heads, -1))  # [B, N, 3, heads, d]
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = self.q_norm(q), self.k_norm(k)
        if rope is not None:
            q, k = rope(q), rope(k)
        return self.proj(attend(q.to(v.dtype), k.to(v.dtype), v).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, GELU (tanh), Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Turns [..., C] into [..., C]."""
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class SwiGLU(nn.Module):
    """silu(a) * b, then Linear; `w12` gives a and b (arXiv 2002.05202).

    The hidden width can be padded with zeros to a multiple, because tensor cores want multiples of 8 and DiT-DH's head
    has 5461. The outputs are the same up to the order of sums, the padding has no gradient and stays zero, and
    the state dict is the one without padding.
    """

    def __init__(self, width: int, hidden: int, *, multiple: int = 1) -> None:
        super().__init__()
        self.hidden = hidden
        self.padded = -(-hidden // multiple) * multiple
        self.w12 = nn.Linear(width, 2 * self.padded)
        self.w3 = nn.Linear(self.padded, width)
        if self.padded != hidden:
            self.register_state_dict_post_hook(_crop)
            self.register_load_state_dict_pre_hook(_pad)
            self.load_state_dict(self.state_dict())  # the padding becomes zero

    def forward(self, x: Tensor) -> Tensor:
        """Turns [..., C] into [..., C]."""
        a, b = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(a) * b)


def _crop(module: SwiGLU, state: dict[str, Tensor], prefix: str, local_metadata: dict[str, Any]) -> None:
    """Takes the padding out of a state dict: `w12` is [a, 0, b, 0] along its rows, `w3` [w, 0] along its columns."""
    for name in ("w12.weight", "w12.bias"):
        a, b = state[prefix + name].chunk(2)
        state[prefix + name] = torch.cat([a[: module.hidden], b[: module.hidden]])
    state[f"{prefix}w3.weight"] = state[f"{prefix}w3.weight"][:, : module.hidden].contiguous()


def _pad(module: SwiGLU, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Puts zeros into a state dict; tensors of another width are left as they are, for the loader to refuse."""
    extra = module.padded - module.hidden
    for name in ("w12.weight", "w12.bias"):
        dense = state.get(prefix + name)
        if dense is not None and len(dense) == 2 * module.hidden:
            halves = dense.unflatten(0, (2, module.hidden))
            state[prefix + name] = F.pad(halves, (0, 0) * (halves.ndim - 2) + (0, extra)).flatten(0, 1)
    dense = state.get(f"{prefix}w3.weight")
    if dense is not None and dense.shape[1] == module.hidden:
        state[f"{prefix}w3.weight"] = F.pad(dense, (0, extra))


def _modulation(width: int, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), nn.Linear(width, parts * width))


def modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns x * (1 + scale) + shift; shift and scale are [B, 1, C] or [B, N, C]."""
    return x * (1 + scale) + shift


class Block(nn.Module):
    """Transformer block whose norms are modulated by a condition (adaLN-Zero, arXiv 2212.09748, section 3.2)."""

    def __init__(self, config: Stage2Config, width: int, heads: int, *, swiglu_multiple: int = 1) -> None:
        super().__init__()
        self.norm1 = _token_norm(config, width)
        self.attn = Attention(config, width, heads)
        self.norm2 = _token_norm(config, width)
        hidden = mlp_width(width, config.mlp_ratio, swiglu=config.use_swiglu)
        self.mlp = SwiGLU(width, hidden, multiple=swiglu_multiple) if config.use_swiglu else MLP(width, hidden)
        self.adaLN_modulation = _modulation(width, 6)

    def forward(self, x: Tensor, condition: Tensor, rope: RotaryPositions | None, rows: Tensor | None = None) -> Tensor:
        """Turns tokens [B, N, C] into [B, N, C].

        Args:
            x: Tokens.
            condition: [B, 1, C] for all tokens alike or [B, N, C]; [K, 1, C] together with `rows`.
            rope: Rotary positions.
            rows: int64 [B]: image b has the condition `rows[b]`, whose modulation is computed once.
        """
        parts = self.adaLN_modulation(condition)
        shift1, scale1, gate1, shift2, scale2, gate2 = (parts if rows is None else parts[rows]).chunk(6, dim=-1)
        x = x + gate1 * self.attn(modulate(self.norm1(x), shift1, scale1), rope)
        return x + gate2 * self.mlp(modulate(self.norm2(x), shift2, scale2))


class FinalLayer(nn.Module):
    """Modulated norm and a linear layer to the values of a patch."""

    def __init__(self, config: Stage2Config, width: int) -> None:
        super().__init__()
        self.norm_final = _token_norm(config, width)
        self.linear = nn.Linear(width, config.patch_size**2 * config.out_channels)
        self.adaLN_modulation = _modulation(width, 2)

    def forward(self, x: Tensor, condition: Tensor, rows: Tensor | None = None) -> Tensor:
        """Turns tokens [B, N, C] into [B, N, p * p * channels]; condition and rows as in `Block`."""
        parts = self.adaLN_modulation(condition)
        shift, scale = (parts if rows is None else parts[rows]).chunk(2, dim=-1)
        return self.linear(modulate(self.norm_final(x), shift, scale))
