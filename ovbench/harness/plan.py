"""From a command's words to a checked plan: nothing expensive starts before everything named has been found."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir
from ovbench._base.names import lookup
from ovbench._base.paths import cache_dir, feature_cache_bytes
from ovbench.encoders.base import DType, check_device_name, check_dtype_name
from ovbench.encoders.registry import EncoderSpec, parse_encoder
from ovbench.harness.protocols import Protocol, load_protocol
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.load import load_suite, load_task, suite_names
from ovbench.tasks.sources import check_limit

_SPACE_NEEDED_BYTES = 500 * 2**20  # features, weights and checkpoints of one mini run


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run: one encoder, one suite, one protocol, one seed."""

    encoder: EncoderSpec
    suite: str
    protocol: Protocol
    tasks: tuple[TaskSpec, ...]
    limit: int | None
    seed: int
    device: str
    dtype: DType
    batch_size: int

    @property
    def name(self) -> str:
        """What progress lines call it."""
        return f"{self.encoder.canonical} seed {self.seed}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """All runs of one command."""

    jobs: tuple[Job, ...]
    out: Path | None  # folder of run records

    @property
    def headline(self) -> str:
        """One line that says which weights and which protocol are used."""
        first = self.jobs[0]
        weights = []
        for job in self.jobs:
            text = f"{job.encoder.name} ({job.encoder.origin})"
            if text not in weights:
                weights.append(text)
        seeds = ", ".join(str(seed) for seed in dict.fromkeys(job.seed for job in self.jobs))
        limit = f" · limit {first.limit}" if first.limit else ""
        return (
            f"protocol {first.protocol.label} · suite {first.suite} ({', '.join(task.name for task in first.tasks)})"
            f"{limit} · seed {seeds} · {first.device} · {', '.join(weights)}"
        )


def plan_runs(
    *,
    encoders: Sequence[str],
    suite: str,
    protocol: str,
    tasks: Sequence[str] | None,
    limit: int | None,
    seeds: Sequence[int],
    device: str,
    dtype: str,
    batch_size: int,
    out: Path | None,
) -> Plan:
    """Checks everything a command named and returns the runs it asks for.

    With a folder `out` it is made and the free space is looked at; a worker has none: its parent stores records.

    Raises:
        ConfigError: An unknown name (with a suggestion), a number out of range, an encoder that the suite cannot use,
            or an output folder that cannot be written.
    """
    _check_types(encoders, tasks, limit, seeds, batch_size)
    if not encoders:
        raise ConfigError(
            "no encoder named", where="--encoder", fix="for instance: --encoder ovis3; see: ovbench encoders"
        )
    check_limit(limit)
    for seed in seeds:
        if seed < 0:
            raise ConfigError(f"a seed must be 0 or more, got {seed}", where="--seed")
    if batch_size < 1:
        raise ConfigError(f"--batch-size must be 1 or more, got {batch_size}", where="--batch-size")
    known_dtype = check_dtype_name(dtype)
    check_device_name(device)
    recipe = load_protocol(protocol)
    lookup(dict.fromkeys(suite_names(), None), suite, kind="suite", where="--suite")
    names = tuple(tasks) if tasks is not None else load_suite(suite, protocol)
    if not names:
        raise ConfigError("no task named", where="--tasks", fix="leave --tasks out to run the whole suite")
    specs = tuple(load_task(name, where="--tasks") for name in dict.fromkeys(names))
    for number, spec in enumerate(specs):
        if any(spec.name == other.name for other in specs[:number]):
            raise ConfigError(
                f"two tasks are named '{spec.name}'", where="--tasks", fix="give one of them another name in its file"
            )
    parsed = {spec.canonical: spec for spec in (parse_encoder(text, protocol=recipe.variants) for text in encoders)}
    for spec in parsed.values():
        if suite == "understanding" and not spec.variant.for_understanding:
            raise ConfigError(
                f"'{spec.name}' is offered to generation and reconstruction, not to a language model",
                where="--encoder",
                fix="choose another encoder for --suite understanding; see: ovbench encoders",
            )
    if out is not None:
        feature_cache_bytes()  # a bad bound is refused now, not in a worker
        _check_space(make_dir(out))
    jobs = tuple(
        Job(
            encoder=spec,
            suite=suite,
            protocol=recipe,
            tasks=specs,
            limit=limit,
            seed=seed,
            device=device,
            dtype=known_dtype,
            batch_size=batch_size,
        )
        for seed in dict.fromkeys(seeds)
        for spec in parsed.values()
    )
    return Plan(jobs=jobs, out=out)


def _check_types(encoders: object, tasks: object, limit: object, seeds: Sequence[object], batch_size: object) -> None:
    """Refuses values that a command line cannot give and Python can, such as a seed of 1.5 or one string for a list."""
    for what, value in (("encoders", encoders), ("tasks", tasks)):
        whole = value is None or (
            isinstance(value, Sequence) and not isinstance(value, str) and all(isinstance(item, str) for item in value)
        )
        if not whole:
            raise ConfigError(f"{what} must be a list of names, got {value!r}", where=what)
    for what, value in (("limit", limit), ("batch_size", batch_size), *(("seed", seed) for seed in seeds)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise ConfigError(f"{what} must be a whole number, got {value!r}", where=what)


def _check_space(out: Path) -> None:
    for folder in (out, make_dir(cache_dir())):
        free = shutil.disk_usage(folder).free
        if free < _SPACE_NEEDED_BYTES:
            raise ConfigError(
                f"only {free / 2**20:.0f} MiB are free; a run needs about {_SPACE_NEEDED_BYTES / 2**20:.0f} MiB",
                where=str(folder),
                fix="free some space, or move the records with --out or the cache with OVBENCH_CACHE",
            )
