"""DiT-DH: a backbone says what the image is, a wide shallow head predicts the velocity under a condition per token.

Source: arXiv 2510.11690, section 5 (head after arXiv 2504.05741); github.com/bytetriper/RAE, src/stage2/models/DDT.py,
class `DiTwDDTHead`. Key names are those of the official checkpoints.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.blocks import Block, FinalLayer
from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.decoder import unpatchify
from ovbench.harness.generation.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    RotaryPositions,
    TimeEmbedding,
    position_table,
)
from ovbench.harness.generation.network import Stage2Network


class DiTwDDTHead(Stage2Network[DiTDHConfig]):
    """Diffusion transformer with a DDT head; the widths are (backbone, head)."""

    XAVIER_LINEARS: ClassVar[bool] = False

    def __init__(
        self, config: DiTDHConfig, *, generator: torch.Generator | None = None, swiglu_multiple: int = 1
    ) -> None:
        """Builds the network with new weights.

        Args:
            config: Architecture.
            generator: Source of the weights; None is torch's own.
            swiglu_multiple: SwiGLU's hidden width is padded with zeros to a multiple of it; the state dict is not.
        """
        super().__init__()
        self.config = config
        (narrow, wide), heads = config.hidden_size, config.num_heads
        self.s_embedder = PatchEmbedding(config.in_channels, narrow, config.patch_size)
        self.x_embedder = PatchEmbedding(config.in_channels, wide, config.patch_size)
        self.s_projector = nn.Linear(narrow, wide) if narrow != wide else nn.Identity()
        self.t_embedder = TimeEmbedding(narrow)
        self.y_embedder = LabelEmbedding(config.num_classes, narrow, has_null=config.has_null_label)
        self.pos_embed = (
            nn.Parameter(position_table(narrow, config.grid), requires_grad=False) if config.use_pos_embed else None
        )
        self.enc_feat_rope = RotaryPositions(narrow // heads[0], config.grid)
        self.dec_feat_rope = RotaryPositions(wide // heads[1], config.grid)
        parts = [part for part in (0, 1) for _ in range(config.depth[part])]
        self.blocks = nn.ModuleList(
            Block(config, config.hidden_size[part], heads[part], swiglu_multiple=swiglu_multiple) for part in parts
        )
        self.final_layer = FinalLayer(config, wide)
        self.init_weights(generator)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        *,
        drop: Tensor | None = None,
        rows: Tensor | None = None,
        s: Tensor | None = None,
    ) -> Tensor:
        """Returns the velocity; see `Stage2Network.forward`.

        Args:
            x: As there.
            t: As there.
            labels: As there.
            drop: As there.
            rows: As there.
            s: What `backbone` gave, [B, N, backbone width]; then times and labels are not looked at.
        """
        if s is None:
            s = self.backbone(x, t, labels, drop=drop, rows=rows)
        return self.head(x, s)

    def backbone(
        self, x: Tensor, t: Tensor, labels: Tensor, *, drop: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Returns the head's condition per token before its projection, [B, N, backbone width]."""
        self.check_latents(x)
        time = self.t_embedder(t)
        # Trap: SiLU here and again inside every modulation; the label goes into the backbone alone.
        condition = F.silu(time + self.y_embedder(labels, drop))[:, None]  # [B or K, 1, C]
        tokens = self.add_positions(self.s_embedder(x))  # [B, N, C]
        for block in self.blocks[: self.config.depth[0]]:
            tokens = block(tokens, condition, self.enc_feat_rope, rows)
        return F.silu((time if rows is None else time[rows])[:, None] + tokens)

    def head(self, x: Tensor, s: Tensor) -> Tensor:
        """Returns the velocity under a condition per token, the output of `backbone`.

        Raises:
            ConfigError: The condition is of another shape.
        """
        self.check_latents(x)
        wanted = (len(x), self.config.num_tokens, self.config.hidden_size[0])
        if tuple(s.shape) != wanted:
            raise ConfigError(f"s must be {list(wanted)}, got {list(s.shape)}", where="DiTwDDTHead.head")
        condition = self.s_projector(s)  # [B, N, head width]
        tokens = self.x_embedder(x)  # no position table: rotary positions alone
        for block in self.blocks[self.config.depth[0] :]:
            tokens = block(tokens, condition, self.dec_feat_rope)
        return unpatchify(self.final_layer(tokens, condition), self.config.patch_size, self.config.out_channels)
