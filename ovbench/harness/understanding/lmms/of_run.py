"""The cross-check of a finished run: its weights, its questions and its stored answers, scored by lmms-eval as well."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.harness.metrics.judging import judge
from ovbench.harness.plan import Job
from ovbench.harness.understanding.checkpoint_folder import load_checkpoint
from ovbench.harness.understanding.checkpoint_parts import spec_with_aspect
from ovbench.harness.understanding.lmms.answering import LlavaAnswerer
from ovbench.harness.understanding.lmms.cross_check import CrossRow, cross_check
from ovbench.harness.understanding.lmms.holder import open_run
from ovbench.harness.understanding.section_config import read_section
from ovbench.results.record import MAIN, RunRecord
from ovbench.results.store import RECORD, RunStore, read_record
from ovbench.tasks.base import Prediction, TaskData, TaskSpec
from ovbench.tasks.sources import load_data


def cross_check_run(
    folder: Path,
    specs: Sequence[TaskSpec],
    *,
    out: Path,
    device: str = "cpu",
    batch_size: int = 64,
    data_dir: Path | None = None,
    answerer: LlavaAnswerer | None = None,
) -> list[CrossRow]:
    """Scores the answers of a finished run with lmms-eval beside ours; what the run answered is not asked again.

    Args:
        folder: Of the run.
        specs: Tasks of the run.
        out: Folder for what `cross_check` writes.
        device: Where the model runs.
        batch_size: Questions read together; changes no answer.
        data_dir: Folder of published benchmarks; None: as for a run.
        answerer: What answered, where the run was given a trained model; None: the weights of the run.

    Raises:
        ConfigError: The run did not ask a task.
        DataError: The questions are not those of the run any more, or something that it needs is gone.
        DependencyError: lmms-eval is not installed.
        RecordError: The folder holds no run that answers questions.
    """
    require("lmms_eval", extra="lmms", purpose="--engine lmms-eval")
    answerer = answerer or open_run(folder, device=device, batch_size=batch_size)
    record = read_record(folder / RECORD)
    data = [_data(record, spec, folder, data_dir) for spec in specs]
    return cross_check(
        answerer,
        data,
        out=out,
        max_new_tokens=record.protocol.content["understanding"]["max_new_tokens"],
        predictions={item.spec.name: _stored(folder, item) for item in data},
    )


def answerer_of_job(job: Job) -> LlavaAnswerer | None:
    """Returns what answers with the trained model that a job was given, as it did in the run; None: it trains one.

    Raises:
        OvbenchError: As for the run itself.
    """
    options = job.understanding
    if options is None or options.llava is None:
        return None
    section = read_section(job.protocol.section("understanding"))
    loaded = load_checkpoint(
        options.llava,
        encoder=job.encoder.canonical,
        language_model=options.language_model,
        device=job.device,
        dtype=section.answer_precision,
    )
    spec = parse_encoder(spec_with_aspect(job.encoder.canonical, loaded.aspect))
    encoder = load_encoder(spec, device=job.device, dtype=job.dtype)
    return LlavaAnswerer(
        loaded.model,
        encoder,
        tap=job.encoder.llm_tap or loaded.tap or section.tap or encoder.info.llm_tap,
        feature_dtype=section.feature_dtype,
        batch_size=job.batch_size,
    )


def _data(record: RunRecord, spec: TaskSpec, folder: Path, data_dir: Path | None) -> TaskData:
    task = record.task(spec.name)
    if task is None:
        raise ConfigError(
            f"the run did not ask '{spec.name}'",
            where=str(folder),
            fix=f"its tasks: {', '.join(item.name for item in record.tasks)}",
        )
    data = load_data(spec, limit=record.limit, data_dir=data_dir)
    if data.digest != task.data_digest:
        raise DataError(
            f"the questions of '{spec.name}' are not those that the run was asked", where=str(folder), fix="run again"
        )
    return data


def _stored(folder: Path, data: TaskData) -> list[Prediction]:
    """Returns the answers of a run, read anew as the task says."""
    rows = RunStore(folder.parent).samples(folder.name)
    rows = rows[(rows["task"] == data.spec.name) & (rows["control"] == MAIN)].set_index("item_id")
    found: list[Prediction] = []
    for sample in data.samples:
        row = rows.loc[sample.item_id]
        scores = () if row["option_scores"] is None else tuple(float(value) for value in row["option_scores"])
        found.append(judge(data.spec, sample, str(row["raw"]), scores))
    return found
