"""What a run leaves behind: the scores and everything needed to believe them, as one JSON document.

Readers accept every past schema version, writers write only the newest. A value that was not scored is None with a
reason, never 0 and never NaN.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ovbench._base.errors import RecordError
from ovbench._base.files import to_json as json_text
from ovbench._base.fingerprint import fingerprint
from ovbench.results.codec import CodecError, decode, encode

SCHEMA_VERSION = 1
Control = Literal["none", "shuffled", "blind"]
CONTROLS: tuple[Control, ...] = ("none", "shuffled", "blind")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecord:
    """The encoder that was measured."""

    spec: str  # as resolved: `clip/mini`; one row of a table
    family: str
    variant: str
    title: str  # for people
    identity: str  # sha256 of everything that can change a feature
    weights_digest: str  # sha256 of the weights
    num_params: int  # of the transformer
    num_params_frontend: int  # of a VAE in front of it; 0 without one
    grid: tuple[int, int]  # visual tokens (rows, columns)
    num_tokens: int
    dim: int  # width of a token
    resolution_px: int
    licence: str
    training_data: str
    objective: str
    citation: str
    control: bool  # stands in the table to be beaten, as `random` does


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolRecord:
    """The recipe under which the numbers are comparable."""

    name: str
    version: int
    content: Mapping[str, Any]  # fully resolved, no default hidden, nothing that depends on the encoder or machine


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRecord:
    """One task that was run."""

    name: str
    version: int
    title: str
    scorer: str  # how answers were read and scored, e.g. `likelihood/option_text`
    data_digest: str  # sha256 of questions and pixels
    n: int  # questions asked, after any limit
    headline: str  # the metric that stands in tables
    chance: float | None  # headline of a blind guess, a fraction; None where it has none
    groups: tuple[str, ...] = ()  # dimensions or splits, in the order of tables


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricValue:
    """One number, with its unit, direction and uncertainty."""

    task: str
    name: str
    value: float | None  # None where it was not scored
    unit: str  # `fraction` for everything that tables print as percent
    higher_is_better: bool | None  # None: describes, and has no good direction
    n: int  # questions it rests on
    low: float | None  # 95 % interval
    high: float | None
    interval: str  # how the interval was made, or why there is none
    reason: str | None = None  # why `value` is None
    group: str | None = None  # dimension or split; None: over all questions
    control: Control = "none"

    def __post_init__(self) -> None:
        what = f"{self.task}/{self.name}"
        if (self.value is None) != (self.reason is not None):
            raise ValueError(f"{what}: a value needs no reason, and a missing value needs one")
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError(f"{what}: an interval has two ends and stands beside a value")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One step of the run."""

    name: str  # `features`, `llava_stage1`, …
    key: str  # content key in the cache
    seconds: float  # wall time in this run
    cached: bool  # taken from the cache; `seconds` is then the time to read it
    detail: str = ""  # e.g. the task


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """The machine and software; see provenance.py."""

    device: str
    device_reason: str  # why this device, when it was chosen and not asked for
    dtype: str
    threads: int
    deterministic: bool
    platform: str
    cpu_model: str
    num_cores: int
    accelerator: str | None  # name of the GPU; None on CPU
    python: str
    packages: Mapping[str, str]  # installed version by distribution name
    git_commit: str | None  # of the ovbench checkout; None when installed from a wheel
    git_dirty: bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One (encoder, suite, protocol, seed) and what came out."""

    run_id: str
    suite: str
    seed: int
    limit: int | None  # questions per task; None: all of them
    encoder: EncoderRecord
    protocol: ProtocolRecord
    tasks: tuple[TaskRecord, ...]
    metrics: tuple[MetricValue, ...]
    steps: tuple[StepRecord, ...]
    throughput: Mapping[str, float]  # name with its unit → value, e.g. `encode_img_per_s`
    peak_memory_bytes: Mapping[str, int]  # `host`, and `device` on an accelerator
    environment: Environment
    started_utc: str  # ISO 8601 with Z
    finished_utc: str
    complete: bool  # every task and control was scored; tables take no other records
    warnings: tuple[str, ...] = ()
    schema_version: int = field(default=SCHEMA_VERSION)

    def __post_init__(self) -> None:
        known = {task.name for task in self.tasks}
        if len(known) != len(self.tasks):
            raise ValueError("a task occurs twice")
        if unknown := sorted({metric.task for metric in self.metrics} - known):
            raise ValueError(f"metrics of '{unknown[0]}', which is not among the tasks")
        keys = [(metric.task, metric.name, metric.group, metric.control) for metric in self.metrics]
        if len(set(keys)) != len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the metric {'/'.join(str(part) for part in twice)} occurs twice")

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON values.

        Raises:
            CodecError: It holds a NaN, an infinity, or something that is not JSON.
        """
        return encode(self)

    def result_key(self) -> str:
        """Returns sha256 of what was asked, computed and found, without times, machine and run id."""
        return fingerprint(
            {
                "suite": self.suite,
                "seed": self.seed,
                "limit": self.limit,
                "encoder": self.encoder,
                "protocol": self.protocol,
                "tasks": self.tasks,
                "metrics": self.metrics,
                "steps": sorted((step.name, step.detail, step.key) for step in self.steps),
                "complete": self.complete,
            }
        )


