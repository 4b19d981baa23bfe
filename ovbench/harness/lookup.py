"""Which steps of a run are finished: the pipelines are opened, asked for the keys of their steps, and not run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ovbench.encoders.registry import EncoderSpec
from ovbench.harness.events import Reporter
from ovbench.harness.generation.pipeline import GenerationRun
from ovbench.harness.plan import Job
from ovbench.harness.planning import Forecast
from ovbench.harness.steps import Step, StepCache
from ovbench.harness.understanding.pipeline import UnderstandingRun


def is_embedded(spec: EncoderSpec) -> bool:
    """Whether an encoder's weights come with ovbench, or are made from a seed: small, and always here."""
    return spec.variant.origin in ("embedded", "untrained") and spec.source is None


def look_up(forecast: Forecast, jobs: Sequence[Job], cache: StepCache) -> Forecast:
    """Returns a forecast with what the cache knows of its steps. Loads the encoder, whose weights are in the keys.

    Args:
        forecast: Of the jobs.
        jobs: Of one encoder and suite, one per seed.
        cache: Where finished steps are.

    Raises:
        OvbenchError: A run would refuse to start.
    """
    found: dict[str, dict[str, Step]] = {}
    for job in jobs:
        for step in steps_of(job, cache):
            found.setdefault(step.name, {})[step.key] = step
    steps = tuple(step.looked_up(cache, tuple(found.get(step.name, {}).values())) for step in forecast.steps)
    return replace(forecast, steps=steps)


def steps_of(job: Job, cache: StepCache) -> list[Step]:
    """Returns the steps of a run with their keys; see `look_up`."""
    if job.suite == "understanding":
        return UnderstandingRun(job, cache, Reporter(job.name)).steps()
    return GenerationRun(job, cache, Reporter(job.name)).steps()
