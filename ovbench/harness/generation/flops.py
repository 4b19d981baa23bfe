"""Operations of one forward pass per image, from the configuration alone. Needs no torch.

Matrix products, convolutions and attention; a multiply-accumulate is 2. Norms, activations, softmax and positions are
not counted, as is usual. A training step costs three forward passes.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.harness.generation.config import TIME_FREQUENCIES, DiTDHConfig, Stage2Config, mlp_width


@dataclass(frozen=True, kw_only=True, slots=True)
class ForwardFlops:
    """Operations of one image by part."""

    backbone: int  # attention and MLP weights of the blocks under a condition per image
    head: int  # the same of DiT-DH's head; 0 for LightningDiT
    attention: int  # products of queries with keys, and of weights with values
    modulation: int  # adaptive norms, of the last layer too
    embedding: int  # tokens, time, projection between the parts, last linear layer

    @property
    def total(self) -> int:
        """All parts."""
        return self.backbone + self.head + self.attention + self.modulation + self.embedding


def forward_flops(config: Stage2Config) -> ForwardFlops:
    """Returns the operations of one forward pass of one image, without the padding of SwiGLU."""
    tokens = config.num_tokens
    pixels = config.patch_size**2

    def linear(inputs: int, outputs: int, rows: int = tokens) -> int:
        return 2 * rows * inputs * outputs

    def weights(width: int) -> int:
        hidden = mlp_width(width, config.mlp_ratio, swiglu=config.use_swiglu)
        mlp = linear(width, (2 if config.use_swiglu else 1) * hidden) + linear(hidden, width)
        return linear(width, 3 * width) + linear(width, width) + mlp

    def embed(width: int) -> int:
        return linear(pixels * config.in_channels, width)

    def output(width: int) -> int:
        return linear(width, pixels * config.out_channels)

    if isinstance(config, DiTDHConfig):
        (narrow, wide), (deep, shallow) = config.hidden_size, config.depth
        projection = linear(narrow, wide) if narrow != wide else 0
        return ForwardFlops(
            backbone=deep * weights(narrow),
            head=shallow * weights(wide),
            attention=4 * tokens * tokens * (deep * narrow + shallow * wide),
            modulation=deep * linear(narrow, 6 * narrow, 1) + shallow * linear(wide, 6 * wide) + linear(wide, 2 * wide),
            embedding=embed(narrow) + embed(wide) + _time(narrow) + projection + output(wide),
        )
    width, depth = config.hidden_size, config.depth
    return ForwardFlops(
        backbone=depth * weights(width),
        head=0,
        attention=4 * tokens * tokens * depth * width,
        modulation=depth * linear(width, 6 * width, 1) + linear(width, 2 * width, 1),
        embedding=embed(width) + _time(width) + output(width),
    )


def _time(width: int) -> int:
    return 2 * (2 * TIME_FREQUENCIES * width + width * width)
