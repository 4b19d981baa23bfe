"""From the words of `ovbench plan` to a forecast per encoder. Weights of released encoders are neither needed nor read.

An encoder's size comes from its network without weights; the small embedded ones are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.names import lookup
from ovbench.encoders.base import DType, Encoder, EncoderInfo, check_dtype_name
from ovbench.encoders.modeling.measure import Flops, _counted, _without_weights, count_flops
from ovbench.encoders.modeling.vae_encoder import VAEEncoder
from ovbench.encoders.registry import EncoderSpec, load_encoder, parse_encoder, with_options
from ovbench.harness.generation.budget import Budget, EncoderCost
from ovbench.harness.generation.options_config import GenerationOptions, parse_guidance
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.plan import plan_runs
from ovbench.harness.planning import Forecast, PlannedStep, Precision
from ovbench.harness.protocols import SECTIONS, Protocol, load_protocol
from ovbench.results.store import RunStore
from ovbench.tasks.load import load_suite
from ovbench.tasks.pictures import load_picture_task


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What `ovbench plan` was asked."""

    encoders: Sequence[str]
    suite: str
    protocol: str
    num_samples: int | None = None  # None: the protocol's
    guidance: str | None = None  # as `parse_guidance` reads it; None: the protocol's
    seeds: Sequence[int] = (0,)
    dtype: str = "float32"  # of the encoder
    precision: Precision | None = None  # of everything but the scoring networks; None: the protocol's and dtype


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """All forecasts of one command."""

    headline: str  # which weights and which protocol
    forecasts: tuple[Forecast, ...]


def look_ahead(request: PlanRequest, runs: Path) -> Outlook:
    """Returns what the runs of a command would do.

    Args:
        request: What is asked.
        runs: Folder of run records, which tell how long steps once took. It need not exist.

    Raises:
        ConfigError: An unknown name (with a suggestion), a suite that the protocol lacks, a number out of range, or an
            encoder that the protocol cannot use.
    """
    lookup(SECTIONS, request.suite, kind="suite", where="--suite")
    protocol = load_protocol(request.protocol)
    protocol.section(request.suite)
    if request.suite != "generation":
        for flag, value in (("--num-samples", request.num_samples), ("--guidance", request.guidance)):
            if value is not None:
                raise ConfigError(
                    f"it has no effect on the suite '{request.suite}'", where=flag, fix="add --suite generation"
                )
    tasks = load_suite(request.suite, request.protocol)
    specs = _specs(request, protocol)
    found: list[Forecast] = []
    for spec in specs:
        if request.suite == "understanding":
            forecast = _understanding(spec, protocol, tasks, request)
        else:
            forecast = _pictures(spec, protocol, tasks, request)
        if request.precision is not None:
            steps = tuple(step.in_precision(request.precision) for step in forecast.steps)
            forecast = replace(forecast, steps=steps, sample_precision=request.precision)
        found.append(_with_times(forecast, measured(RunStore(runs), spec, request.suite, protocol)))
    weights = ", ".join(f"{spec.name} ({spec.origin})" for spec in specs)
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(request.seeds))
    headline = (
        f"plan · protocol {protocol.label} · suite {request.suite} ({', '.join(tasks)}) · seed {seeds} · {weights}"
    )
    return Outlook(headline=headline, forecasts=tuple(found))


def _specs(request: PlanRequest, protocol: Protocol) -> tuple[EncoderSpec, ...]:
    """Returns the encoders, each once; refuses what a run would refuse."""
    check_dtype_name(request.dtype)
    if request.suite == "understanding":
        checked = plan_runs(
            encoders=request.encoders,
            suite=request.suite,
            protocol=request.protocol,
            tasks=None,
            limit=None,
            seeds=request.seeds,
            device="cpu",
            dtype=request.dtype,
            batch_size=1,
            out=None,
        )
        return tuple({job.encoder.canonical: job.encoder for job in checked.jobs}.values())
    if not request.encoders:
        raise ConfigError(
            "no encoder named", where="--encoder", fix="for instance: --encoder dinov2; see: ovbench encoders"
        )
    if bad := [seed for seed in request.seeds if seed < 0]:
        raise ConfigError(f"a seed must be 0 or more, got {bad[0]}", where="--seed")
    specs = (parse_encoder(text, protocol=protocol.variants) for text in request.encoders)
    return tuple({spec.canonical: spec for spec in specs}.values())


def _pictures(spec: EncoderSpec, protocol: Protocol, tasks: Sequence[str], request: PlanRequest) -> Forecast:
    where = f"protocol '{protocol.name}', generation"
    recipe = read_recipe(protocol.section(request.suite), where=where)
    sampling = recipe.sampling
    if request.num_samples is not None:
        GenerationOptions(num_samples=request.num_samples)  # refuses a number that is too small
        sampling = replace(sampling, num_samples=request.num_samples)
    if request.guidance is not None:
        sampler = replace(sampling.sampler, guidance=parse_guidance(request.guidance))
        sampling = replace(sampling, sampler=sampler)
    recipe = replace(recipe, sampling=sampling)
    task = load_picture_task(tasks[0])
    cost = encoder_cost(spec, recipe, precision=_precision_of(spec, request.dtype))
    budget = Budget(recipe, cost, num_seeds=len(set(request.seeds)))
    forecast = budget.generation(task) if task.kind == "generation" else budget.reconstruction(task)
    not_looked_up = "which steps are cached was not looked up: their keys need the weights"
    return replace(forecast, notes=(*forecast.notes, not_looked_up))


def _precision_of(spec: EncoderSpec, dtype: str) -> Precision:
    named: DType = check_dtype_name(spec.options.get("dtype", dtype))
    # Half precision of either kind has the same peak.
    return "float32" if named == "float32" else "bfloat16"


