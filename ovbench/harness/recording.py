"""An outcome → the record of the run and its per-question rows."""

from __future__ import annotations

import time
from typing import Any

import torch

from ovbench import __version__
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.registry import is_own, stated
from ovbench.harness.metrics.base import values_of
from ovbench.harness.metrics.score import sample_rows, score_task
from ovbench.harness.plan import Job
from ovbench.harness.recording_sources import incomplete, protocol_of, scorer_of, sources_of
from ovbench.harness.steps import StepResult
from ovbench.harness.understanding.pipeline import Outcome
from ovbench.results.provenance import cpu_model, git_state, num_cores, package_versions, peak_rss_bytes, utc
from ovbench.results.record import (
    EncoderRecord,
    Environment,
    Measurement,
    MetricValue,
    RunRecord,
    StepRecord,
    TaskRecord,
)
from ovbench.tasks.base import TaskSpec


def make_record(job: Job, outcome: Outcome, *, began: float) -> tuple[RunRecord, list[dict[str, Any]]]:
    """Returns the record of an understanding run and one row per question and control.

    Args:
        job: What was run.
        outcome: Its answers and steps.
        began: Seconds since the epoch.
    """
    tasks: list[TaskRecord] = []
    metrics: list[MetricValue] = []
    rows: list[dict[str, Any]] = []
    for spec in job.question_tasks:
        answers = outcome.answers[spec.name]
        samples = answers.data.samples
        tasks.append(
            TaskRecord(
                name=spec.name,
                version=spec.version,
                title=spec.title,
                kind=spec.kind,
                family=spec.family,
                scorer=scorer_of(outcome, spec),
                headline=spec.headline,
                chance=spec.chance,
                groups=spec.groups,
                data_digest=answers.data.digest,
                n=len(samples),
                num_total=answers.data.num_total,
                citation=spec.citation,
                licence=spec.licence,
            )
        )
        for control, predictions in answers.by_control.items():
            metrics += values_of(score_task(spec, samples, predictions), spec.name, control)
            rows += sample_rows(spec.name, control, samples, predictions)
        metrics += [
            _not_scored(spec, control, reason)
            for (task, control), reason in outcome.not_scored.items()
            if task == spec.name
        ]
    record = RunRecord.new(
        suite=job.suite,
        seed=job.seed,
        limit=job.limit,
        encoder=encoder_record(job, outcome.encoder, outcome.tap),
        protocol=protocol_of(job, outcome),
        tasks=tuple(tasks),
        metrics=tuple(metrics),
        steps=tuple(step_record(step) for step in outcome.steps),
        measurements=_measurements(outcome),
        environment=environment_of(job, outcome.encoder.info.dtype),
        started_utc=utc(began),
        finished_utc=utc(time.time()),
        complete=True,
        warnings=(
            *(f"{task}, {control}: {reason}" for (task, control), reason in outcome.not_scored.items()),
            *(f"{label}: {reason}" for label, reason in outcome.bypassed.items()),
            *incomplete(outcome),
        ),
        sources=sources_of(outcome),
    )
    return record, rows


def _not_scored(spec: TaskSpec, control: str, reason: str) -> MetricValue:
    """Returns the headline as a missing value: not scored is not zero."""
    return MetricValue(
        task=spec.name,
        name=spec.headline,
        control=control,
        group=None,
        value=None,
        unit=spec.headline_unit,
        higher_is_better=True,
        n=0,
        low=None,
        high=None,
        interval="none: there is no value",
        reason=reason,
    )


def encoder_record(job: Job, encoder: Encoder, tap: Tap) -> EncoderRecord:
    """Returns what a record says of an encoder that was read at a tap."""
    info, variant, family = encoder.info, job.encoder.variant, job.encoder.family
    return EncoderRecord(
        spec=job.encoder.canonical,
        family=family.key,
        variant=variant.name,
        title=variant.title,
        objective=stated(job.encoder, variant.objective),
        control=variant.control,
        weights=_weights(job),
        untrained=job.encoder.random_seed is not None,
        identity=info.identity,
        weights_digest=info.weights_digest,
        adapter_version=info.adapter_version,
        num_params=info.num_params,
        num_params_frontend=info.num_params_frontend,
        resolution_px=info.input.size,
        grid=info.grid,
        num_tokens=info.grid[0] * info.grid[1],
        dim=info.dim,
        depth=info.depth,
        num_prefix=info.num_prefix,
        tap=f"layer {tap.layer}, norm {tap.norm}",
        licence=stated(job.encoder, variant.licence),
        training_data=stated(job.encoder, variant.training_data),
        citation=variant.citation if is_own(job.encoder) else f"architecture: {variant.citation}",
    )


def _weights(job: Job) -> str:
    """Returns where the weights are from, and whose adapter read them where it is not ours."""
    provider = job.encoder.family.provider
    return job.encoder.origin if provider == "ovbench" else f"{job.encoder.origin}; adapter of {provider}"


def step_record(step: StepResult) -> StepRecord:
    """Returns what a record says of a step."""
    return StepRecord(name=step.name, key=step.key, seconds=step.seconds, cached=step.cached, made_in_s=step.made_in_s)


def _measurements(outcome: Outcome) -> tuple[Measurement, ...]:
    made = {name: value for name, value in outcome.throughput.items() if value is not None}
    why = "every step came from the cache"
    speeds = tuple(
        Measurement(name=name, value=made.get(name), unit=unit, reason=None if name in made else why)
        for name, unit in (("encode", "images/s"), ("answer", "questions/s"))
    )
    return (*speeds, peak_memory())


def peak_memory() -> Measurement:
    """Returns the most memory that this process ever held."""
    return Measurement(name="peak_rss", value=float(peak_rss_bytes()), unit="bytes", reason=None)


def environment_of(job: Job, dtype: str) -> Environment:
    """Returns where and with which code a job ran; `dtype` is that of the encoder."""
    git = git_state()
    packages = package_versions()
    import platform

    gpu = job.device.startswith("cuda")
    return Environment(
        ovbench_version=__version__,
        git_commit=git.commit,
        git_dirty=git.dirty,
        python=platform.python_version(),
        packages=packages,
        platform=platform.platform(),
        cpu=cpu_model(),
        num_cores=num_cores(),
        device=job.device,
        device_name=torch.cuda.get_device_name(torch.device(job.device)) if gpu else None,
        dtype=dtype,  # a spec can say another than --dtype, and a VAE stays in float32
        num_threads=torch.get_num_threads(),
    )
