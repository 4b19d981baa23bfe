"""What both diffusion transformers share: the call, the check of its input, and how weights begin.

A network predicts the velocity of the linear path, noise - data, at time t (0 data, 1 noise). It has no dropout and
draws nothing itself: dropped labels are given, so train and eval mode compute the same.
"""

from __future__ import annotations

import math
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.blocks import Block, FinalLayer, SwiGLU
from ovbench.harness.generation.config import Stage2Config
from ovbench.harness.generation.embeddings import LabelEmbedding, PatchEmbedding, TimeEmbedding

C = TypeVar("C", bound=Stage2Config)
_STD = 0.02  # of the time MLP's weights at the start of training


class Stage2Network(nn.Module, Generic[C]):
    """Base of `LightningDiT` and `DiTwDDTHead`."""

    XAVIER_LINEARS: ClassVar[bool]  # else torch's own start, uniform in ±1/sqrt(inputs)
    config: C
    blocks: nn.ModuleList
    final_layer: FinalLayer
    t_embedder: TimeEmbedding
    y_embedder: LabelEmbedding
    pos_embed: nn.Parameter | None

    @property
    def null_label(self) -> int:
        """The label of "no class".

        Raises:
            ConfigError: The network has none.
        """
        return self.y_embedder.null_label

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        labels: Tensor,
        *,
        drop: Tensor | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Returns the velocity, [B, C, H, W].

        Args:
            x: Latents between data and noise, [B, C, H, W] of the configuration's sizes.
            t: Times in [0, 1], float [B].
            labels: Classes, int64 [B], 0…num_classes - 1, or the null label.
            drop: bool [B]: labels that become the null label (training).
            rows: int64 [B]. Where given, times and labels are [K] and image b has entry `rows[b]`; what depends on
                them alone is computed K times instead of B times.

        Raises:
            ConfigError: The latents have other sizes, or labels are dropped and there is no null label.
        """
        raise NotImplementedError

    def check_latents(self, x: Tensor) -> None:
        """Refuses latents of other sizes than the configuration's; the position tables are never resized silently.

        Raises:
            ConfigError: They are.
        """
        size = self.config.input_size
        wanted = (self.config.in_channels, size, size)
        if x.ndim != 4 or tuple(x.shape[1:]) != wanted:
            raise ConfigError(
                f"latents must be [B, {', '.join(map(str, wanted))}], got {list(x.shape)}",
                where=f"{type(self).__name__}.forward",
                fix="build the network for these latents: in_channels and input_size of its configuration",
            )

    def add_positions(self, tokens: Tensor) -> Tensor:
        """Returns tokens [B, N, C] with the position table added, where there is one."""
        return tokens if self.pos_embed is None else tokens + self.pos_embed

    def train_tables(self, trained: bool = True) -> None:
        """Says whether the position table and the time frequencies are trained; as built they are frozen.

        The reference's training script trains both (its train.py switches every gradient on).
        """
        self.t_embedder.W.requires_grad_(trained)
        if self.pos_embed is not None:
            self.pos_embed.requires_grad_(trained)

    @torch.no_grad()
    def init_weights(self, generator: torch.Generator | None = None) -> None:
        """Draws every weight anew; a padded network gets the weights of the plain one.

        Source: `initialize_weights` of both reference classes. Modulations and the output layer start at zero, so a
        new network predicts zero.

        Args:
            generator: Source of randomness; None is torch's own, as in any module of torch.
        """
        inside = {id(child) for module in self.modules() if isinstance(module, SwiGLU) for child in module.children()}
        for module in self.modules():
            match module:
                case SwiGLU():
                    dense = {name: torch.empty_like(value) for name, value in module.state_dict().items()}
                    for name in ("w12", "w3"):
                        self._draw_linear(dense[f"{name}.weight"], dense[f"{name}.bias"], generator)
                    module.load_state_dict(dense)
                case nn.Linear() if id(module) not in inside:
                    self._draw_linear(module.weight, module.bias, generator)
                case PatchEmbedding():
                    _xavier(module.proj.weight, generator)
                    for bias in [parameter for parameter in module.proj.parameters() if parameter.ndim == 1]:
                        nn.init.zeros_(bias)
                case LabelEmbedding():
                    nn.init.normal_(module.embedding_table.weight, std=self.config.label_init_std, generator=generator)
        nn.init.normal_(self.t_embedder.W, generator=generator)
        for layer in self.t_embedder.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=_STD, generator=generator)
        modulations = [
            module.adaLN_modulation[1] for module in self.modules() if isinstance(module, Block | FinalLayer)
        ]
        for layer in (*modulations, self.final_layer.linear):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)

    def _draw_linear(self, weight: Tensor, bias: Tensor, generator: torch.Generator | None) -> None:
        if self.XAVIER_LINEARS:
            _xavier(weight, generator)
            nn.init.zeros_(bias)
        else:
            bound = 1.0 / math.sqrt(weight.shape[1])
            nn.init.uniform_(weight, -bound, bound, generator=generator)
            nn.init.uniform_(bias, -bound, bound, generator=generator)


def _xavier(weight: Tensor, generator: torch.Generator | None) -> None:
    nn.init.xavier_uniform_(weight.flatten(1), generator=generator)
