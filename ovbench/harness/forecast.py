"""From the words of `ovbench plan` to a forecast per encoder. Weights of released encoders are neither needed nor read.

An encoder's size comes from its network without weights; the small embedded ones are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.encoders.base import Encoder, EncoderInfo
from ovbench.encoders.modeling.measure import Flops, count_flops, counted_flops, without_weights
from ovbench.encoders.registry import EncoderSpec, load_encoder, parse_encoder, with_options
from ovbench.harness.generation.budget import Budget, EncoderCost
from ovbench.harness.generation.budget_forecast import generation_forecast, reconstruction_forecast
from ovbench.harness.generation.flow_config import GuidanceConfig
from ovbench.harness.generation.input_sizes import at_the_grid, fold_of, is_native
from ovbench.harness.generation.options_config import GenerationOptions, guidance_text, parse_guidance
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.lookup import is_embedded, look_up
from ovbench.harness.plan import ALL, Job, Plan, plan_runs
from ovbench.harness.planning import Forecast, Precision
from ovbench.harness.protocols import load_protocol
from ovbench.harness.steps import StepCache
from ovbench.harness.understanding.forecast import understanding_forecast
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from ovbench.tasks.pictures import PictureTask


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRequest:
    """What `ovbench plan` was asked."""

    encoders: Sequence[str]
    suite: str
    protocol: str
    num_samples: int | None = None  # None: the protocol's
    guidance: str | Sequence[str] | None = None  # as `parse_guidance` reads it, or a sweep; None: the protocol's
    seeds: Sequence[int] = (0,)
    dtype: str = "float32"  # of the encoder
    precision: Precision | None = None  # of everything but the scoring networks; None: as it would be run


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """All forecasts of one command."""

    headline: str  # which weights and which protocol
    forecasts: tuple[Forecast, ...]

    @property
    def by_encoder(self) -> dict[str, list[Forecast]]:
        """The forecasts of each encoder: one per suite, and per guidance of a sweep."""
        found: dict[str, list[Forecast]] = {}
        for forecast in self.forecasts:
            found.setdefault(forecast.encoder, []).append(forecast)
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """What one forecast per encoder is made of."""

    suite: str
    guidance: GuidanceConfig | None = None  # None: the protocol's
    text: str = ""  # of the guidance, as it was asked for
    encoders: Sequence[str]

    @property
    def wants_guide(self) -> bool:
        """Whether samples need the weights of a weaker network, which a plan has not."""
        return self.guidance is not None and self.guidance.kind == "auto"


def look_ahead(request: PlanRequest, *, runs: Path, cache: Path) -> Outlook:
    """Returns what the runs of a command would do.

    Args:
        request: What is asked.
        runs: Folder of run records, which tell how long steps once took. It need not exist.
        cache: Folder of finished steps.

    Raises:
        ConfigError: An unknown name (with a suggestion), a suite that the protocol lacks, a number out of range, or an
            encoder that the protocol cannot use.
    """
    headlines: list[str] = []
    forecasts: list[Forecast] = []
    for part in _parts(request):
        plan = _plan_of(part, request)
        headlines.append(plan.headline.replace(f" · {plan.jobs[0].device} · ", " · "))  # nothing runs, so nowhere
        jobs: dict[str, list[Job]] = {}
        for job in plan.jobs:
            jobs.setdefault(job.encoder.canonical, []).append(job)
        forecasts += [_ahead(part, same, request.precision, runs=runs, cache=cache) for same in jobs.values()]
    return Outlook(headline=f"plan · {' · '.join(dict.fromkeys(headlines))}", forecasts=tuple(forecasts))


def _parts(request: PlanRequest) -> list[_Part]:
    """Returns what is asked for, a suite and a guidance at a time."""
    suites = (request.suite,) if request.suite != ALL else load_protocol(request.protocol).suites
    texts = [request.guidance] if isinstance(request.guidance, str) else list(request.guidance or ())
    if "generation" not in suites:
        for flag, value in (("--num-samples", request.num_samples), ("--guidance", texts or None)):
            if value is not None:
                raise ConfigError(f"it needs --suite generation or all, got '{request.suite}'", where=flag)
    sweep = {parse_guidance(text): text for text in texts}
    parts: list[_Part] = []
    for suite in suites:
        encoders = [name for name in request.encoders if len(suites) == 1 or _is_for(name, suite, request.protocol)]
        if request.encoders and not encoders:
            continue
        if suite != "generation" or not sweep:
            parts.append(_Part(suite=suite, encoders=encoders))
            continue
        parts += [
            _Part(suite=suite, guidance=guidance, text=text, encoders=encoders) for guidance, text in sweep.items()
        ]
    return parts


def _is_for(name: str, suite: str, protocol: str) -> bool:
    """Whether a suite of several takes an encoder, as `ovbench run --suite all` decides it."""
    spec = parse_encoder(name, protocol=load_protocol(protocol).variants)
    return suite != "understanding" or spec.variant.for_understanding


def _plan_of(part: _Part, request: PlanRequest) -> Plan:
    # Autoguidance needs weights, which a plan does not: it only has no keys then.
    options = GenerationOptions(
        num_samples=request.num_samples if part.suite == "generation" else None,
        guidance=None if part.wants_guide else part.guidance,
    )
    return plan_runs(
        encoders=part.encoders,
        suite=part.suite,
        protocol=request.protocol,
        tasks=None,
        limit=None,
        seeds=request.seeds,
        device="cpu",
        dtype=request.dtype,
        batch_size=64,
        out=None,
        generation=[options] if part.suite == "generation" else None,
    )


def _ahead(part: _Part, jobs: Sequence[Job], precision: Precision | None, *, runs: Path, cache: Path) -> Forecast:
    """Returns the forecast of one encoder's jobs of a part, one per seed."""
    job = jobs[0]
    forecast = (
        understanding_forecast(jobs[0], _encoder_cost(jobs[0]), repeats=len(jobs))
        if part.suite == "understanding"
        else _pictures(jobs, part.guidance)
    )
    forecast = replace(forecast, suite=part.suite, guidance=part.text)
    if not part.wants_guide:  # what a guide costs depends on its weights
        forecast = _with_times(forecast, measured(RunStore(runs), job))
    if part.suite == "understanding" and job.protocol.section(part.suite).get("data") is not None:
        note = "which steps are cached was not looked up: their keys need the weights and the lists of conversations"
        forecast = replace(forecast, notes=(*forecast.notes, note))
    elif is_embedded(job.encoder) and job.protocol.variants == "mini" and not part.wants_guide:
        forecast = look_up(forecast, jobs, StepCache(cache))
    else:
        note = "which steps are cached was not looked up: their keys need the weights of the encoder"
        forecast = replace(forecast, notes=(*forecast.notes, note))
    if precision is None:
        return forecast
    steps = tuple(step.in_precision(precision) for step in forecast.steps)
    return replace(forecast, steps=steps, sample_precision=precision)


