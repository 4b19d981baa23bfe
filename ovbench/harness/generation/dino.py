"""The discriminator's backbone: a frozen DINO vision transformer (arXiv 2104.14294), read from a local file.

Source of its form: github.com/bytetriper/RAE, src/disc/dinodisc.py. Published files that are read: Facebook's
`dino_deitsmall8_pretrain.pth` (RAE's `dino_vit_small_patch8_224.pth` has the same keys), timm's
`vit_small_patch8_224.dino` and transformers' `facebook/dino-vits8`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling.frontend import freeze
from ovbench.encoders.modeling.sources import find_file, read_state
from ovbench.encoders.modeling.vit import load_strict
from ovbench.encoders.preprocess import IMAGENET
from ovbench.harness.generation.decoder_config import DinoConfig

FILES = ("model.safetensors", "pytorch_model.bin")
_TRANSFORMERS = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection": "patch_embed.proj",
    "layernorm": "norm",
}  # transformers' names outside the blocks → timm's
_TRANSFORMERS_BLOCK = {
    "layernorm_before": "norm1", "layernorm_after": "norm2", "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2",
}  # fmt: skip


class _Attention(nn.Module):
    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))


class _MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        # Trap: DINO was trained with the exact GELU; the reference runs it with the tanh form, and so do its heads.
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class _Block(nn.Module):
    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attn = _Attention(config.width, config.num_heads)
        self.norm2 = nn.LayerNorm(config.width, eps=config.eps)
        self.mlp = _MLP(config.width, round(config.width * config.mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class _PatchEmbed(nn.Module):
    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, config.width, config.patch_px, stride=config.patch_px)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class FrozenDino(nn.Module):
    """Pictures in [-1, 1] → patch tokens of some blocks. Frozen; gradients pass through to the picture.

    Args:
        config: Architecture; built untrained, `load_dino` fills it.
    """

    x_scale: Tensor
    x_shift: Tensor

    def __init__(self, config: DinoConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = _PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.width))
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=config.eps)  # of the published weights; the taps lie before it
        mean, std = torch.tensor(IMAGENET.mean), torch.tensor(IMAGENET.std)
        # ((x + 1) / 2 - mean) / std = x_scale * x + x_shift
        self.register_buffer("x_scale", (0.5 / std).view(1, 3, 1, 1))
        self.register_buffer("x_shift", ((0.5 - mean) / std).view(1, 3, 1, 1))
        freeze(self)

    def train(self, mode: bool = True) -> Self:
        """Does nothing: the backbone is frozen."""
        del mode
        return super().train(False)

    def forward(self, images_pm1: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Returns outputs of blocks without their class token, each [B, width, N], in float32.

        Args:
            images_pm1: [B, 3, H, W] in [-1, 1], of any size: resized (bilinear, corners not aligned).
            taps: Blocks, in the order of the result.

        Raises:
            ConfigError: Not a batch of RGB pictures.
        """
        if images_pm1.ndim != 4 or images_pm1.shape[1] != 3:
            raise ConfigError(f"pictures must be [B, 3, H, W], got {list(images_pm1.shape)}", where="discriminator")
        side = (self.config.input_px, self.config.input_px)
        x = F.interpolate(images_pm1.float(), size=side, mode="bilinear", align_corners=False)
        x = self.patch_embed(self.x_scale * x + self.x_shift)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1) + self.pos_embed
        kept: dict[int, Tensor] = {}
        for index, block in enumerate(self.blocks[: 1 + max(taps)]):
            x = block(x)
            if index in taps:
                kept[index] = x[:, 1:].transpose(1, 2).float()
        return [kept[index] for index in taps]


def load_dino(path: Path, config: DinoConfig | None = None) -> FrozenDino:
    """Returns the frozen backbone of a file in one of the published layouts, loaded strictly.

    The bias of the keys is set to 0, as the reference does; attention does not depend on it.

    Args:
        path: `.pth`, `.bin` or `.safetensors`, or a folder that holds `model.safetensors` or `pytorch_model.bin`.
        config: Architecture; None: DINO ViT-S/8.

    Raises:
        DataError: The file is missing or damaged, or of another architecture.
    """
    chosen = config or DinoConfig()
    file = find_file(path, FILES) if path.is_dir() else path
    state = _renamed(read_state(file))
    with torch.random.fork_rng(devices=[]):  # the caller's generator is left alone by the initial weights
        dino = FrozenDino(chosen)
    state = {"x_scale": dino.x_scale, "x_shift": dino.x_shift, **state}
    load_strict(dino, state, where=str(file))
    with torch.no_grad():
        for block in dino.blocks:
            block.get_submodule("attn.qkv").get_parameter("bias")[chosen.width : 2 * chosen.width] = 0.0
    return freeze(dino)


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns a state under timm's names; what belongs to another head is left out."""
    own = {key.removeprefix("vit."): value for key, value in state.items()}
    own = {key: value for key, value in own.items() if not key.startswith(("pooler.", "classifier.", "head."))}
    if "embeddings.cls_token" not in own:
        return own
    renamed: dict[str, Tensor] = {}
    projections: dict[str, dict[str, Tensor]] = {}
    for key, value in own.items():
        if found := re.fullmatch(r"encoder\.layer\.(\d+)\.attention\.attention\.(query|key|value)\.(weight|bias)", key):
            target = f"blocks.{found[1]}.attn.qkv.{found[3]}"
            projections.setdefault(target, {})[found[2]] = value
            continue
        name, _, kind = key.rpartition(".")
        if found := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", name):
            renamed[f"blocks.{found[1]}.{_TRANSFORMERS_BLOCK.get(found[2], found[2])}.{kind}"] = value
        elif key in _TRANSFORMERS:
            renamed[_TRANSFORMERS[key]] = value
        else:
            renamed[f"{_TRANSFORMERS.get(name, name)}.{kind}"] = value
    for target, parts in projections.items():
        if set(parts) != {"query", "key", "value"}:
            raise DataError(f"a block has only {', '.join(sorted(parts))} of query, key, value", where=target)
        renamed[target] = torch.cat([parts["query"], parts["key"], parts["value"]])
    return renamed
