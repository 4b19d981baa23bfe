"""Recipes for training encoders: what is trained, on what, with which weights and schedule. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ovbench._base.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class VAERecipe:
    """Training of the miniature VAE."""

    steps: int = 5000
    batch_size: int = 128  # 32 x 32 cut-outs; whole scenes are taken in quarter batches
    scene_every: int = 4  # every n-th step sees whole scenes instead of cut-outs
    lr: float = 2e-3  # peak, cosine to 0
    warmup_steps: int = 100
    kl_weight: float = 1e-4  # on nats per latent value
    checkpoint_every: int = 500  # steps


@dataclass(frozen=True, kw_only=True, slots=True)
class WardrobeRecipe:
    """Training of the garment classifier behind `FD-wardrobe`."""

    steps: int = 3000
    batch_size: int = 96  # 32 x 32 pictures of one garment
    noise: float = 8.0  # grey levels: pictures get noise of standard deviation U[0, noise], one draw per picture
    lr: float = 3e-3  # peak, cosine to 0
    warmup_steps: int = 100
    weight_decay: float = 0.05  # AdamW, on matrices and kernels
    num_measured: int = 4000  # pictures that the accuracies and the scale of the features are measured on
    checkpoint_every: int = 500  # steps


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """Text encoder and caption decoder: plain transformers of the trunk's kind."""

    vocabulary_size: int  # ids, padding 0 included
    max_length: int  # positions
    width: int
    heads: int
    encoder_layers: int
    decoder_layers: int  # with cross-attention to the visual tokens


@dataclass(frozen=True, kw_only=True, slots=True)
class TrunkConfig:
    """The ViT, and what it reads."""

    frontend: Literal["pixels", "tiny-vae", "flux-vae"]  # VAE latents, or RGB in [-1, 1]
    in_channels: int
    input_size: int  # pixels along one side at full resolution
    downsampling: int  # pixels per input cell: 1 without a VAE
    patch_size: int  # input cells
    width: int
    layers: int
    head_width: int
    embed_dim: int  # of the contrastive space


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectiveConfig:
    """Loss weights under the names of OpenVision 3 (arXiv 2601.15369v2, Eq. 3-6, Table 1)."""

    contrastive: Literal["softmax", "sigmoid"] = "softmax"  # CLIP's or SigLIP's
    alpha: float = 1.0  # contrastive, inside the understanding loss
    caption: float = 1.0  # captioning, inside the understanding loss; 0: no caption decoder
    omega_und: float = 1.0  # understanding
    omega_rec: float = 0.0  # reconstruction; 0: no reconstruction decoder
    beta: float = 0.4  # l1 on VAE latents
    lambda_lpips: float = 0.0  # LPIPS on pixels; needs the network's weights
    noise_tau: float = 0.5  # tokens get noise of standard deviation U[0, tau], one draw per image
    rec_fraction: float = 1.0  # part of the batch that goes through the reconstruction branch
    decoder_layers: int = 2  # of the reconstruction decoder, a ViT with patch 1

    def __post_init__(self) -> None:
        if not 0.0 < self.rec_fraction <= 1.0:
            raise ConfigError(f"rec_fraction must be in (0, 1], got {self.rec_fraction}", where="objective")
        if self.omega_rec == 0.0 and self.caption == 0.0 and self.alpha == 0.0:
            raise ConfigError("an objective needs at least one term with a weight", where="objective")


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseConfig:
    """One stage of training: low resolution first, then full."""

    name: str
    resolution: int  # pixels along one side
    steps: int
    batch_size: int
    lr: float  # peak, after any scaling with the batch
    warmup_steps: int
    single_every: int = 0  # every n-th step goes back to cut-outs at half the resolution, double batch; 0: never
    lambda_lpips: float | None = None  # overrides the objective's weight in this stage


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainRecipe:
    """Everything that decides which weights come out."""

    name: str
    trunk: TrunkConfig
    text: TextConfig
    objective: ObjectiveConfig
    phases: tuple[PhaseConfig, ...]
    weight_decay: float = 0.05  # AdamW, on matrices
    betas: tuple[float, float] = (0.9, 0.95)  # AdamW
    group_size: int = 4  # scenes that differ in their garments alone, side by side in a batch
    checkpoint_every: int = 100  # steps
    probe_scenes: int = 2000  # that the linear probes are fitted on; half as many are scored
    autocast: bool = True  # bfloat16 matrix products, float32 weights and losses

    def __post_init__(self) -> None:
        if self.objective.omega_rec > 0 and self.trunk.frontend == "pixels":
            raise ConfigError(
                f"the recipe '{self.name}' reconstructs VAE latents, and its trunk reads pixels",
                where="objective.omega_rec",
            )
        if not self.phases:
            raise ConfigError(f"the recipe '{self.name}' has no stage", where="phases")
