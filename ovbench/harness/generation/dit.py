"""LightningDiT: one stack of blocks under one condition per image.

Source: arXiv 2501.01423; arXiv 2510.11690, section 4; github.com/bytetriper/RAE, src/stage2/models/lightningDiT.py.
Key names are those of the official checkpoints.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from ovbench.harness.generation.blocks import Block, FinalLayer
from ovbench.harness.generation.config import LightningDiTConfig
from ovbench.harness.generation.decoder import unpatchify
from ovbench.harness.generation.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    RotaryPositions,
    TimeEmbedding,
    position_table,
)
from ovbench.harness.generation.network import Stage2Network


class LightningDiT(Stage2Network[LightningDiTConfig]):
    """Diffusion transformer on latents of patch p."""

    XAVIER_LINEARS: ClassVar[bool] = True

    def __init__(
        self, config: LightningDiTConfig, *, generator: torch.Generator | None = None, swiglu_multiple: int = 1
    ) -> None:
        """Builds the network with new weights.

        Args:
            config: Architecture.
            generator: Source of the weights; None is torch's own.
            swiglu_multiple: SwiGLU's hidden width is padded with zeros to a multiple of it; the state dict is not.
        """
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.x_embedder = PatchEmbedding(config.in_channels, width, config.patch_size)
        self.t_embedder = TimeEmbedding(width)
        self.y_embedder = LabelEmbedding(config.num_classes, width, has_null=config.has_null_label)
        self.pos_embed = nn.Parameter(position_table(width, config.grid), requires_grad=False)
        self.feat_rope = RotaryPositions(width // config.num_heads, config.grid) if config.use_rope else None
        self.blocks = nn.ModuleList(
            Block(config, width, config.num_heads, swiglu_multiple=swiglu_multiple) for _ in range(config.depth)
        )
        self.final_layer = FinalLayer(config, width)
        self.init_weights(generator)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        *,
        drop: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Returns the velocity; see `Stage2Network.forward`."""
        self.check_latents(x)
        tokens = self.add_positions(self.x_embedder(x))  # [B, N, C]
        condition = (self.t_embedder(t) + self.y_embedder(labels, drop))[:, None]  # [B or K, 1, C]
        for block in self.blocks:
            tokens = block(tokens, condition, self.feat_rope, rows)
        patches = self.final_layer(tokens, condition, rows)
        velocity = unpatchify(patches, self.config.patch_size, self.config.out_channels)
        return velocity[:, : self.config.in_channels]  # learn_sigma: the second half is thrown away