def utc_text(moment: datetime) -> str:
    """Returns an aware time as records write it: UTC, to the second, `2026-01-31T08:05:00Z`."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_run_id(started: datetime, config: Any) -> str:
    """Returns UTC time + fingerprint: ids sort by time, and equal configurations share the last 12 digits.

    Args:
        started: Aware start time; milliseconds keep two runs of one second apart.
        config: The resolved configuration, as `_base.fingerprint` takes it.
    """
    if started.tzinfo is None:
        raise ValueError("a time without a zone")
    utc = started.astimezone(UTC)
    return f"{utc:%Y%m%dT%H%M%S}{utc.microsecond // 1000:03d}Z-{fingerprint(config)[:12]}"


def to_json(record: RunRecord) -> str:
    """Returns the record as ovbench stores it.

    Raises:
        CodecError: It holds a NaN, an infinity, or something that is not JSON.
    """
    return json_text(record.to_dict())


# Schema version → how a document of that version becomes one of the next. A new version adds its line here and a golden
# record in tests/golden/records/, which must load for ever.
Migration = Callable[[dict[str, Any]], dict[str, Any]]
MIGRATIONS: dict[int, Migration] = {}


def from_json(text: str, *, where: str) -> RunRecord:
    """Reads a record of this or any older schema version.

    Args:
        text: The JSON document.
        where: The file, for messages.

    Raises:
        RecordError: A newer schema, damaged JSON, or a document that is no record.
    """
    damaged = "remove that run folder, or restore the file; the same command makes the run again from the cache"
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(f"the record is damaged: {error}", where=where, fix=damaged) from error
    version = document.get("schema_version") if isinstance(document, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise RecordError("this is no run record: it has no valid schema_version", where=where, fix=damaged)
    if version > SCHEMA_VERSION:
        raise RecordError(
            f"the record has schema version {version}, and this ovbench reads up to {SCHEMA_VERSION}",
            where=where,
            fix="upgrade: python -m pip install --upgrade ovbench",
        )
    try:
        for old in range(version, SCHEMA_VERSION):
            document = MIGRATIONS[old](document)
        return decode(RunRecord, document)
    except (CodecError, ValueError) as error:
        raise RecordError(f"the record is damaged: {error}", where=where, fix=damaged) from error


def read_record(path: Path) -> RunRecord:
    """Reads a record file; raises as `from_json` does, and when the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(
            f"the record cannot be read: {error}", where=str(path), fix="check the file, or remove that run folder"
        ) from error
    return from_json(text, where=str(path))
