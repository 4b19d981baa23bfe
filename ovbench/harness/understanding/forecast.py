"""What an understanding run would cost: operations of encoder and language model, memory, disk. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ovbench.harness.planning import Amount, PlannedStep, Work
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.llm_cost import LlmShape

# Rows and text positions of LLaVA-1.5's two files (LLaVA README; positions such that the sums are those of a 7B run).
_ROWS = {1: 558_128, 2: 665_298}
_TEXT = {1: 35, 2: 430}
_ADAM_BYTES = 16  # of a trained parameter: float32 weight, gradient and two moments


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """What the operations of a run depend on."""

    config: LlavaConfig
    shape: LlmShape
    num_tokens: int  # visual tokens of a picture
    dim: int  # their width
    shares: tuple[float, float]  # of the two files


def stage_steps(sizes: Sizes, *, repeats: int) -> tuple[PlannedStep, ...]:
    """Returns both stages with their operations.

    Stage 1 computes the gradient of activations alone, twice a forward pass; stage 2 that of weights too, three times.
    Gradient checkpointing adds one forward pass. The encoder's part is in the features step.
    """
    return tuple(_stage(sizes, stage, repeats=repeats) for stage in (1, 2))


def _stage(sizes: Sizes, stage: int, *, repeats: int) -> PlannedStep:
    settings = sizes.config.stage(stage)
    rows = round(_ROWS[stage] * sizes.shares[stage - 1])
    steps = settings.num_steps(rows)
    positions = min(sizes.num_tokens + _TEXT[stage], sizes.config.max_length)
    passes = (2 if stage == 1 else 3) + (1 if sizes.config.gradient_checkpointing else 0)
    flops = passes * steps * settings.batch_size * sizes.shape.forward_flops(positions, logits_at=_TEXT[stage])
    precision = "bfloat16" if sizes.config.precision == "bfloat16" else "float32"
    return PlannedStep(
        name=f"llava_stage{stage}",
        what=f"{steps:,} updates of {settings.batch_size}, about {positions:,} positions each",
        work=(Work(what="language model", flops=flops, precision=precision),),
        repeats=repeats,
        missing="text is taken to be of the mean length of LLaVA-1.5's data",
    )


def memory_of(sizes: Sizes) -> tuple[Amount, ...]:
    """Returns what weights, gradients and the optimiser take in each stage, activations left out."""
    projector = (sizes.dim + 1) * sizes.shape.hidden + (sizes.shape.hidden + 1) * sizes.shape.hidden
    model = sizes.shape.num_params
    return (
        Amount(what="stage 1: projector in training, frozen model", num_bytes=projector * _ADAM_BYTES + 4 * model),
        Amount(
            what="stage 2: projector and model in training; --sharding fsdp2 divides it by the number of GPUs",
            num_bytes=(projector + model) * _ADAM_BYTES,
        ),
    )


def disk_of(sizes: Sizes, *, repeats: int) -> tuple[Amount, ...]:
    """Returns what checkpoints and weights of stage 2 take: float32, with both moments while it is trained."""
    model = sizes.shape.num_params
    return (
        Amount(what="trained weights", num_bytes=4 * model * repeats),
        Amount(what="checkpoint of stage 2, while it is trained", num_bytes=12 * model),
    )


def feature_bytes(num_images: Sequence[int], num_tokens: int, dim: int) -> int:
    """Returns the size of cached features, two bytes a number."""
    return 2 * sum(num_images) * num_tokens * dim
