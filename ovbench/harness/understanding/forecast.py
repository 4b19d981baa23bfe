"""What an understanding run would cost: operations of encoder and language model, memory, disk. Nothing is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ovbench.harness.plan import Job
from ovbench.harness.planning import Amount, Forecast, PlannedStep, Work
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.llm_cost import LlmShape, llm_shape
from ovbench.harness.understanding.options_config import UnderstandingOptions
from ovbench.harness.understanding.section_config import UnderstandingSection, read_section

# Rows of LLaVA-1.5's two files, and the mean number of text positions of a row, by which both stages of a 7B model
# come to the times that its authors report.
_ROWS = {1: 558_128, 2: 665_298}
_TEXT = {1: 35, 2: 430}
_ADAM_BYTES = 16  # of a trained parameter: float32 weight, gradient and two moments


class Seeing(Protocol):
    """What a forecast needs of the encoder."""

    @property
    def name(self) -> str:
        """Spec in its longest form."""
        ...

    @property
    def params(self) -> int:
        """Parameters, those of a front end too."""
        ...

    @property
    def shape(self) -> tuple[int, int, int]:
        """Width of a token, rows and columns of the grid."""
        ...

    @property
    def total_flops(self) -> int:
        """Operations of one picture."""
        ...

    def work(self, num_images: int, /) -> tuple[Work, ...]:
        """Returns the work of so many pictures."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class _Sizes:
    config: LlavaConfig
    shape: LlmShape
    num_tokens: int
    dim: int
    rows: Mapping[int, int]  # stage → conversations


def understanding_forecast(job: Job, cost: Seeing, *, repeats: int) -> Forecast:
    """Returns what the runs of one encoder would do.

    Args:
        job: One of them.
        cost: Of the encoder.
        repeats: Number of seeds.
    """
    section = read_section(job.protocol.section("understanding"), where=f"protocol '{job.protocol.name}'")
    options = job.understanding or UnderstandingOptions()
    name = options.language_model or section.llava.language_model
    shape = llm_shape(name)
    dim, high, wide = cost.shape
    sizes = None
    if shape is not None and section.data is not None:
        shares = {1: section.data.stage1.share, 2: section.data.stage2.share}
        rows = {stage: round(_ROWS[stage] * shares[stage]) for stage in (1, 2)}
        rows[1] -= section.llava.gate.num_held_out
        sizes = _Sizes(config=section.llava, shape=shape, num_tokens=high * wide, dim=dim, rows=rows)
    answers = PlannedStep(
        name="answers",
        what=f"{', '.join(task.name for task in job.tasks)}, with {len(section.controls)} controls each",
        repeats=repeats,
        missing="operations of the questions are not counted: they need the data",
    )
    return Forecast(
        encoder=cost.name,
        steps=(_features(section, sizes, cost), *_stages(section, sizes, repeats), answers),
        params={"encoder": cost.params} | ({} if shape is None else {"language model": shape.num_params}),
        forward_flops={"encoder": cost.total_flops},
        memory=() if sizes is None else _memory(sizes),
        disk=() if sizes is None else _disk(sizes, repeats),
    )


def _features(section: UnderstandingSection, sizes: _Sizes | None, cost: Seeing) -> PlannedStep:
    if sizes is None:
        scenes = section.num_train_scenes or 0
        return PlannedStep(
            name="features",
            what=f"{scenes:,} training scenes, and those of the tasks",
            work=cost.work(scenes),
            missing="scenes of the tasks are not counted",
        )
    rows = sum(sizes.rows.values())
    return PlannedStep(
        name="features",
        what=f"{rows:,} training pictures, and those of the tasks",
        work=cost.work(rows),
        missing="pictures of the tasks are not counted",
    )


def _stages(section: UnderstandingSection, sizes: _Sizes | None, repeats: int) -> tuple[PlannedStep, ...]:
    if sizes is not None:
        return tuple(_stage(sizes, stage, repeats) for stage in (1, 2))
    found: list[PlannedStep] = []
    for stage in (1, 2):
        settings = section.llava.stage(stage)
        found.append(
            PlannedStep(
                name=f"llava_stage{stage}",
                what=f"{settings.num_steps(section.num_train_scenes or 1):,} updates of {settings.batch_size} scenes",
                repeats=repeats,
                missing="the language model's operations are not counted",
            )
        )
    return tuple(found)


def _stage(sizes: _Sizes, stage: int, repeats: int) -> PlannedStep:
    """Returns a stage with its operations.

    Stage 1 computes the gradient of activations alone, twice a forward pass in all; stage 2 that of weights too, three
    times. Gradient checkpointing adds one forward pass. The encoder's part is in the features step.
    """
    settings = sizes.config.stage(stage)
    steps = settings.num_steps(sizes.rows[stage])
    positions = min(sizes.num_tokens + _TEXT[stage], sizes.config.max_length)
    passes = (2 if stage == 1 else 3) + (1 if sizes.config.gradient_checkpointing else 0)
    flops = passes * steps * settings.batch_size * sizes.shape.forward_flops(positions, logits_at=_TEXT[stage])
    precision = "bfloat16" if sizes.config.precision == "bfloat16" else "float32"
    return PlannedStep(
        name=f"llava_stage{stage}",
        what=f"{steps:,} updates of {settings.batch_size}, about {positions:,} positions each",
        work=(Work(what="language model", flops=flops, precision=precision),),
        repeats=repeats,
        missing="text is taken to be as long as LLaVA-1.5's on average",
    )


def _memory(sizes: _Sizes) -> tuple[Amount, ...]:
    """Returns what weights, gradients and the optimiser take in each stage, activations left out."""
    projector = (sizes.dim + 1) * sizes.shape.hidden + (sizes.shape.hidden + 1) * sizes.shape.hidden
    model = sizes.shape.num_params
    return (
        Amount(what="stage 1: projector in training, frozen model", num_bytes=projector * _ADAM_BYTES + 4 * model),
        Amount(
            what="stage 2: projector and model in training; --sharding fsdp2 divides it by the GPUs",
            num_bytes=(projector + model) * _ADAM_BYTES,
        ),
    )


def _disk(sizes: _Sizes, repeats: int) -> tuple[Amount, ...]:
    """Returns what checkpoints and weights of stage 2 take: float32, with both moments while it is trained."""
    model = sizes.shape.num_params
    return (
        Amount(what="trained weights", num_bytes=4 * model * repeats),
        Amount(what="checkpoint of stage 2, while it is trained", num_bytes=12 * model),
    )
