"""What the figures of an understanding run rest on: tables of questions, conversations, the language model."""

from __future__ import annotations

from collections.abc import Iterator

from ovbench._base.fingerprint import fingerprint
from ovbench.harness.understanding.llava_json import LlavaJsonData
from ovbench.harness.understanding.pipeline import Outcome
from ovbench.harness.understanding.setting import given_identity, language_model_identity
from ovbench.results.record import SourceRecord


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
    if setting.options.llava is not None:
        digest = fingerprint(given_identity(setting))
        yield SourceRecord(role="trained LLaVA", name=setting.options.llava.name, digest=digest, count=None)
    elif setting.section.data is not None or setting.options.language_model is not None:
        name = setting.config.language_model
        digest = fingerprint(language_model_identity(name))
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