def _pictures(jobs: Sequence[Job], guidance: GuidanceConfig | None) -> Forecast:
    job = jobs[0]
    recipe = _recipe(job)
    sampling, options = recipe.sampling, job.generation or GenerationOptions()
    if options.num_samples is not None:
        sampling = replace(sampling, num_samples=options.num_samples)
    if guidance is not None:
        sampling = replace(sampling, sampler=replace(sampling.sampler, guidance=guidance))
    recipe = replace(recipe, sampling=sampling)
    task = cast(PictureTask, job.tasks[0])
    cost = encoder_cost(job.encoder, recipe, precision="tf32" if _is_float32(job) else "bfloat16")
    budget = Budget(recipe, cost, num_seeds=len(jobs))
    return generation_forecast(budget, task) if task.kind == "generation" else reconstruction_forecast(budget, task)


def _recipe(job: Job) -> GenerationRecipe:
    return read_recipe(job.protocol.section(job.suite), where=f"protocol '{job.protocol.name}', generation")


def _is_float32(job: Job) -> bool:
    return job.encoder.options.get("dtype", job.dtype) in ("float32", "fp32")  # the spec's own word comes first


def encoder_cost(spec: EncoderSpec, recipe: GenerationRecipe, *, precision: Precision) -> EncoderCost:
    """Returns the size of an encoder that is given the input size which makes the protocol's grid.

    Args:
        spec: The encoder; where it says a size itself, that is kept.
        recipe: The protocol's `generation` section.
        precision: That the encoder computes in.

    Raises:
        OvbenchError: Its network cannot be drawn up without weights, it cannot read that size, or the protocol cannot
            use what it makes of it.
    """
    size = at_the_grid(spec, recipe, sized)
    info, fold = size.info, fold_of(size.info, recipe)
    _ = is_native(info, recipe)  # what a run would refuse is refused here
    return EncoderCost(
        name=spec.canonical,
        flops=size.flops.network,
        frontend_flops=size.flops.frontend,
        params=info.num_params + info.num_params_frontend,
        shape=(info.dim, *info.grid),
        fold=fold,
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
        if spec.variant.origin in ("embedded", "untrained"):  # small, also where a file of `ovbench pretrain` is named
            return _size_of(load_encoder(spec))
        with without_weights():
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
    if encoder.info.supports_decode:
        latents = torch.zeros(1, encoder.info.dim, *encoder.info.grid)
        own = counted_flops(lambda: cast(Any, encoder).decode(latents))
    return Size(info=encoder.info, flops=count_flops(encoder), decode_flops=own)


def measured(store: RunStore, job: Job) -> Mapping[str, float]:
    """Returns how long each kind of step took when it was made, from the newest record of such a run; empty: none.

    Args:
        store: Records.
        job: Encoder, suite, protocol, number of samples and guidance must be the record's; the seed need not.
    """
    for record in reversed(store.records()):
        if _is_like(record, job):
            times: dict[str, float] = {}
            unknown: set[str] = set()
            for step in record.steps:
                if step.made_in_s is None:
                    unknown.add(step.name)
                else:
                    times[step.name] = times.get(step.name, 0.0) + step.made_in_s
            return {name: seconds for name, seconds in times.items() if name not in unknown}
    return {}


def _is_like(record: RunRecord, job: Job) -> bool:
    """Whether a record is of such a run as the job, but for the seed."""
    name, num_samples = job.protocol.name, None
    if job.suite == "generation":
        sampling, options = _recipe(job).sampling, job.generation or GenerationOptions()
        num_samples = options.num_samples or sampling.num_samples
        if options.guidance not in (None, sampling.sampler.guidance):
            name = f"{name}, guidance {guidance_text(options.guidance)}"  # as such records are named
    return (
        record.encoder.spec == job.encoder.canonical
        and record.suite == job.suite
        and (record.protocol.name, record.protocol.version) == (name, job.protocol.version)
        and record.limit is None
        and all(task.n == num_samples for task in record.tasks if task.kind == "generation")
    )


def _with_times(forecast: Forecast, times: Mapping[str, float]) -> Forecast:
    steps = tuple(
        step if step.made_in_s is not None else replace(step, made_in_s=times.get(step.name)) for step in forecast.steps
    )
    return replace(forecast, steps=steps)


def _encoder_cost(job: Job) -> EncoderCost:
    size = sized(job.encoder)
    return EncoderCost(
        name=job.encoder.canonical,
        flops=size.flops.network,
        frontend_flops=size.flops.frontend,
        params=size.info.num_params + size.info.num_params_frontend,
        shape=(size.info.dim, *size.info.grid),
        # This suite leaves torch's matrix products in float32 as they are.
        precision="float32" if _is_float32(job) else "bfloat16",
    )
