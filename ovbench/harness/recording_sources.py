"""What the figures of an understanding run rest on: tables of questions, conversations, the language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

from ovbench._base.files import read_json
from ovbench._base.fingerprint import fingerprint
from ovbench.harness.metrics.score import scorer_name
from ovbench.harness.plan import Job
from ovbench.harness.understanding.llava_json import LlavaJsonData
from ovbench.harness.understanding.options_config import scoring_of
from ovbench.harness.understanding.pipeline import Outcome
from ovbench.results.record import ProtocolRecord, SourceRecord
from ovbench.tasks.base import TaskSpec


def protocol_of(job: Job, outcome: Outcome) -> ProtocolRecord:
    """Returns the recipe with what the user put in its place: such runs are neither in its tables nor newer than its.

    What was put in place of the recipe's is named behind its name, as for pictures; `given` holds digests.
    """
    setting = outcome.setting
    options, digest = setting.options, fingerprint(setting.model_identity)
    content, said, departures = job.protocol.content_of(job.suite), dict[str, Any](), list[str]()
    if options.llava is not None:
        said["given"] = {"llava": digest}
        departures.append("given llava")
    elif options.language_model is not None:
        said["given"] = {"llm": digest}
        departures.append(f"llm {PurePath(options.language_model).name}")
        # The run's weights are read with it.
        said["understanding"] = {**content["understanding"], "language_model": options.language_model}
    if options.scoring is not None:
        said["scoring"] = options.scoring
        departures.append(f"scoring {options.scoring}")
    if options.trust_first_token:
        said["trust_first_token"] = True
        departures.append("first token trusted")
    name = ", ".join([job.protocol.name, *departures])
    return ProtocolRecord(name=name, version=job.protocol.version, content=content | said)


def scorer_of(outcome: Outcome, spec: TaskSpec) -> str:
    """Returns how answers were read and scored, e.g. `ppl, letter, seedbench-1` where `--scoring ppl` chose."""
    mode = scoring_of(outcome.setting.options, spec)
    name = scorer_name(spec)
    return name if mode is None else f"{mode}{name.removeprefix(spec.scoring)}"


def sources_of(outcome: Outcome) -> tuple[SourceRecord, ...]:
    """Returns what a record says of everything from outside; nothing of the embedded miniature world."""
    return (*_tables(outcome), *_model(outcome), *_conversations(outcome))


def incomplete(outcome: Outcome) -> Iterator[str]:
    """Yields a sentence for each benchmark that has not as many rows as when it was published, and for dropped rows."""
    for name, answers in outcome.answers.items():
        published = answers.data.spec.source.get("num_rows")
        if published is not None and answers.data.num_total != published:
            yield f"{name}: {answers.data.num_total} rows, published with {published}: not the benchmark's scores"
    for report in outcome.setting.preflights:
        if report.bad_numbers:
            yield f"stage {report.stage}: {len(report.bad_numbers)} of {report.num_rows} rows were left out"
    for step in outcome.steps:
        path = outcome.setting.gate_report(step.key)
        if step.name == "llava_stage1" and path.is_file():
            for failure in read_json(path)["failures"]:
                yield f"stage 1 did not pass the gate: {failure}"


def _tables(outcome: Outcome) -> Iterator[SourceRecord]:
    for name, answers in outcome.answers.items():
        where = answers.data.provenance
        if where:
            text = ", ".join(f"{key} {value}" for key, value in where.items() if value)
            yield SourceRecord(
                role=f"questions of {name}", name=text, digest=answers.data.digest, count=answers.data.num_total
            )


def _model(outcome: Outcome) -> Iterator[SourceRecord]:
    setting = outcome.setting
    digest = fingerprint(setting.model_identity)
    if setting.options.llava is not None:
        yield SourceRecord(role="trained LLaVA", name=setting.options.llava.name, digest=digest, count=None)
    elif setting.section.data is not None or setting.options.language_model is not None:
        name = setting.config.language_model
        yield SourceRecord(role="language model", name=name, digest=digest, count=None)


def _conversations(outcome: Outcome) -> Iterator[SourceRecord]:
    data = outcome.setting.training
    if not isinstance(data, LlavaJsonData):
        return
    for stage in (1, 2):
        yield SourceRecord(
            role=f"conversations of stage {stage}",
            name=data.json_path(stage).name,
            digest=data.stage_digest(stage),
            count=data.size(stage),
        )
