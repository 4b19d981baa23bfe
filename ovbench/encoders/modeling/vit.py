"""OpenVision's ViT: one trunk for OpenVision 1, 2 and 3 and for the miniature encoders.

Key names and the forward pass follow github UCSC-VLAA/OpenVision,
src/convert_upload/open_clip/transformer.py (commit 6c24e45).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import suggest
from ovbench.encoders.modeling.weights_file import check_finite, refuse_misfit


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTConfig:
    """Architecture, in the words of open_clip's `vision_cfg`."""

    in_channels: int = 3  # 3 pixels, 16 VAE latents
    image_size: int = 224  # side of the input grid: pixels, or latents
    patch_size: int = 16  # in input cells
    width: int = 768
    layers: int = 12
    head_width: int = 64
    mlp_ratio: float = 4.0
    embed_dim: int = 768  # of the pooled output
    no_ln_pre: bool = True
    pool_type: str = "avg"  # avg: mean of the patches; tok: the class token
    final_ln_after_pool: bool = True  # true: tokens are the un-normalised residual stream
    eps: float = 1e-6  # of every LayerNorm, whatever the file says (as in the reference)

    def __post_init__(self) -> None:
        for name in ("in_channels", "image_size", "patch_size", "width", "layers", "head_width", "embed_dim"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(f"{name} must be a whole number from 1, got {value!r}", where="vision_cfg")
        for name in ("no_ln_pre", "final_ln_after_pool"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} must be true or false, got {getattr(self, name)!r}", where="vision_cfg")
        if not isinstance(self.mlp_ratio, int | float) or self.mlp_width < 1:
            raise ConfigError(f"mlp_ratio must be a positive number, got {self.mlp_ratio!r}", where="vision_cfg")
        if self.image_size < self.patch_size:
            raise ConfigError(
                f"image size {self.image_size} does not hold one patch of {self.patch_size}", where="vision_cfg"
            )
        if self.width % self.head_width:
            raise ConfigError(
                f"width {self.width} is not a multiple of head_width {self.head_width}", where="vision_cfg"
            )
        if self.width % 4:
            raise ConfigError(f"width {self.width} is not a multiple of 4 (sin-cos positions)", where="vision_cfg")
        if self.pool_type not in ("avg", "tok"):
            raise ConfigError(f"unknown pool_type '{self.pool_type}'", where="vision_cfg", fix="use 'avg' or 'tok'")

    @property
    def grid(self) -> int:
        """Tokens along one side."""
        return self.image_size // self.patch_size

    @property
    def heads(self) -> int:
        """Attention heads."""
        return self.width // self.head_width

    @property
    def mlp_width(self) -> int:
        """Width of the hidden layer of each MLP."""
        return int(self.width * self.mlp_ratio)


# They change no token: the position table is stored, and the reference gives every LayerNorm its own epsilon.
_IGNORED_KEYS = {"output_tokens", "pos_embed_type", "norm_kwargs"}


def read_open_clip_config(
    document: Mapping[str, Any], *, where: str, final_ln_after_pool: bool | None = None
) -> ViTConfig:
    """Reads the vision tower of an `open_clip_config.json`.

    Args:
        document: The parsed file, with `model_cfg` at the top.
        where: Path of the file, for messages.
        final_ln_after_pool: Stands in where the file does not say it; None: the file must.

    Raises:
        ConfigError: `final_ln_after_pool` was given and contradicts the file.
        DataError: `final_ln_after_pool` is absent (it decides whether tokens are normalised, and a wrong guess changes
            every result without an error), a key of `vision_cfg` is not known, or a value cannot be used.
    """
    model = document.get("model_cfg", document)
    vision = model.get("vision_cfg") if isinstance(model, Mapping) else None
    if not isinstance(model, Mapping) or not isinstance(vision, Mapping):
        raise DataError("no vision_cfg in the configuration", where=where, fix="use an open_clip_config.json")
    vision = dict(vision)
    stated = vision.get("final_ln_after_pool")  # null says as little as nothing
    if final_ln_after_pool is not None:
        if stated not in (None, final_ln_after_pool):
            raise ConfigError(
                f"final_ln_after_pool={str(final_ln_after_pool).lower()} contradicts the weights' own configuration",
                where=where,
                fix="leave the option out",
            )
        vision["final_ln_after_pool"] = final_ln_after_pool
    elif stated is None:
        raise DataError(
            "vision_cfg does not say final_ln_after_pool",
            where=where,
            fix="add it to the file, or to the encoder: ?final_ln_after_pool=true (all released OpenVision have true)",
        )
    if model.get("quick_gelu") or vision.pop("act_kwargs", None):
        raise DataError(
            "the configuration asks for another activation (quick_gelu or act_kwargs), and OpenVision's ViT has the "
            "exact GELU",
            where=where,
            fix="use the generic family for other models of open_clip: --encoder open_clip:…",
        )
    known = set(ViTConfig.__dataclass_fields__) - {"embed_dim", "eps"}
    for key in sorted(set(vision) - known - _IGNORED_KEYS):
        near = suggest(key, known)
        raise DataError(
            f"unknown key '{key}' in vision_cfg", where=where, fix=f"did you mean '{near}'?" if near else ""
        )
    if "embed_dim" not in model:
        raise DataError("model_cfg does not say embed_dim", where=where, fix="use the file that belongs to the weights")
    fields = {key: value for key, value in vision.items() if key in known}
    try:
        return ViTConfig(embed_dim=model["embed_dim"], **fields)
    except ConfigError as error:
        raise DataError(f"the configuration cannot be used: {error.what}", where=where, fix=error.fix) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(f"the configuration cannot be used: {type(error).__name__}: {error}", where=where) from error


def sincos_positions(width: int, grid: int) -> Tensor:
    """Returns the fixed position table [grid * grid, width]: sin x, cos x, sin y, cos y (MoCo-v3 / big_vision kind).

    Frequencies are 10000^(-j / (width / 4 - 1)); rows are in raster order (OpenVision src/models/vit.py).
    """
    quarter = width // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64) / max(1, quarter - 1))
    y, x = torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")
    angle_x, angle_y = (axis.reshape(-1, 1).double() * omega for axis in (x, y))
    return torch.cat([angle_x.sin(), angle_x.cos(), angle_y.sin(), angle_y.cos()], dim=1).float()


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention over [B, heads, T, d]; `mask` is True where attention is allowed.

    Trap: on CPU in bfloat16 torch's fused kernel is several times slower than plain matrix products at these sizes.
    """
    if q.device.type != "cpu" or q.dtype == torch.float32:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    scores = (q @ k.transpose(-2, -1)).float() / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    return scores.softmax(dim=-1).to(v.dtype) @ v


class Attention(nn.Module):
    """Multi-head self-attention with the key names of `torch.nn.MultiheadAttention`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turns [B, T, C] into [B, T, C]; `mask` is True where attention is allowed."""
        batch, length, width = x.shape
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        return self.out_proj(attend(q, k, v, mask).transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """Linear, exact GELU, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, hidden)
        self.c_proj = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Turns [..., C] into [..., C]."""
        return self.c_proj(F.gelu(self.c_fc(x)))


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, width: int, heads: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=eps)
        self.mlp = MLP(width, mlp_width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turns [B, T, C] into [B, T, C]."""
        x = x + self.attn(self.ln_1(x), mask)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """A stack of blocks under the key `resblocks`."""

    def __init__(self, width: int, layers: int, heads: int, mlp_width: int, eps: float) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, mlp_width, eps) for _ in range(layers))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Turns [B, T, C] into [B, T, C], block after block."""
        for block in self.resblocks:
            x = block(x, mask)
        return x


@dataclass(frozen=True, kw_only=True, slots=True)
class ViTOutput:
    """What the trunk returns."""

    tokens: Tensor  # [B, N, C], raster order, as the model publishes them
    pooled: Tensor  # [B, E]
    hidden: tuple[Tensor, ...]  # residual stream h[0] … h[L], each [B, 1 + N, C]; empty unless asked for


class OpenVisionViT(nn.Module):
    """ViT on pixels or on VAE latents, with a class token and a stored position table."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        self.class_embedding = nn.Parameter(torch.randn(width) * width**-0.5)
        table = torch.cat([torch.zeros(1, width), sincos_positions(width, config.grid)])
        self.positional_embedding = nn.Parameter(table, requires_grad=False)
        self.conv1 = nn.Conv2d(config.in_channels, width, config.patch_size, config.patch_size, bias=False)
        if not config.no_ln_pre:
            self.ln_pre = nn.LayerNorm(width, eps=config.eps)
        self.transformer = Transformer(width, config.layers, config.heads, config.mlp_width, config.eps)
        self.ln_post = nn.LayerNorm(width, eps=config.eps)
        self.proj = nn.Parameter(torch.randn(width, config.embed_dim) * width**-0.5)

    def forward(self, x: Tensor, *, positions: Tensor | None = None, keep_hidden: bool = False) -> ViTOutput:
        """Runs the trunk.

        Args:
            x: [B, in_channels, S, S], already normalised.
            positions: Rows of the position table for each token, int64 [B, N] in 0…grid²-1. Given in low-resolution
                training, where a sample is a part of the full grid; by default the input must have the full size.
            keep_hidden: Also return the residual stream after every block.

        Raises:
            ConfigError: The input has another size and no positions were given; the table is never resized silently.
        """
        config = self.config
        if positions is None and tuple(x.shape[-2:]) != (config.image_size, config.image_size):
            raise ConfigError(
                f"the encoder takes {config.image_size} x {config.image_size} inputs, got {tuple(x.shape[-2:])}",
                where="OpenVisionViT.forward",
                fix="resize the picture first; the position table is not interpolated",
            )
        tokens = self.conv1(x).flatten(2).transpose(1, 2)  # [B, N, C]
        table = self.positional_embedding
        rows = table[1:] if positions is None else table[positions + 1]
        cls = (self.class_embedding + table[0]).expand(len(tokens), 1, -1)
        h = torch.cat([cls, tokens + rows], dim=1)  # [B, 1 + N, C]
        if not config.no_ln_pre:
            h = self.ln_pre(h)
        hidden = [h]
        for block in self.transformer.resblocks:
            h = block(h)
            if keep_hidden:
                hidden.append(h)
        y = h if config.final_ln_after_pool else self.ln_post(h)
        pooled = y[:, 1:].mean(dim=1) if config.pool_type == "avg" else y[:, 0]
        if config.final_ln_after_pool:
            pooled = self.ln_post(pooled)
        return ViTOutput(tokens=y[:, 1:], pooled=pooled @ self.proj, hidden=tuple(hidden) if keep_hidden else ())


def strip_visual_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the vision tower's entries: without the prefix `visual.` if any key has it, else all."""
    if any(key.startswith("visual.") for key in state):
        return {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
    return dict(state)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], *, where: str) -> None:
    """Loads weights; every key is used and every parameter filled.

    Raises:
        DataError: Missing, unexpected, wrongly shaped or non-finite entries, named.
    """
    expected = module.state_dict()
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    shapes = [
        f"{key}: {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in sorted(set(expected) & set(state))
        if expected[key].shape != state[key].shape
    ]
    refuse_misfit({"missing": missing, "unexpected": extra, "wrong shape": shapes}, where=where)
    check_finite(state, where=where)
    module.load_state_dict({key: value.float() if value.is_floating_point() else value for key, value in state.items()})
