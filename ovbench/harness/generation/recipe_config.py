"""The `generation` section of a protocol: what is trained on which pictures, how it is sampled. Data only.

Epochs are the unit of every schedule, so that a recipe says the same whatever the number of pictures and the batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import LightningDiTConfig, Stage2Config, preset
from ovbench.harness.generation.decoder_config import DecoderConfig, DecoderLossConfig, NoiseConfig, decoder_config
from ovbench.harness.generation.flow_config import EMAConfig, SamplingConfig, ScheduleConfig, TransportConfig
from ovbench.harness.settings_config import read_config


def _positive(where: str, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"{name} must be positive, got {value}", where=where)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """Which pictures."""

    source: Literal["world", "imagenet"]
    image_px: int  # side of the pictures
    num_classes: int
    num_train: int | None = None  # pictures to train on; None: all that there are
    num_test: int | None = None  # pictures to reconstruct and, in the world, to compare samples with; None: all
    world_seed: int | None = None  # of the world's pictures

    def __post_init__(self) -> None:
        _positive("generation.data", image_px=self.image_px, num_classes=self.num_classes)
        _positive("generation.data", num_train=self.num_train, num_test=self.num_test)
        world = (self.world_seed, self.num_train, self.num_test)
        if self.source == "world" and None in world:
            raise ConfigError("the world needs world_seed, num_train and num_test", where="generation.data")
        if self.source != "world" and self.world_seed is not None:
            raise ConfigError("world_seed has no effect on ImageNet", where="generation.data")


@dataclass(frozen=True, kw_only=True, slots=True)
class StatsConfig:
    """Statistics that latents are normalised by."""

    num_pictures: int | None = None  # the first so many of the training set; None: all
    flips: bool = True  # each picture as it is and mirrored
    use_mean: bool = True  # false: variance alone, as in RAE's released file for DINOv2-B

    def __post_init__(self) -> None:
        _positive("generation.stats", num_pictures=self.num_pictures)


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimiserConfig:
    """One training: AdamW, schedule, average, passes. The defaults are those of RAE's second stage."""

    batch_size: int  # over all processes and micro-batches
    epochs: float
    schedule: ScheduleConfig
    ema: EMAConfig
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0  # global gradient norm; None: no clipping
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast over float32 weights
    micro_batch: int | None = None  # pictures of one pass and process; None: the whole share. Changes no result
    checkpoint_every: int = 1000  # updates. Changes no result
    log_every: int = 50  # updates

    def __post_init__(self) -> None:
        _positive("generation optimiser", batch_size=self.batch_size, epochs=self.epochs, micro_batch=self.micro_batch)
        _positive("generation optimiser", checkpoint_every=self.checkpoint_every, log_every=self.log_every)

    def steps_per_epoch(self, num_pictures: int) -> int:
        """Returns the updates of an epoch, at least one; what is left of a batch runs on into the next epoch."""
        return max(1, num_pictures // self.batch_size)

    def num_steps(self, num_pictures: int) -> int:
        """Returns the updates of the whole training."""
        return max(1, round(self.epochs * self.steps_per_epoch(num_pictures)))


@dataclass(frozen=True, kw_only=True, slots=True)
class DecoderRecipe:
    """Stage 1."""

    kind: Literal["auto", "rae", "native"] = "auto"  # auto: native where the encoder has a decoder of its own
    preset: str = "vit-xl"  # of DECODERS
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    loss: DecoderLossConfig = field(default_factory=DecoderLossConfig)
    optimiser: OptimiserConfig
    discriminator_lr: float | None = None  # base rate of the discriminator; None: the decoder's


@dataclass(frozen=True, kw_only=True, slots=True)
class DiTRecipe:
    """Stage 2."""

    preset: str = "dit-dh-xl"  # of PRESETS
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of the architecture that differ from it
    transport: TransportConfig = field(default_factory=TransportConfig)
    optimiser: OptimiserConfig
    flips: bool = True  # each training picture is mirrored with probability 1/2
    latent_cache: Literal["none", "bfloat16", "float32"] = "none"  # none: encoded when they are needed
    probes: tuple[float, ...] = ()  # epochs at which samples are scored too, to see whether training is over

    def __post_init__(self) -> None:
        where = "generation.dit"
        bad = [probe for probe in self.probes if not 0 < probe < self.optimiser.epochs]
        if bad or list(self.probes) != sorted(set(self.probes)):
            raise ConfigError(
                f"probes must rise between 0 and the {self.optimiser.epochs:g} epochs, got {list(self.probes)}",
                where=where,
            )

    def probe_steps(self, num_pictures: int) -> dict[int, float]:
        """Returns the number of updates at each probe, with its epochs.

        Raises:
            ConfigError: Two probes, or a probe and the end, fall on one update.
        """
        each = self.optimiser.steps_per_epoch(num_pictures)
        found = {max(1, round(probe * each)): probe for probe in self.probes}
        if len(found) < len(self.probes) or any(step >= self.optimiser.num_steps(num_pictures) for step in found):
            raise ConfigError(
                f"with {each} updates an epoch, some of the probes {list(self.probes)} fall on one update",
                where="generation.dit.probes",
                fix="take probes that are further apart, or more pictures",
            )
        return found

    def network(self, *, channels: int, grid: int, num_classes: int) -> Stage2Config:
        """Returns the architecture for latents [channels, grid, grid] of so many classes."""
        sizes = {"in_channels": channels, "input_size": grid, "num_classes": num_classes}
        return preset(self.preset, where="generation.dit.preset", **{**self.changes, **sizes})


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """What is sampled and how."""

    num_samples: int
    sampler: SamplingConfig = field(default_factory=SamplingConfig)
    quantise: Literal["truncate", "round"] = "truncate"  # pictures to 8 bits: RAE's programs truncate

    def __post_init__(self) -> None:
        if self.num_samples < 2:
            raise ConfigError(f"num_samples must be 2 or more, got {self.num_samples}", where="generation.sampling")
        if self.sampler.rng != "indexed":
            raise ConfigError(
                "rng 'reference' is for parity runs from Python: its samples depend on batch and processes",
                where="generation.sampling.sampler.rng",
                fix="leave rng out",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationRecipe:
    """The whole section."""

    data: DataConfig
    grid: int  # tokens along a side of a latent; an encoder is given the input size that makes them
    cpu_threads: int = 1  # of everything on a CPU: the same sums in the same order on every machine
    stats: StatsConfig = field(default_factory=StatsConfig)
    decoder: DecoderRecipe
    dit: DiTRecipe
    sampling: SampleConfig

    def __post_init__(self) -> None:
        _positive("generation", grid=self.grid, cpu_threads=self.cpu_threads)

    def decoder_config(self, *, channels: int, num_tokens: int) -> DecoderConfig:
        """Returns the decoder's architecture for latents of so many channels and tokens.

        Raises:
            ConfigError: The picture is no whole number of patches.
        """
        side = math.isqrt(num_tokens)
        if self.data.image_px % side:
            raise ConfigError(
                f"{self.data.image_px} pixels are no whole number of patches for {side} x {side} tokens",
                where="--encoder …?size=",
                fix=f"give the encoder a size that makes {self.grid} x {self.grid} tokens",
            )
        return decoder_config(
            self.decoder.preset, latent_dim=channels, num_patches=num_tokens, patch_px=self.data.image_px // side
        )

    def network(self, *, channels: int, grid: int) -> Stage2Config:
        """Returns the diffusion transformer's architecture for latents [channels, grid, grid].

        Raises:
            ConfigError: The network is narrower than a token, which it cannot denoise (arXiv 2510.11690, section 4.1).
        """
        config = self.dit.network(channels=channels, grid=grid, num_classes=self.data.num_classes)
        pixels = config.patch_size**2 if isinstance(config, LightningDiTConfig) else 1
        if config.output_width < channels * pixels:
            raise ConfigError(
                f"tokens have {channels * pixels} channels, and the network is {config.output_width} wide",
                where="generation.dit",
                fix="take an encoder with fewer channels, or a protocol with a wider network",
            )
        return config


def read_recipe(section: Mapping[str, Any], *, where: str) -> GenerationRecipe:
    """Returns the recipe of a protocol's `generation` section, strictly.

    Raises:
        ConfigError: A key is unknown or missing, or a value cannot be used.
    """
    return read_config(GenerationRecipe, section, where=where)
