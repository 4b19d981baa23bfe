"""From a command's words to a checked plan: nothing expensive starts before everything named has been found."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir
from ovbench._base.names import lookup
from ovbench._base.paths import cache_dir, feature_cache_bytes
from ovbench.encoders.base import DType, check_device_name, check_dtype_name
from ovbench.encoders.registry import EncoderSpec, parse_encoder
from ovbench.harness.generation.options_config import GenerationOptions, guidance_text
from ovbench.harness.protocols import Protocol, load_protocol
from ovbench.harness.understanding.options_config import UnderstandingOptions
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.load import load_task, suite_names, task_names
from ovbench.tasks.pictures import PictureTask, load_picture_task, picture_task_names
from ovbench.tasks.sources import check_limit

log = logging.getLogger(__name__)
AnyTask = TaskSpec | PictureTask
ALL = "all"  # every suite that the protocol has
_SPACE_NEEDED_BYTES = 500 * 2**20  # features, weights and checkpoints of one mini run


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """One run: one encoder, one suite, one protocol, one seed."""

    encoder: EncoderSpec
    suite: str
    protocol: Protocol
    tasks: tuple[AnyTask, ...]  # questions for understanding, pictures for the other suites
    limit: int | None
    seed: int
    device: str
    dtype: DType
    batch_size: int
    generation: GenerationOptions | None = None  # of the suites that make pictures
    understanding: UnderstandingOptions | None = None  # of the understanding suite

    @property
    def name(self) -> str:
        """What progress lines call it."""
        suite = "" if self.suite == "understanding" else f" {self.suite}"
        guidance = self.generation.guidance if self.generation is not None else None
        guided = "" if guidance is None else f" {guidance_text(guidance)}"
        return f"{self.encoder.canonical}{suite}{guided} seed {self.seed}"

    @property
    def question_tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks of the understanding suite."""
        return tuple(task for task in self.tasks if isinstance(task, TaskSpec))


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
        suites = {job.suite: ", ".join(task.name for task in job.tasks) for job in self.jobs}
        return (
            f"protocol {first.protocol.label} · suite {' · suite '.join(f'{k} ({v})' for k, v in suites.items())}"
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
    generation: Sequence[GenerationOptions] | None = None,
    understanding: UnderstandingOptions | None = None,
    with_reconstruction: bool = False,
) -> Plan:
    """Checks everything a command named and returns the runs it asks for.

    Several `generation` are a sweep of one encoder; reconstructions do not depend on what differs in it, and are made
    once. `with_reconstruction` adds their suite, which shares all its steps.

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
    suites = _suites(suite, recipe)
    if with_reconstruction and not _only_given(recipe, generation or ()):
        suites = ("reconstruction", *suites)
    options = tuple(generation or ())
    if options and suites == ("understanding",):
        log.warning("--data and --adm-file have no effect on questions: they are of the suites of pictures")
    if understanding is not None and understanding.llava is not None and len(set(seeds)) > 1:
        raise ConfigError(
            "nothing is trained with --llava, so seeds differ in nothing", where="--seed", fix="name one seed, or none"
        )
    if limit is not None and "understanding" not in suites:
        raise ConfigError(
            "--limit is of questions; pictures are not left out",
            where="--limit",
            fix="use --num-samples with ovbench gen-fid, or --suite understanding",
        )
    parsed = {spec.canonical: spec for spec in (parse_encoder(text, protocol=recipe.variants) for text in encoders)}
    if out is not None:
        feature_cache_bytes()  # a bad bound is refused now, not in a worker
        _check_space(make_dir(out))
    if understanding is not None and "understanding" not in suites:
        understanding.refuse_for(suite)
    if understanding is not None:
        understanding.refuse_seeds(seeds)
    jobs: list[Job] = []
    if suite == ALL and "understanding" in suites:
        _say_what_is_left_out(parsed.values())
    for name in suites:
        specs = _tasks(name, recipe, tasks, several=len(suites) > 1)
        for spec in parsed.values():
            _check_encoder(spec, name, several=len(suites) > 1)
        chosen: Sequence[GenerationOptions | None] = options if name != "understanding" and options else (None,)
        if name == "reconstruction" and options:
            # Alone, a setting without effect is said; beside generation it is the other suite's.
            chosen = (options[0].of_reconstructions() if len(suites) > 1 else options[0],)
        jobs += [
            Job(
                encoder=spec,
                suite=name,
                protocol=recipe,
                tasks=specs,
                limit=limit if name == "understanding" else None,
                seed=seed,
                device=device,
                dtype=known_dtype,
                batch_size=batch_size,
                generation=option,
                understanding=understanding if name == "understanding" else None,
            )
            for seed in dict.fromkeys(seeds)
            for spec in parsed.values()
            if name != "understanding" or spec.variant.for_understanding
            for option in chosen
        ]
    if out is not None:
        jobs = _with_folders(jobs)
    return Plan(jobs=tuple(jobs), out=out)


def _say_what_is_left_out(specs: Iterable[EncoderSpec]) -> None:
    for spec in specs:
        if not spec.variant.for_understanding:
            log.warning("%s: suite understanding left out, it is offered to generation and reconstruction", spec.name)


def _with_folders(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs, each with a folder of its own for its samples where they are wanted as files."""
    saving = [(job, job.generation, job.generation.save_samples) for job in jobs if job.generation is not None]
    wanted = [(job, options, folder) for job, options, folder in saving if folder is not None]
    if not wanted:
        return list(jobs)
    from ovbench.harness.generation.sample_folders import check_target, run_folders

    check_target(wanted[0][2])
    folders = run_folders(wanted[0][2], [job.name.replace(f" {job.suite}", "") for job, _, _ in wanted])
    own = {
        id(job): replace(job, generation=replace(options, save_samples=folder))
        for (job, options, _), folder in zip(wanted, folders, strict=True)
    }
    return [own.get(id(job), job) for job in jobs]


