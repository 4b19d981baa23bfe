"""The networks that an encoder is trained with: text encoder and caption decoder, which are not kept, and the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ovbench.encoders.modeling.reconstruction_decoder import ReconstructionDecoder
from ovbench.encoders.modeling.vit import MLP, Attention, Block, OpenVisionViT, ViTConfig, attend
from ovbench.harness.pretraining.config import ObjectiveConfig, PretrainRecipe, TextConfig, TrunkConfig

_EPS = 1e-6


def trunk_config(trunk: TrunkConfig) -> ViTConfig:
    """Returns the ViT's own configuration."""
    return ViTConfig(
        in_channels=trunk.in_channels,
        image_size=trunk.input_size // trunk.downsampling,
        patch_size=trunk.patch_size,
        width=trunk.width,
        layers=trunk.layers,
        head_width=trunk.head_width,
        embed_dim=trunk.embed_dim,
    )


class TextEncoder(nn.Module):
    """Bidirectional text tower; pooled over the words that are there."""

    def __init__(self, config: TextConfig, embed_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.width) * 0.01)
        self.blocks = nn.ModuleList(
            Block(config.width, config.heads, 4 * config.width, _EPS) for _ in range(config.encoder_layers)
        )
        self.ln_post = nn.LayerNorm(config.width, eps=_EPS)
        self.proj = nn.Parameter(torch.randn(config.width, embed_dim) * config.width**-0.5)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Turns int64 [B, T] (0 = padding) into [B, E]."""
        present = ids != 0
        mask = present[:, None, None, :]
        x = self.embedding(ids) + self.positions[: ids.shape[1]]
        for block in self.blocks:
            x = block(x, mask)
        pooled = (x * present[..., None]).sum(dim=1) / present.sum(dim=1, keepdim=True)
        return self.ln_post(pooled) @ self.proj


class _CrossAttention(nn.Module):
    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(memory_width, 2 * width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        batch, length, width = x.shape
        split = width // self.heads
        q = self.query(x).view(batch, length, self.heads, split).transpose(1, 2)
        k, v = self.key_value(memory).view(batch, -1, 2, self.heads, split).permute(2, 0, 3, 1, 4)
        return self.out_proj(attend(q, k, v).transpose(1, 2).reshape(batch, length, width))


class _DecoderBlock(nn.Module):
    def __init__(self, width: int, memory_width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads)
        self.ln_cross = nn.LayerNorm(width, eps=_EPS)
        self.cross = _CrossAttention(width, memory_width, heads)
        self.ln_2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x), mask)
        x = x + self.cross(self.ln_cross(x), memory)
        return x + self.mlp(self.ln_2(x))


class CaptionDecoder(nn.Module):
    """Autoregressive captioner that reads the visual tokens by cross-attention."""

    def __init__(self, config: TextConfig, memory_width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(config.max_length, config.width) * 0.01)
        self.ln_memory = nn.LayerNorm(memory_width, eps=_EPS)
        self.blocks = nn.ModuleList(
            _DecoderBlock(config.width, memory_width, config.heads) for _ in range(config.decoder_layers)
        )
        self.ln_post = nn.LayerNorm(config.width, eps=_EPS)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, ids: Tensor, tokens: Tensor) -> Tensor:
        """Turns int64 [B, T] and visual tokens [B, N, C] into next-word logits [B, T, V]; embeddings are tied."""
        length = ids.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        x = self.embedding(ids) + self.positions[:length]
        memory = self.ln_memory(tokens)
        for block in self.blocks:
            x = block(x, memory, mask)
        return self.ln_post(x) @ self.embedding.weight.T


class Pretrainer(nn.Module):
    """The trunk together with everything its objective needs."""

    def __init__(self, recipe: PretrainRecipe) -> None:
        super().__init__()
        self.objective: ObjectiveConfig = recipe.objective
        config = trunk_config(recipe.trunk)
        self.visual = OpenVisionViT(config)
        self.text = TextEncoder(recipe.text, recipe.trunk.embed_dim)
        if recipe.objective.caption > 0:
            self.captioner = CaptionDecoder(recipe.text, config.width)
        if recipe.objective.omega_rec > 0:
            self.decoder = ReconstructionDecoder(config, recipe.objective.decoder_layers)
        sigmoid = recipe.objective.contrastive == "sigmoid"
        # CLIP starts at temperature 0.07 (arXiv 2103.00020 §2.5), SigLIP at scale 10 and bias -10 (2303.15343 §3.2).
        self.logit_scale = nn.Parameter(torch.tensor(math.log(10.0 if sigmoid else 1 / 0.07)))
        if sigmoid:
            self.logit_bias = nn.Parameter(torch.tensor(-10.0))
