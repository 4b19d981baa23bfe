"""Sizes and settings of RAE's first stage: decoder, noise, losses, discriminator. Holds values only, loads no torch.

Source of the numbers: github.com/bytetriper/RAE (configs/decoder, configs/stage1, src/train_stage1.py) and
arXiv 2510.11690, sections 4.1 and 4.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, unknown

NoiseKind = Literal["uniform", "halfnormal"]
HeadNorm = Literal["bn", "gn", "sbn"]
DiscriminatorLoss = Literal["hinge", "vanilla"]
GeneratorLoss = Literal["mean", "non_saturating"]
DecoderKind = Literal["native", "rae"]


def square_side(count: int, *, where: str) -> int:
    """Returns the side of a square grid of `count` cells.

    Raises:
        ConfigError: `count` is no square number.
    """
    side = math.isqrt(max(count, 0))
    if count < 1 or side * side != count:
        raise ConfigError(
            f"{count} tokens are no square grid", where=where, fix="RAE's latents are square: use a square input"
        )
    return side


def _check_choice(value: str, choices: Any, where: str) -> None:
    if value not in get_args(choices):
        raise unknown(where, str(value), get_args(choices), where=where)


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderConfig:
    """Architecture of the ViT-MAE decoder."""

    latent_dim: int  # C, channels of the latents: the encoder's width
    num_patches: int = 256  # tokens of the grid that it is trained on; other grids are resized to it
    patch_px: int = 16  # side of the square of pixels that one token becomes
    width: int = 1152
    depth: int = 28  # blocks
    num_heads: int = 16
    mlp_width: int = 4096
    num_channels: int = 3  # of the pictures
    eps: float = 1e-12  # of every LayerNorm

    def __post_init__(self) -> None:
        counts = {
            "latent_dim": self.latent_dim, "patch_px": self.patch_px, "width": self.width, "depth": self.depth,
            "num_heads": self.num_heads, "mlp_width": self.mlp_width, "num_channels": self.num_channels,
        }  # fmt: skip
        for name, value in counts.items():
            if value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}", where=f"decoder {name}")
        square_side(self.num_patches, where="decoder num_patches")
        if self.width % self.num_heads:
            raise ConfigError(
                f"a width of {self.width} cannot be split into {self.num_heads} heads", where="decoder num_heads"
            )
        if self.width % 4:
            raise ConfigError(
                f"the width must be a multiple of 4 for the position table, got {self.width}", where="decoder width"
            )
        if not self.eps > 0.0:
            raise ConfigError(f"eps must be positive, got {self.eps}", where="decoder eps")

    @property
    def grid(self) -> int:
        """Tokens along a side of the trained grid."""
        return math.isqrt(self.num_patches)

    @property
    def output_px(self) -> int:
        """Side of the pictures it makes."""
        return self.grid * self.patch_px


# Parameters with C = 768: 86.4M, 304.2M, 415.4M. The MLP of XL is 4096 wide, not 4 x 1152.
DECODERS: Mapping[str, DecoderConfig] = {
    "vit-b": DecoderConfig(latent_dim=768, width=768, depth=12, num_heads=12, mlp_width=3072),
    "vit-l": DecoderConfig(latent_dim=768, width=1024, depth=24, num_heads=16, mlp_width=4096),
    "vit-xl": DecoderConfig(latent_dim=768, width=1152, depth=28, num_heads=16, mlp_width=4096),
    "mini": DecoderConfig(latent_dim=128, num_patches=16, patch_px=8, width=128, depth=3, num_heads=4, mlp_width=512),
}


def decoder_config(name: str, *, latent_dim: int, num_patches: int, patch_px: int) -> DecoderConfig:
    """Returns a preset for an encoder's latents.

    Args:
        name: A name of `DECODERS`.
        latent_dim: Channels of the latents.
        num_patches: Tokens; a square number.
        patch_px: Pixels along a side per token: 16 for 256 px from 16 x 16 tokens, 32 for 512 px.

    Raises:
        ConfigError: There is no such preset, or the numbers do not fit.
    """
    preset = lookup(DECODERS, name, kind="decoder", where="decoder")
    return replace(preset, latent_dim=latent_dim, num_patches=num_patches, patch_px=patch_px)


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseConfig:
    """Noise on the tokens while the decoder is trained (arXiv 2510.11690, section 4.3)."""

    tau: float = 0.8  # 0: none
    kind: NoiseKind = "uniform"  # sigma ~ U(0, tau), as the code has it; halfnormal: |N(0, tau^2)|, as the paper has it

    def __post_init__(self) -> None:
        _check_choice(self.kind, NoiseKind, "noise kind")
        if not 0.0 <= self.tau < math.inf:
            raise ConfigError(f"tau must be 0 or more, got {self.tau}", where="noise tau")


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """DiffAug (arXiv 2006.10738) in front of the discriminator; each policy is drawn per picture."""

    prob: float = 1.0  # of each policy
    cutout: float = 0.0  # side of the blanked rectangle, relative to the picture; 0: no cutout
    translation: float = 0.125  # largest shift, relative to the picture

    def __post_init__(self) -> None:
        for name in ("prob", "cutout", "translation"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise ConfigError(f"{name} must lie in [0, 1], got {value}", where=f"augmentation {name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderLossConfig:
    """Objective of the decoder and of its discriminator, in weights and epochs."""

    l1_weight: float = 1.0
    lpips_weight: float = 1.0  # 0: the term is not computed
    gan_weight: float = 0.75  # 0: no discriminator; it is multiplied by the adaptive weight lambda
    max_lambda: float = 1e4  # largest adaptive weight
    lambda_eps: float = 1e-6  # added to the norm of the adversarial gradient
    discriminator_from_epoch: int = 6  # its updates begin
    gan_from_epoch: int = 8  # the decoder's adversarial term begins
    discriminator_loss: DiscriminatorLoss = "hinge"
    generator_loss: GeneratorLoss = "mean"

    def __post_init__(self) -> None:
        _check_choice(self.discriminator_loss, DiscriminatorLoss, "discriminator_loss")
        _check_choice(self.generator_loss, GeneratorLoss, "generator_loss")
        for name in ("l1_weight", "lpips_weight", "gan_weight", "max_lambda", "lambda_eps"):
            value = getattr(self, name)
            if not 0.0 <= value < math.inf:
                raise ConfigError(f"{name} must be 0 or more, got {value}", where=name)
        if self.l1_weight == 0.0 and self.lpips_weight == 0.0:
            raise ConfigError(
                "the decoder has no reconstruction term",
                where="l1_weight, lpips_weight",
                fix="give one of them a weight",
            )
        if not 0 <= self.discriminator_from_epoch <= self.gan_from_epoch:
            raise ConfigError(
                f"the discriminator must learn before the decoder hears it: epochs {self.discriminator_from_epoch} and "
                f"{self.gan_from_epoch}",
                where="discriminator_from_epoch, gan_from_epoch",
            )

    def trains_discriminator(self, epoch: int) -> bool:
        """Returns whether the discriminator is updated in an epoch, counted from 0."""
        return self.gan_weight > 0.0 and epoch >= self.discriminator_from_epoch

    def uses_gan(self, epoch: int) -> bool:
        """Returns whether the decoder's loss has the adversarial term in an epoch, counted from 0."""
        return self.gan_weight > 0.0 and epoch >= self.gan_from_epoch


