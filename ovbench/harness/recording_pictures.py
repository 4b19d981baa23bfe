"""The outcome of a generation run → its record."""

from __future__ import annotations

import time

from ovbench._base.fingerprint import file_sha256
from ovbench.harness.generation.options_config import guidance_text
from ovbench.harness.generation.picture_tasks import headline_of
from ovbench.harness.generation.pipeline import Outcome, PictureScores
from ovbench.harness.generation.setting import Setting
from ovbench.harness.plan import Job
from ovbench.harness.recording import encoder_record, environment_of, peak_memory, step_record
from ovbench.results.provenance import utc
from ovbench.results.record import (
    MAIN,
    Measurement,
    MetricValue,
    ProtocolRecord,
    RunRecord,
    SourceRecord,
    TaskRecord,
)

_NOT_KNOWN = "an adaptive solver made the samples with an older version, which did not count"


def make_picture_record(job: Job, outcome: Outcome, *, began: float) -> RunRecord:
    """Returns the record of a reconstruction or generation run.

    Args:
        job: What was run.
        outcome: Its scores, steps and figures.
        began: Seconds since the epoch.
    """
    encoder, decoder = outcome.setting.encoder, "native" if outcome.setting.native else "rae"
    return RunRecord.new(
        suite=job.suite,
        seed=job.seed,
        limit=None,
        encoder=encoder_record(job, encoder, encoder.info.latent_tap),
        protocol=_protocol(job, outcome),
        tasks=tuple(_task(scores) for scores in outcome.scores),
        metrics=tuple(value for scores in outcome.scores for value in _values(scores, decoder)),
        steps=tuple(step_record(step) for step in outcome.steps),
        measurements=_measurements(outcome),
        environment=environment_of(job, encoder.info.dtype),
        started_utc=utc(began),
        finished_utc=utc(time.time()),
        complete=True,
        warnings=tuple(outcome.warnings),
        sources=_sources(outcome.setting),
    )


def _sources(setting: Setting) -> tuple[SourceRecord, ...]:
    """Returns everything from outside that the figures rest on, by its digest."""
    found: list[SourceRecord] = []
    if setting.pictures is not None:
        needs_latents = setting.options.dit is None or setting.options.stats is None
        trained = setting.trains_decoder or (setting.job.suite == "generation" and needs_latents)
        sets = ((("training pictures", setting.train),) if trained else ()) + (("test pictures", setting.test),)
        found += [
            SourceRecord(role=role, name=data.name, digest=data.digest, count=data.num_pictures) for role, data in sets
        ]
    for extractor in setting.extractors.values():
        info = extractor.info
        found.append(SourceRecord(role="scoring network", name=info.network, digest=info.weights_sha256, count=None))
    if (lpips := setting.lpips) is not None:
        found.append(SourceRecord(role="LPIPS network", name=lpips.name, digest=lpips.weights_sha256, count=None))
        found.append(SourceRecord(role="LPIPS heads", name=lpips.name, digest=lpips.heads_sha256, count=None))
    if setting.dino is not None:
        digest = file_sha256(setting.dino)
        found.append(SourceRecord(role="discriminator", name=setting.dino.name, digest=digest, count=None))
    given = setting.given.items()
    found += [SourceRecord(role=f"given {name}", name=name, digest=digest, count=None) for name, digest in given]
    return tuple(dict.fromkeys(found))


def _protocol(job: Job, outcome: Outcome) -> ProtocolRecord:
    """Returns the protocol; under a name of its own where the user departed from it, so that no table mixes them.

    Departures are another guidance, and weights that the protocol did not make. A number of samples stands in tables.
    """
    setting, departures, said = outcome.setting, [], {}
    given = dict(setting.given)
    if job.suite == "reconstruction":
        given.pop("stats", None)  # latents are normalised and back: no picture depends on it
    elif setting.sampling.sampler.guidance != setting.recipe.sampling.sampler.guidance:
        said["guidance"] = guidance_text(setting.sampling.sampler.guidance)
        departures.append(f"guidance {said['guidance']}")
    if given:
        said["given"] = given
        departures.append(f"given {' + '.join(given)}")
    return ProtocolRecord(
        name=", ".join([job.protocol.name, *departures]),
        version=job.protocol.version,
        content={**job.protocol.content_of(job.suite), **said},
    )


def _task(scores: PictureScores) -> TaskRecord:
    task = scores.task
    return TaskRecord(
        name=task.name,
        version=task.version,
        title=task.title,
        kind=task.kind,
        family=task.family,
        scorer=scores.scorer,
        headline=headline_of(task, scores.extractor.info),
        chance=None,
        groups=scores.groups,
        data_digest=scores.data_digest,
        n=scores.num_pictures,
        num_total=scores.num_pictures,
        citation=task.citation,
        licence=task.licence,
    )


def _values(scores: PictureScores, decoder: str) -> list[MetricValue]:
    return [
        MetricValue(
            task=scores.task.name,
            name=entry.score.spec.name,
            control=MAIN,
            group=group,
            value=entry.score.value,
            unit=entry.score.spec.unit,
            higher_is_better=entry.score.spec.higher_is_better,
            n=entry.score.n,
            low=entry.score.interval.low,
            high=entry.score.interval.high,
            interval=f"{entry.score.interval.method}; {entry.how}; decoder {decoder}",
            reason=entry.score.reason,
        )
        for group, found in scores.by_group.items()
        for entry in found
    ]


def _measurements(outcome: Outcome) -> tuple[Measurement, ...]:
    """Returns costs and the figures of latent health, which no table ranks by."""
    found = [
        Measurement(name=f"speed: {name}", value=rate, unit=unit, reason=None)
        for name, (rate, unit) in outcome.throughput.items()
    ]
    if any(scores.task.kind == "generation" for scores in outcome.scores):
        cost = outcome.evaluations
        for name, value in (
            ("NFE", None if cost is None else cost.velocities),
            ("network passes", None if cost is None else cost.network),
            ("guide passes", None if cost is None else cost.guide),
        ):
            found.append(
                Measurement(
                    name=name,
                    value=None if value is None else float(value),
                    unit="per sample",
                    reason=_NOT_KNOWN if value is None else None,
                )
            )
    for name, value in outcome.health.items():
        if isinstance(value, dict):
            found += [
                Measurement(name=f"latent health: {name} {level}", value=float(figure), unit="", reason=None)
                for level, figure in value.items()
            ]
        else:
            found.append(Measurement(name=f"latent health: {name}", value=float(value), unit="", reason=None))
    return (*found, peak_memory())
