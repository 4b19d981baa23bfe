"""The record of a run: its scores, and everything needed to believe them. docs/records.md explains every field."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import RecordError
from ovbench._base.files import to_json
from ovbench._base.fingerprint import canonical_json, fingerprint
from ovbench.results.schema import SCHEMA_VERSION, decode, migrate

MAIN = "none"  # the control that is no control: the real images
CONTROLS = (MAIN, "shuffled", "blind")
_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderRecord:
    """Which encoder was judged."""

    spec: str  # canonical spec string, e.g. `ovis3/mini`
    family: str
    variant: str
    title: str
    objective: str
    control: bool  # an encoder that stands in the table to be beaten
    weights: str  # where they are from: embedded, a path, a hub id with its commit
    untrained: bool  # by `weights=random:SEED`: a trial of the pipeline, kept out of comparisons
    identity: str  # sha256 of everything that can change a feature
    weights_digest: str  # sha256 over names, types, shapes and bytes
    adapter_version: int
    num_params: int  # of the transformer
    num_params_frontend: int  # of a VAE in front of it; 0 without one
    resolution_px: tuple[int, int]  # (height, width) of the input
    grid: tuple[int, int]  # tokens (rows, columns)
    num_tokens: int
    dim: int  # width of a token
    depth: int | None  # blocks; None: not recorded (schema 1)
    num_prefix: int | None  # class and register tokens; None: not recorded (schema 1)
    tap: str  # where the features were taken from
    licence: str
    training_data: str
    citation: str


@dataclass(frozen=True, kw_only=True, slots=True)
class ProtocolRecord:
    """Under which recipe."""

    name: str
    version: int
    content: Mapping[str, Any]  # the whole recipe, resolved

    @property
    def label(self) -> str:
        """Name and version as tables print them, e.g. `mini v1`."""
        return f"{self.name} v{self.version}"


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskRecord:
    """What was asked and how it was scored."""

    name: str
    version: int
    title: str
    kind: str  # choice, yesno or open
    family: str  # mini or paper
    scorer: str  # how an answer was read and scored, with the scorer's version
    headline: str  # the metric that stands in tables
    chance: float | None  # expected headline of a blind guess, in the headline's unit; None: not known
    groups: tuple[str, ...]  # dimensions or splits, in the order of tables
    data_digest: str  # of everything that can change a question or a pixel
    n: int  # questions asked
    num_total: int  # questions before any limit
    citation: str
    licence: str


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricValue:
    """One score. Missing is None with a reason, never 0 and never NaN."""

    task: str
    name: str
    control: str  # none, shuffled or blind
    group: str | None  # dimension or split; None: all questions
    value: float | None
    unit: str  # fraction, dB, …
    higher_is_better: bool | None  # None: neither way is better
    n: int  # questions it was computed from
    low: float | None  # 95% interval
    high: float | None
    interval: str  # how the interval was made, or why there is none
    reason: str | None  # why there is no value

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise RecordError(f"metric '{self.name}' of '{self.task}' needs either a value or a reason")
        if (self.low is None) != (self.high is None):
            raise RecordError(f"metric '{self.name}' of '{self.task}' has half an interval")
        for number in (self.value, self.low, self.high):
            if number is not None and not math.isfinite(number):
                raise RecordError(f"metric '{self.name}' of '{self.task}' is {number}: use None and a reason")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise RecordError(f"metric '{self.name}' of '{self.task}' has an interval that ends before it begins")


@dataclass(frozen=True, kw_only=True, slots=True)
class StepRecord:
    """One cached unit of work."""

    name: str
    key: str  # sha256 of everything that can change its output
    seconds: float  # in this run
    cached: bool  # found in the cache, so that `seconds` is only the time to find it
    made_in_s: float | None  # what it cost when it was made


@dataclass(frozen=True, kw_only=True, slots=True)
class Measurement:
    """A cost: throughput, peak memory. Missing is None with a reason."""

    name: str  # e.g. `peak_rss`
    value: float | None
    unit: str  # e.g. `bytes`, `images/s`
    reason: str | None

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.reason):
            raise RecordError(f"measurement '{self.name}' needs either a value or a reason")


@dataclass(frozen=True, kw_only=True, slots=True)
class SourceRecord:
    """Something from outside that a run's figures rest on: pictures, or weights that it did not make."""

    role: str  # e.g. `training pictures`, `scoring network`, `discriminator`
    name: str
    digest: str  # sha256
    count: int | None  # pictures; None: weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Environment:
    """Where it ran and with which code."""

    ovbench_version: str
    git_commit: str | None  # None: not run from a checkout
    git_dirty: bool | None
    python: str
    packages: Mapping[str, str | None]  # distribution → version; None: not installed
    platform: str
    cpu: str
    num_cores: int
    device: str
    device_name: str | None
    dtype: str  # of the encoder
    num_threads: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run: (encoder, suite, protocol, seed). Build it with `RunRecord.new`."""

    schema_version: int
    run_id: str  # UTC time of the start and the first digits of the content's fingerprint
    suite: str
    seed: int
    limit: int | None  # questions per task; None: all
    encoder: EncoderRecord
    protocol: ProtocolRecord
    tasks: tuple[TaskRecord, ...]
    metrics: tuple[MetricValue, ...]
    steps: tuple[StepRecord, ...]
    measurements: tuple[Measurement, ...]
    environment: Environment
    started_utc: str  # e.g. 2026-01-20T10:15:30Z
    finished_utc: str
    complete: bool  # every task of the run was scored; tables leave incomplete runs out
    warnings: tuple[str, ...]
    sources: tuple[SourceRecord, ...] = ()  # of runs of pictures; empty: not recorded

    def __post_init__(self) -> None:
        for name in ("started_utc", "finished_utc"):
            if not _UTC.fullmatch(getattr(self, name)):
                raise RecordError(f"'{name}' should look like 2026-01-20T10:15:30Z, got '{getattr(self, name)}'")
        known = [task.name for task in self.tasks]
        if len(set(known)) != len(known):
            raise RecordError("a task occurs twice")
        seen: set[tuple[str, str, str | None, str]] = set()
        for metric in self.metrics:
            key = (metric.task, metric.name, metric.group, metric.control)
            if metric.task not in known:
                raise RecordError(f"metric '{metric.name}' belongs to the task '{metric.task}', which was not run")
            if metric.control not in CONTROLS:
                raise RecordError(f"metric '{metric.name}' has the unknown control '{metric.control}'")
            if key in seen:
                raise RecordError(f"metric '{metric.name}' of '{metric.task}' occurs twice (group {metric.group})")
            seen.add(key)

    @classmethod
    def new(cls, **fields: Any) -> RunRecord:
        """Returns a record in the newest schema; takes every field but `schema_version` and `run_id`, which it makes.

        The protocol's content may hold tuples, paths and dataclasses: it is stored as plain JSON.
        """
        protocol: ProtocolRecord = fields["protocol"]
        plain = json.loads(canonical_json(protocol.content))
        fields["protocol"] = dataclasses.replace(protocol, content=plain)
        record = cls(schema_version=SCHEMA_VERSION, run_id="", **fields)
        time = record.started_utc.replace("-", "").replace(":", "")
        return dataclasses.replace(record, run_id=f"{time}-{record.fingerprint[:8]}")

    @property
    def fingerprint(self) -> str:
        """The sha256 of what was run and what came out; time, machine and code version are not in it."""
        return fingerprint(
            {
                "suite": self.suite,
                "seed": self.seed,
                "limit": self.limit,
                "encoder": self.encoder,
                "dtype": self.environment.dtype,
                "protocol": self.protocol,
                "tasks": self.tasks,
                "metrics": self.metrics,
                "steps": sorted(step.key for step in self.steps),
                "complete": self.complete,
            }
        )

    def task(self, name: str) -> TaskRecord | None:
        """Returns the task of that name, or None when it was not run."""
        return next((task for task in self.tasks if task.name == name), None)

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as plain JSON values."""
        return json.loads(canonical_json(self))

    def to_json(self) -> str:
        """Returns the text of `record.json`."""
        return to_json(self.to_dict())

    @classmethod
    def from_json(cls, text: str, *, where: str) -> RunRecord:
        """Reads a record of any schema version up to the newest.

        Args:
            text: Content of a `record.json`.
            where: The file, for messages.

        Raises:
            RecordError: Damaged JSON, a key that is missing, unknown or of the wrong type, or a newer schema.
        """
        return cls.from_document(parse(text, where=where), where=where)

    @classmethod
    def from_document(cls, document: Any, *, where: str) -> RunRecord:
        """Reads a record from what `json.loads` gave; as `from_json`."""
        return decode(cls, migrate(document, where=where), where=where)


def parse(text: str, *, where: str) -> Any:
    """Returns the JSON of a `record.json`; raises RecordError where it is damaged."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise RecordError(
            f"'{Path(where).name}' is damaged: {error}",
            where=where,
            fix="move its folder away and repeat the run; finished steps come from the cache",
        ) from error


def stored_fingerprint(document: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a record as it is stored, in whatever schema that was: what its run id was made of.

    Args:
        document: A document that `RunRecord.from_document` accepts.
    """
    told = {
        name: document[name]
        for name in ("suite", "seed", "limit", "encoder", "protocol", "tasks", "metrics", "complete")
    }
    told["dtype"] = document["environment"]["dtype"]
    told["steps"] = sorted(step["key"] for step in document["steps"])
    # The canonical form of plain JSON, without the walk that turns dataclasses into it.
    text = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