def encoder_cost(spec: EncoderSpec, recipe: GenerationRecipe, *, precision: Precision) -> EncoderCost:
    """Returns the size of an encoder that is given the input size which makes the protocol's grid.

    Args:
        spec: The encoder; where it says a size itself, that is kept.
        recipe: The protocol's `generation` section.
        precision: That the encoder computes in.

    Raises:
        OvbenchError: Its network cannot be drawn up without weights, or it cannot read that size.
    """
    size = sized(spec)
    info = size.info
    if "size" not in spec.options:
        # A VAE reads the picture itself, and its cells are folded into tokens; others get the size that makes the grid.
        px = recipe.data.image_px if info.supports_decode else recipe.grid * info.patch_px
        if info.input.size != (px, px):
            size = sized(with_options(spec, size=str(px)))
            info = size.info
    height, width = info.grid
    if height != width:
        raise ConfigError(
            f"'{spec.name}' makes {height} x {width} tokens, and latents must be square",
            where="--encoder",
            fix="choose another encoder or a square size for --suite generation",
        )
    factor = 1
    if info.supports_decode and height > recipe.grid:
        factor, rest = divmod(height, recipe.grid)
        if rest:
            raise ConfigError(
                f"{height} x {height} cells cannot be folded into {recipe.grid} x {recipe.grid} tokens",
                where="--encoder",
                fix=f"give it a size that makes a multiple of {recipe.grid} cells along a side",
            )
    return EncoderCost(
        name=spec.canonical,
        flops=size.flops.network,
        frontend_flops=size.flops.frontend,
        params=info.num_params + info.num_params_frontend,
        shape=(info.dim * factor * factor, height // factor, width // factor),
        precision=precision,
        native_flops=size.decode_flops,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """What is known of an encoder without its weights."""

    info: EncoderInfo
    flops: Flops  # of one picture
    decode_flops: int | None  # of its own decoder for one picture; None: it has none


def sized(spec: EncoderSpec) -> Size:
    """Returns an encoder's size at the input that its spec says.

    Raises:
        OvbenchError: See `encoder_cost`.
    """
    try:
        if spec.variant.origin == "embedded" and spec.source is None and spec.random_seed is None:
            return _size_of(load_encoder(spec))
        with _without_weights():
            return _size_of(load_encoder(with_options(spec, weights="random:0")))
    except OvbenchError:
        raise
    except Exception as error:
        if spec.family.provider == "ovbench":
            raise
        raise ConfigError(
            f"the network of '{spec.name}' cannot be drawn up without weights: {type(error).__name__}: {error}",
            where="--encoder",
            fix=f"tell the authors of {spec.family.provider}",
        ) from error


def _size_of(encoder: Encoder) -> Size:
    own: int | None = None
    if isinstance(encoder, VAEEncoder):
        latents = torch.zeros(1, encoder.info.dim, *encoder.info.grid)
        own = _counted(lambda: encoder.decode(latents))
    return Size(info=encoder.info, flops=count_flops(encoder), decode_flops=own)


def measured(store: RunStore, spec: EncoderSpec, suite: str, protocol: Protocol) -> Mapping[str, float]:
    """Returns how long each kind of step took when it was made, from the newest record of these runs; empty: none.

    Args:
        store: Records.
        spec: The encoder.
        suite: Of the run.
        protocol: Its name and version must be the record's.
    """
    for record in reversed(store.records()):
        same = (record.encoder.spec, record.suite, record.protocol.name, record.protocol.version) == (
            spec.canonical,
            suite,
            protocol.name,
            protocol.version,
        )
        if same and record.limit is None:
            times: dict[str, float] = {}
            unknown: set[str] = set()
            for step in record.steps:
                if step.made_in_s is None:
                    unknown.add(step.name)
                else:
                    times[step.name] = times.get(step.name, 0.0) + step.made_in_s
            return {name: seconds for name, seconds in times.items() if name not in unknown}
    return {}


def _with_times(forecast: Forecast, times: Mapping[str, float]) -> Forecast:
    steps = tuple(
        step if step.made_in_s is not None else replace(step, made_in_s=times.get(step.name)) for step in forecast.steps
    )
    return replace(forecast, steps=steps)


def _understanding(spec: EncoderSpec, protocol: Protocol, tasks: Sequence[str], request: PlanRequest) -> Forecast:
    section = protocol.section("understanding")
    size = sized(spec)
    cost = EncoderCost(
        name=spec.canonical,
        flops=size.flops.network,
        frontend_flops=size.flops.frontend,
        params=size.info.num_params + size.info.num_params_frontend,
        shape=(size.info.dim, *size.info.grid),
        precision=_precision_of(spec, request.dtype),
    )
    scenes = int(section["num_train_scenes"])
    uncounted = "the language model's operations are not counted"
    stages = (
        PlannedStep(
            name=f"llava_stage{number}",
            what=f"{section[key]['steps']:,} updates of {section[key]['batch_size']} scenes",
            repeats=len(set(request.seeds)),
            missing=uncounted,
        )
        for number, key in ((1, "stage1"), (2, "stage2"))
    )
    controls = 1 + len(section["controls"])
    return Forecast(
        encoder=spec.canonical,
        steps=(
            PlannedStep(
                name="features",
                what=f"{scenes:,} training scenes, and those of the tasks",
                work=cost.work(scenes),
                missing="scenes of the tasks are not counted",
            ),
            *stages,
            PlannedStep(
                name="answers",
                what=f"{', '.join(tasks)}, {controls} times each with the controls",
                repeats=len(set(request.seeds)),
                missing=uncounted,
            ),
        ),
        params={"encoder": cost.params},
        forward_flops={"encoder": cost.total_flops},
        notes=("which steps are cached was not looked up: their keys need the weights",),
    )
