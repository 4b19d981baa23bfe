"""Settings of visual instruction tuning; the defaults are the miniature protocol. Data only.

Sources: scripts/v1_5/pretrain.sh and finetune.sh of haotian-liu/LLaVA; arXiv 2310.03744, Table 5.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

from ovbench._base.errors import ConfigError

Precision = Literal["float32", "bfloat16"]  # of training: bfloat16 is autocast over float32 weights
Sharding = Literal["none", "fsdp2"]
# Settings that came after the first recipes: where they have their default they are left out of identities, so that
# what was trained before is known again.
_LATER_STAGE = (
    "epochs", "micro_batch", "loss_normalisation", "group_by_modality_length", "aspect", "warmup_from_zero", "betas",
    "eps",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class StageConfig:
    """One training stage; its length is given in steps or in epochs."""

    steps: int | None = None  # optimiser updates
    epochs: float | None = None  # passes over the conversations; the steps are rounded up
    batch_size: int  # conversations of an update, over all processes and passes
    lr: float  # peak, cosine to 0
    template: str  # how a conversation becomes text: plain, v1, v1_short, llama_3, qwen …
    warmup_ratio: float = 0.03  # share of the steps
    warmup_from_zero: bool = False  # the first update has rate 0, as in transformers; otherwise the first step upwards
    weight_decay: float = 0.0  # on matrices
    clip_norm: float = 1.0  # global gradient norm
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW
    eps: float = 1e-8  # AdamW
    micro_batch: int | None = None  # conversations of a pass, and of a mean under `micro_batch`; None: the whole batch
    loss_normalisation: Literal["micro_batch", "global_tokens"] = "micro_batch"  # see `losses.py`
    group_by_modality_length: bool = False  # batches all with or all without images, of balanced lengths
    aspect: Literal["square", "pad"] = "square"  # square: the encoder's own processor; pad: to a square of its mean
    checkpoint_every: int = 100  # steps

    def __post_init__(self) -> None:
        where = "understanding stage"
        if (self.steps is None) == (self.epochs is None):
            raise ConfigError("a stage needs steps or epochs, and not both", where=where)
        lengths = [value for value in (self.steps, self.epochs) if value is not None]
        if min(lengths) <= 0 or self.batch_size < 1 or not 0 < self.lr < math.inf:
            raise ConfigError(
                f"steps or epochs, batch size and lr must be positive, got {lengths[0]}, {self.batch_size}, {self.lr}",
                where=where,
            )
        if not 0 <= self.warmup_ratio < 1:
            raise ConfigError(f"warm-up ratio must be in [0, 1), got {self.warmup_ratio}", where=where)
        if not self.template:
            raise ConfigError("no template named", where=where)
        if self.weight_decay < 0 or self.clip_norm <= 0 or self.eps <= 0:
            raise ConfigError(
                f"weight decay must be 0 or more, clip_norm and eps positive, got {self.weight_decay}, "
                f"{self.clip_norm}, {self.eps}",
                where=where,
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ConfigError(f"betas must be in [0, 1), got {list(self.betas)}", where=where)
        if self.micro_batch is not None and (self.micro_batch < 1 or self.batch_size % self.micro_batch):
            raise ConfigError(
                f"a batch of {self.batch_size} is no whole number of micro-batches of {self.micro_batch}",
                where=where,
                fix="choose a micro_batch that divides the batch size",
            )

    def num_steps(self, num_rows: int) -> int:
        """Returns the optimiser updates over so many conversations: ceil(epochs · rows / batch), as a data loader does.

        Source: transformers' Trainer keeps the last, smaller batch; here it is filled up.
        """
        if self.steps is not None:
            return self.steps
        assert self.epochs is not None
        return max(1, math.ceil(self.epochs * num_rows / self.batch_size))

    def warmup_steps_of(self, steps: int) -> int:
        """Returns the steps of linear warm-up, rounded up as transformers does."""
        return -int(-steps * self.warmup_ratio // 1)

    @property
    def warmup_steps(self) -> int:
        """Steps of linear warm-up of a stage whose length is given in steps."""
        assert self.steps is not None, "a stage of epochs has no number of steps without its data"
        return self.warmup_steps_of(self.steps)

    def identity(self) -> dict[str, Any]:
        """Returns the settings that can change a weight, by name; what is at its default and came later is left out.

        Under `global_tokens` the size of a pass changes nothing but rounding, so it is no part of it.
        """
        plain = {entry.name: entry.default for entry in fields(self)}
        found = {
            name: value
            for name, value in asdict(self).items()
            if name != "checkpoint_every" and not (name in _LATER_STAGE and value == plain[name])
        }
        if self.steps is None:
            del found["steps"]
        if self.loss_normalisation == "global_tokens":
            found.pop("micro_batch", None)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class GateConfig:
    """What stage 1 must have reached before stage 2 spends its time; see `gate.py`. Bounds are ours, not published."""

    mode: Literal["refuse", "warn", "off"] = "refuse"
    num_images: int = 64  # conversations of stage 1 that are held out of the training for it
    max_loss: float = 3.0  # nats a token, mean of the last tenth of the log
    min_drop: float = 0.2  # share by which the loss must have fallen since the first log row
    min_gain: float = 0.05  # nats a token by which own images must beat other ones and none
    max_empty: float = 0.0  # share of captions without a word
    min_distinct_captions: float = 0.1  # different captions per image
    min_distinct_bigrams: float = 0.02  # different word pairs per word pair: falls where captions repeat a phrase
    max_new_tokens: int = 48  # of a caption

    def __post_init__(self) -> None:
        where = "understanding.gate"
        if self.num_images < 2 or self.max_new_tokens < 1 or not 0 < self.max_loss < math.inf:
            raise ConfigError(
                f"num_images must be 2 or more, max_new_tokens and max_loss positive, got {self.num_images}, "
                f"{self.max_new_tokens}, {self.max_loss}",
                where=where,
            )
        for name in ("min_drop", "max_empty", "min_distinct_captions", "min_distinct_bigrams"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} must be in [0, 1], got {getattr(self, name)}", where=where)

    @property
    def num_held_out(self) -> int:
        """Conversations that stage 1 does not train on."""
        return 0 if self.mode == "off" else self.num_images


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
    num_turns: int = 8  # questions per conversation in stage 2, at most; of the world's data
    max_length: int = 2048  # positions after splicing; longer samples are cut
    precision: Precision = "bfloat16"
    strict_reference: bool = True  # mask whole samples where the reference implementation does
    gradient_checkpointing: bool = False  # computes activations twice instead of keeping them; changes no result
    gate: GateConfig = field(default_factory=lambda: GateConfig(mode="off"))

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
        return replace(
            self,
            stage1=replace(self.stage1, steps=stage1, epochs=None),
            stage2=replace(self.stage2, steps=stage2, epochs=None),
        )

    def identity(self) -> dict[str, Any]:
        """Returns what identifies a training: everything that can change a weight, by name.

        Contract: equal to that of earlier versions for the recipes that they knew.
        """
        # Every recipe up to now has saved each 100 steps and said so; how often it is done changes no weight.
        stages = {
            name: {**stage.identity(), "checkpoint_every": 100}
            for name, stage in (("stage1", self.stage1), ("stage2", self.stage2))
        }
        found = {
            "language_model": self.language_model,
            "projector": self.projector,
            **stages,
            "num_turns": self.num_turns,
            "max_length": self.max_length,
            "precision": self.precision,
            "strict_reference": self.strict_reference,
        }
        return found | ({"num_held_out": self.gate.num_held_out} if self.gate.num_held_out else {})
