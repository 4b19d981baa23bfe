"""Settings of flow matching: which times are trained, how an image is sampled, how the learning rate runs. Data only.

Source: arXiv 2510.11690, sections 4.2 and 5; github.com/bytetriper/RAE, src/stage2/transport and configs/stage2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from ovbench._base.errors import ConfigError

MAX_TIME = 0.999  # no time above it is trained, and a grid of kind `rae` ends this far from 1
SHIFT_BASE = 4096  # numbers in a latent of 4 x 32 x 32, for which no shift is needed (P section 4.2)
Method = Literal["euler", "heun2", "midpoint", "rk4", "dopri5"]


def _choice(name: str, value: str, allowed: Sequence[str], where: str) -> None:
    if value not in allowed:
        raise ConfigError(f"unknown {name} '{value}'", where=where, fix=f"choose one of: {', '.join(allowed)}")


@dataclass(frozen=True, kw_only=True, slots=True)
class TransportConfig:
    """Times of training and their shift; the defaults are RAE's."""

    time_distribution: Literal["logit-normal", "uniform"] = "logit-normal"  # before the shift
    time_mean: float = 0.0  # of the normal distribution behind logit-normal
    time_std: float = 1.0
    shift_base: int = SHIFT_BASE  # numbers in a latent that needs no shift; mini: those of its VAE's latent
    shifted: bool = True  # false: every time as drawn, as before arXiv 2510.11690

    def __post_init__(self) -> None:
        where = "transport"
        _choice("time_distribution", self.time_distribution, ("logit-normal", "uniform"), where)
        if not (math.isfinite(self.time_mean) and math.isfinite(self.time_std) and self.time_std > 0):
            raise ConfigError(
                f"time_mean must be finite and time_std positive, got {self.time_mean} and {self.time_std}", where=where
            )
        if isinstance(self.shift_base, bool) or not isinstance(self.shift_base, int) or self.shift_base < 1:
            raise ConfigError(f"shift_base must be a whole number from 1, got {self.shift_base!r}", where=where)

    def shift_of(self, shape: Sequence[int]) -> float:
        """Returns the shift of latents [C, H, W]: sqrt(C H W / base), or 1 where nothing is shifted.

        Raises:
            ConfigError: It would be below 1, which moves training towards the data; the reference refuses it too.
        """
        if not self.shifted:
            return 1.0
        shift = time_shift(shape, self.shift_base)
        if shift < 1.0:
            raise ConfigError(
                f"latents of {' x '.join(map(str, shape))} would have the time shift {shift:.3f}, and it must not be "
                "below 1",
                where="transport.shift_base",
                fix=f"set shift_base to at most {math.prod(shape)}, or shifted to false",
            )
        return shift


def time_shift(shape: Sequence[int], base: int = SHIFT_BASE) -> float:
    """Returns sqrt(numbers in a latent [C, H, W] / base) (arXiv 2510.11690, section 4.2, after arXiv 2403.03206)."""
    return math.sqrt(math.prod(int(size) for size in shape) / base)