@dataclass(frozen=True, kw_only=True, slots=True)
class DinoConfig:
    """Architecture of the discriminator's frozen backbone; the default is DINO ViT-S/8 (arXiv 2104.14294)."""

    depth: int = 12
    width: int = 384
    num_heads: int = 6
    mlp_ratio: float = 4.0
    patch_px: int = 8
    input_px: int = 224  # RGB pictures are resized to it
    eps: float = 1e-6  # of every LayerNorm

    def __post_init__(self) -> None:
        for name in ("depth", "width", "num_heads", "patch_px", "input_px"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}", where=f"dino {name}")
        if self.width % self.num_heads:
            raise ConfigError(
                f"a width of {self.width} cannot be split into {self.num_heads} heads", where="dino num_heads"
            )
        if self.input_px < self.patch_px:
            raise ConfigError(f"{self.input_px} pixels hold no patch of {self.patch_px}", where="dino input_px")

    @property
    def grid(self) -> int:
        """Tokens along a side."""
        return self.input_px // self.patch_px


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The discriminator: frozen backbone, one trained head per tapped block (after arXiv 2301.09515, section 3.2)."""

    dino: DinoConfig = DinoConfig()
    key_depths: tuple[int, ...] = (2, 5, 8, 11)  # blocks whose output is read, beside the last one; order is ignored
    kernel: int = 9  # tokens that the residual convolution sees
    norm: HeadNorm = "bn"  # bn: per picture over its tokens; gn: 32 groups; sbn: over the batch of all processes
    spectral_norm: bool = True
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _check_choice(self.norm, HeadNorm, "discriminator norm")
        if not self.taps or min(self.taps) < 0:
            raise ConfigError(
                f"no block among {list(self.key_depths)} is one of the backbone's {self.dino.depth}",
                where="discriminator key_depths",
                fix=f"use numbers from 0 to {self.dino.depth - 1}",
            )
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise ConfigError(f"the kernel must be an odd number, got {self.kernel}", where="discriminator kernel")
        if self.kernel // 2 > self.dino.grid**2:
            raise ConfigError(
                f"a kernel of {self.kernel} goes round {self.dino.grid**2} tokens more than once",
                where="discriminator kernel",
            )
        if self.norm == "gn" and self.dino.width % 32:
            raise ConfigError(
                f"'gn' has 32 groups, and the backbone's width is {self.dino.width}", where="discriminator norm"
            )

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks that are read beside the last one, ascending; deeper ones than the backbone has are left out."""
        return tuple(sorted({depth for depth in self.key_depths if depth < self.dino.depth}))

    @property
    def num_heads(self) -> int:
        """Trained heads: one for the last block, one for each tap (the last block twice, where it is a tap)."""
        return 1 + len(self.taps)
