"""What `ovbench run` does besides running: jobs for Slurm, and lmms-eval's word on the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ovbench._base.errors import ConfigError

if TYPE_CHECKING:
    from ovbench.harness.plan import Plan
    from ovbench.results.record import RunRecord

_COUNTS = ("gpus", "nodes", "time", "cpus_per_gpu")
_SETTINGS = (*_COUNTS, "partition", "account", "qos", "constraint")


def check_engine(engine: str, suite: str, scoring: str | None) -> None:
    """Refuses an engine that is not there, before anything runs.

    Raises:
        ConfigError: The name is unknown, or the suite asks no questions.
        DependencyError: lmms-eval is not installed.
    """
    from ovbench._base.lazy import require
    from ovbench._base.names import unknown

    if engine not in ("native", "lmms-eval"):
        raise unknown("engine", engine, ("native", "lmms-eval"), where="--engine")
    if engine == "native":
        return
    if suite not in ("understanding", "all"):
        raise ConfigError("lmms-eval scores answers, not pictures", where="--engine", fix="use --suite understanding")
    if scoring is not None:
        raise ConfigError(
            "lmms-eval scores free answers, and --scoring chooses among options", where="--engine", fix="leave one out"
        )
    require("lmms_eval", extra="lmms", purpose="--engine lmms-eval")


def print_cross_check(
    plan: Plan, records: Sequence[RunRecord], folder: Path, *, device: str, batch_size: int, json_output: bool = False
) -> None:
    """Prints lmms-eval's scores of the answers of each run beside ours; the rows go to a folder beside the runs too.

    Args:
        plan: What ran.
        records: Of its jobs, in order; none in processes that do not print.
        folder: Of run records.
        device: Where the model runs.
        batch_size: Questions read together; changes no answer.
        json_output: Standard output holds the records as JSON, so this goes to the other one.
    """
    from ovbench.harness.understanding.lmms.cross_check import cross_text
    from ovbench.harness.understanding.lmms.of_run import answerer_of_job, cross_check_run

    for job, record in zip(plan.jobs, records, strict=False):
        if job.suite != "understanding":
            continue
        target = folder / ".lmms-eval" / record.run_id
        rows = cross_check_run(
            folder / record.run_id,
            job.question_tasks,
            out=target,
            device=device,
            batch_size=batch_size,
            data_dir=None if job.understanding is None else job.understanding.data,
            answerer=answerer_of_job(job),
        )
        typer.echo(f"\n{job.name}: lmms-eval and ovbench on the same answers", err=json_output)
        typer.echo(cross_text(rows), err=json_output)
        typer.echo(f"lmms-eval: {target / 'cross-check.json'}", err=True)


def send_jobs(
    launch: str | None, slurm: str, words: Mapping[str, Any], flags: Sequence[str], plan: Plan, folder: Path
) -> None:
    """Sends one job per encoder and seed of a plan, which was checked, and prints their numbers.

    Args:
        launch: `slurm`.
        slurm: `gpus=8,nodes=1,…`.
        words: Options of the command and their values; None is left out.
        flags: Options without a value.
        plan: What would run here.
        folder: Of run records; logs of the jobs go below it.

    Raises:
        ConfigError: Another launcher, a setting that is not known, or no Slurm here.
        DependencyError: submitit is not installed.
    """
    if launch != "slurm":
        what = "--slurm has no effect without --launch slurm" if launch is None else f"unknown launcher '{launch}'"
        raise ConfigError(what, where="--launch", fix="use --launch slurm, or leave both out")
    from ovbench.harness.launch import jobs_of, submit

    settings = _settings(slurm)
    arguments = ["run", *flags]
    for name, value in words.items():
        if value is not None:
            arguments += [name, str(value)]
    more = {f"slurm_{name}": settings.pop(name) for name in ("account", "qos", "constraint") if name in settings}
    sent = submit(
        jobs_of(
            arguments,
            encoders=list(dict.fromkeys(job.encoder.canonical for job in plan.jobs)),
            seeds=list(dict.fromkeys(job.seed for job in plan.jobs)),
        ),
        folder=folder / ".slurm",
        more=more,
        **settings,
    )
    for job in sent:
        typer.echo(f"{job.job_id}  {job.name}  logs: {job.folder}")


def _settings(text: str) -> dict[str, Any]:
    """Reads `gpus=8,time=1440`."""
    from ovbench._base.names import unknown

    found: dict[str, Any] = {}
    for part in filter(None, (item.strip() for item in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or not value:
            raise ConfigError(f"'{part}' is not understood", where="--slurm", fix="write name=value, with commas")
        if name not in _SETTINGS:
            raise unknown("setting", name, _SETTINGS, where="--slurm")
        if name in _COUNTS and not value.isdecimal():
            raise ConfigError(
                f"'{name}' must be a whole number, got '{value}'", where="--slurm", fix=f"for instance {name}=8"
            )
        found[name] = int(value) if name in _COUNTS else value
    return found