@dataclass(frozen=True, kw_only=True, slots=True)
class GuidanceConfig:
    """Guidance: v_g + scale (v - v_g) while t lies in the interval, else v.

    `cfg` takes v_g from the same network without the class (arXiv 2207.12598), `auto` from a weaker network with it
    (arXiv 2406.02507). RAE's: none, or `auto` with 1.42 at 256 px and 1.5 at 512 px.
    """

    kind: Literal["none", "cfg", "auto"] = "none"
    scale: float = 1.0  # 1: no guidance
    interval: tuple[float, float] = (0.0, 1.0)  # of shifted times, both ends included

    def __post_init__(self) -> None:
        where = "guidance"
        _choice("kind", self.kind, ("none", "cfg", "auto"), where)
        low, high = self.interval
        if not 0.0 <= low <= high <= 1.0:
            raise ConfigError(f"the interval must be within [0, 1], got [{low}, {high}]", where=where)
        if not math.isfinite(self.scale) or self.scale < 1.0:
            raise ConfigError(f"the scale must be at least 1, got {self.scale}", where=where)
        if self.kind == "none" and self.scale != 1.0:
            raise ConfigError(
                f"a scale of {self.scale} has no effect without guidance",
                where=where,
                fix="set kind to cfg or auto, or leave the scale out",
            )

    @property
    def active(self) -> bool:
        """Whether it changes anything; as in the reference only a scale above 1 does."""
        return self.kind != "none" and self.scale > 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class SamplingConfig:
    """How a latent is made from noise; the defaults are RAE's."""

    method: Method = "euler"
    num_steps: int = 50  # grid `rae`: points, hence one step less; grid `full`: steps
    grid: Literal["rae", "full"] = "rae"  # rae: from 1 to shift(0.001), as the released PyTorch; full: from 1 to 0
    atol: float = 1e-6  # of dopri5
    rtol: float = 1e-3  # of dopri5
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    labels: Literal["equal", "random"] = "equal"  # equal: as many images of each class
    rng: Literal["indexed", "reference"] = "indexed"  # indexed: image i depends on (seed, i) alone
    group_size: int | None = None  # images per forward pass; None: by the number of tokens
    precision: Literal["float32", "bfloat16"] = "float32"  # bfloat16: autocast; the state stays float32

    def __post_init__(self) -> None:
        where = "sampling"
        _choice("method", self.method, ("euler", "heun2", "midpoint", "rk4", "dopri5"), where)
        _choice("grid", self.grid, ("rae", "full"), where)
        _choice("labels", self.labels, ("equal", "random"), where)
        _choice("rng", self.rng, ("indexed", "reference"), where)
        _choice("precision", self.precision, ("float32", "bfloat16"), where)
        least = 2 if self.grid == "rae" else 1
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < least:
            raise ConfigError(
                f"num_steps must be a whole number from {least} on the grid '{self.grid}', got {self.num_steps!r}",
                where=where,
            )
        if not (0 < self.atol < math.inf and 0 < self.rtol < math.inf):
            raise ConfigError(f"atol and rtol must be positive, got {self.atol} and {self.rtol}", where=where)
        if self.group_size is not None and (isinstance(self.group_size, bool) or self.group_size < 1):
            raise ConfigError(f"group_size must be a whole number from 1, got {self.group_size!r}", where=where)
        if self.method == "dopri5" and self.group_size not in (None, 1):
            raise ConfigError(
                f"dopri5 chooses its steps by all images of a pass, so {self.group_size} of them would depend on each "
                "other",
                where="sampling.group_size",
                fix="leave group_size out, or take a method with fixed steps",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate by epochs, changed at every step; the defaults are those of RAE's stage 2.

    Source: github.com/bytetriper/RAE, src/utils/optim_utils.py. Stage 1 is `cosine` from zero over one epoch,
    with its end at epoch 16.
    """

    kind: Literal["cosine", "linear", "constant"] = "linear"
    base_lr: float = 2e-4
    final_lr: float = 2e-5  # from the end of the decay on
    warmup_epochs: float = 40.0
    decay_end_epoch: float = 800.0
    warmup_from_zero: bool = False  # false: base_lr during the warm-up too

    def __post_init__(self) -> None:
        where = "learning-rate schedule"
        _choice("kind", self.kind, ("cosine", "linear", "constant"), where)
        if not (0 < self.base_lr < math.inf and 0 <= self.final_lr < math.inf):
            raise ConfigError(
                f"base_lr must be positive and final_lr at least 0, got {self.base_lr} and {self.final_lr}", where=where
            )
        if not 0 <= self.warmup_epochs < math.inf:
            raise ConfigError(f"warmup_epochs must be at least 0, got {self.warmup_epochs}", where=where)
        if self.kind != "constant" and not self.warmup_epochs < self.decay_end_epoch < math.inf:
            raise ConfigError(
                f"the decay ends at epoch {self.decay_end_epoch:g}, which is not after the warm-up of "
                f"{self.warmup_epochs:g}",
                where=where,
                fix="raise decay_end_epoch, or set kind to constant",
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EMAConfig:
    """Moving average of the weights, after every step; the default is that of RAE's stage 2."""

    decay: float = 0.9995  # stage 1: 0.9978; plain DiT-XL in the paper: 0.9999
    warmup: bool = False  # true: min(decay, (1 + step) / (10 + step)), for short trainings

    def __post_init__(self) -> None:
        if not 0.0 <= self.decay < 1.0:
            raise ConfigError(f"the decay must be in [0, 1), got {self.decay}", where="EMA")

    def decay_at(self, step: int) -> float:
        """Returns the decay of the update after a step, numbered from 0."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay
