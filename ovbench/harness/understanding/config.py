"""Settings of visual instruction tuning; the defaults are the miniature protocol. Data only."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ovbench._base.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One training stage."""

    steps: int  # optimiser updates
    batch_size: int  # conversations, one image each
    lr: float  # peak, cosine to 0
    template: Literal["plain", "v1", "v1_short"]  # how a conversation becomes text
    warmup_ratio: float = 0.03  # share of the steps
    weight_decay: float = 0.0
    clip_norm: float = 1.0  # global gradient norm
    checkpoint_every: int = 100  # steps

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise ConfigError(
                f"steps, batch size and lr must be positive, got {self.steps}, {self.batch_size}, {self.lr}",
                where="understanding stage",
            )
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warm-up ratio must be in [0, 1), got {self.warmup_ratio}", where="understanding stage")

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up, rounded up as transformers does."""
        return -int(-self.steps * self.warmup_ratio // 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class LlavaConfig:
    """LLaVA-1.5 (arXiv 2310.03744): a projector learns captions, then projector and language model learn dialogues."""

    language_model: str  # folder that transformers can load, or a hub id
    projector: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    stage1: StageConfig = field(
        default_factory=lambda: StageConfig(steps=300, batch_size=32, lr=2e-3, template="plain")
    )
    stage2: StageConfig = field(
        default_factory=lambda: StageConfig(steps=800, batch_size=16, lr=5e-4, template="v1_short")
    )
    num_turns: int = 8  # questions per conversation in stage 2, at most
    max_length: int = 2048  # positions after splicing; longer samples are cut
    precision: Literal["float32", "bfloat16"] = "bfloat16"  # of training: bfloat16 is autocast over float32 weights
    strict_reference: bool = True  # mask whole samples where the reference implementation does

    def __post_init__(self) -> None:
        if not self.language_model:
            raise ConfigError("no language model named", where="language_model")
        if self.num_turns < 1 or self.max_length < 8:
            raise ConfigError(
                f"num_turns {self.num_turns} or max_length {self.max_length} is too small", where="understanding"
            )

    def stage(self, number: int) -> StageConfig:
        """Returns the settings of stage 1 or 2."""
        if number not in (1, 2):
            raise ConfigError(f"there is no stage {number}", where="--stage", fix="choose 1 or 2")
        return self.stage1 if number == 1 else self.stage2

    def with_steps(self, stage1: int, stage2: int) -> LlavaConfig:
        """Returns the same recipe with other training lengths."""
        return replace(self, stage1=replace(self.stage1, steps=stage1), stage2=replace(self.stage2, steps=stage2))