def _only_given(recipe: Protocol, options: Sequence[GenerationOptions]) -> bool:
    """Whether samples are made of given weights and no pictures were named that could be reconstructed."""
    world = recipe.section("generation")["data"]["source"] == "world"
    return not world and all(option.dit is not None and option.data is None for option in options) and bool(options)


def _suites(suite: str, recipe: Protocol) -> tuple[str, ...]:
    """Returns the suites that a word means; `all` is every one of the protocol."""
    lookup(dict.fromkeys((*suite_names(), ALL), None), suite, kind="suite", where="--suite")
    if suite == ALL:
        return recipe.suites
    recipe.section(suite)  # raises where the protocol has none
    return (suite,)


def _tasks(suite: str, recipe: Protocol, tasks: Sequence[str] | None, *, several: bool) -> tuple[AnyTask, ...]:
    """Returns the tasks of a suite, or those that were named."""
    if tasks is not None and several:
        raise ConfigError(
            "--tasks with --suite all does not say which suite they are of", where="--tasks", fix="name one suite"
        )
    names = tuple(tasks) if tasks is not None else recipe.tasks_of(suite)
    if not names:
        raise ConfigError("no task named", where="--tasks", fix="leave --tasks out to run the whole suite")
    of_questions = suite == "understanding"
    for name in names:
        if name in (picture_task_names() if of_questions else task_names()):
            kind = load_picture_task(name).kind if of_questions else "understanding"
            raise ConfigError(f"'{name}' is a task of {kind}", where="--tasks", fix=f"use --suite {kind}")
    if not of_questions:
        found = tuple(load_picture_task(name) for name in dict.fromkeys(names))
        for task in found:
            if task.kind != suite:
                raise ConfigError(
                    f"'{task.name}' is a task of {task.kind}", where="--tasks", fix=f"use --suite {task.kind}"
                )
        return found
    specs = tuple(load_task(name, where="--tasks") for name in dict.fromkeys(names))
    for number, spec in enumerate(specs):
        if any(spec.name == other.name for other in specs[:number]):
            raise ConfigError(
                f"two tasks are named '{spec.name}'", where="--tasks", fix="give one of them another name in its file"
            )
    return specs


def _check_encoder(spec: EncoderSpec, suite: str, *, several: bool) -> None:
    if suite == "understanding" and not spec.variant.for_understanding and not several:
        raise ConfigError(
            f"'{spec.name}' is offered to generation and reconstruction, not to a language model",
            where="--encoder",
            fix="choose another encoder for --suite understanding; see: ovbench encoders",
        )


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
