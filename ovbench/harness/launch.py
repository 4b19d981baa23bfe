"""Sends commands to a Slurm cluster through submitit: one job per encoder and seed, each the same `ovbench run`.

A job of several processes runs under `torchrun`, on one node or on many. A job that is preempted or runs out of time is
sent again; the command itself goes on where it was, since finished steps and checkpoints are kept.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.files import make_dir
from ovbench._base.lazy import require

log = logging.getLogger(__name__)
Cluster = Literal["slurm", "local", "debug"]
_FIRST_PORT, _NUM_PORTS = 20_000, 20_000  # of the meeting point of several nodes
# What a job sets for its own processes; those of the one that sends must not reach it.
_LAUNCHER_WORDS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, kw_only=True, slots=True)
class LaunchJob:
    """One command."""

    name: str  # in the queue
    arguments: tuple[str, ...]  # of `ovbench`, beginning with the command

    def __post_init__(self) -> None:
        if not self.arguments or not self.name:
            raise ConfigError("a job needs a name and a command", where="--launch")


@dataclass(frozen=True, kw_only=True, slots=True)
class Submitted:
    """A job in the queue."""

    name: str
    job_id: str
    arguments: tuple[str, ...]
    folder: Path  # of its output
    handle: Any  # submitit's job


def jobs_of(arguments: Sequence[str], *, encoders: Sequence[str], seeds: Sequence[int]) -> list[LaunchJob]:
    """Returns a job per encoder and seed.

    Args:
        arguments: The command with everything but encoders and seeds, e.g. `("run", "--suite", "understanding")`.
        encoders: Each becomes `--encoder`.
        seeds: Each becomes `--seed`.

    Raises:
        ConfigError: There is no encoder or no seed, or one is named twice.
    """
    if not encoders or not seeds:
        raise ConfigError("no encoder or no seed named", where="--launch")
    for kind, values in (("encoder", encoders), ("seed", seeds)):
        if len(set(values)) < len(values):
            raise ConfigError(f"an {kind} is named twice" if kind == "encoder" else "a seed is named twice", where=kind)
    return [
        LaunchJob(
            name=f"ovbench-{_plain(encoder)}-{seed}",
            arguments=(*arguments, "--encoder", encoder, "--seed", str(seed)),
        )
        for encoder in encoders
        for seed in seeds
    ]


def _plain(name: str) -> str:
    return "".join(mark if mark.isalnum() or mark in "-_." else "-" for mark in name)


def command_line(
    arguments: Sequence[str], *, gpus: int, nodes: int = 1, head: str = "", job_id: str = "", python: str = ""
) -> list[str]:
    """Returns the program that each node of a job starts.

    Args:
        arguments: Of `ovbench`.
        gpus: Processes of a node, at least one.
        nodes: Nodes of the job.
        head: Host name of the first node, where the others meet it; needed for several.
        job_id: Tells this meeting from others on the same host.
        python: The interpreter; empty: this one.
    """
    start = [python or sys.executable]
    if gpus * nodes > 1:
        start += ["-m", "torch.distributed.run", f"--nnodes={nodes}", f"--nproc-per-node={gpus}"]
        if nodes == 1:
            start += ["--standalone"]
        else:
            port = _FIRST_PORT + zlib.crc32(job_id.encode()) % _NUM_PORTS
            start += ["--rdzv-backend=c10d", f"--rdzv-endpoint={head}:{port}", f"--rdzv-id={job_id}"]
    return [*start, "-m", "ovbench", *arguments]


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the environment of a job's program, without what another launcher has said."""
    return {name: value for name, value in environment.items() if name not in _LAUNCHER_WORDS}


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeTask:
    """What submitit runs once on every node."""

    arguments: tuple[str, ...]
    gpus: int
    nodes: int

    def __call__(self) -> int:
        """Runs the command to its end.

        Raises:
            OvbenchError: It ended with an error; its last words are in the job's log.
        """
        submitit = require("submitit", extra="slurm", purpose="--launch slurm")
        place = submitit.JobEnvironment()
        command = command_line(
            self.arguments, gpus=self.gpus, nodes=self.nodes, head=place.hostnames[0], job_id=place.job_id
        )
        status = subprocess.run(command, env=child_environment(os.environ), check=False).returncode
        if status:
            raise OvbenchError(
                f"'ovbench {' '.join(self.arguments)}' ended with status {status}",
                where=f"job {place.job_id} on {place.hostname}",
                fix="read the job's log; the same command again goes on where it ended",
            )
        return status

    def checkpoint(self) -> Any:
        """Returns the same task, for submitit to send again after a preemption or at the end of its time."""
        submitit = require("submitit", extra="slurm", purpose="--launch slurm")
        return submitit.helpers.DelayedSubmission(self)


def submit(
    jobs: Sequence[LaunchJob],
    *,
    partition: str | None = None,
    gpus: int = 1,
    nodes: int = 1,
    time: int = 24 * 60,
    folder: Path,
    cluster: Cluster = "slurm",
    cpus_per_gpu: int = 8,
    more: Mapping[str, Any] | None = None,
) -> list[Submitted]:
    """Sends jobs and returns at once.

    Args:
        jobs: The commands.
        partition: Of the cluster; None: its default.
        gpus: GPUs of a node, one process each; 0: one process on the CPU.
        nodes: Nodes of a job.
        time: Minutes that a job may take.
        folder: For logs and submitit's files; on a disk that all nodes see.
        cluster: `slurm`; `local` runs on this machine in the background, `debug` in this process.
        cpus_per_gpu: CPU cores for each process.
        more: Further settings by submitit's names, such as `slurm_account`.

    Raises:
        DependencyError: submitit is not installed.
        ConfigError: A count is too small, two jobs have one name, or there is no Slurm here.
        OvbenchError: A job was not taken; names those that were sent before.
    """
    for name, value, least in (("gpus", gpus, 0), ("nodes", nodes, 1), ("time", time, 1), ("cpus", cpus_per_gpu, 1)):
        if value < least:
            raise ConfigError(f"{name} must be {least} or more, got {value}", where="--launch slurm")
    if len({job.name for job in jobs}) < len(jobs):
        raise ConfigError("two jobs have the same name", where="--launch slurm")
    submitit = require("submitit", extra="slurm", purpose="--launch slurm")
    make_dir(folder)
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
    except RuntimeError as error:  # submitit's word for a machine without sbatch
        raise ConfigError(
            f"no job can be sent from here: {error}",
            where="--launch slurm",
            fix="run this on a login node of the cluster, or leave --launch out",
        ) from error
    processes = max(1, gpus)
    settings: dict[str, Any] = {
        "nodes": nodes,
        "tasks_per_node": 1,  # torchrun starts the others
        "gpus_per_node": gpus,
        "cpus_per_task": cpus_per_gpu * processes,
        "timeout_min": time,
        **(more or {}),
    }
    if partition is not None:
        settings["slurm_partition"] = partition
    executor.update_parameters(**settings)
    sent: list[Submitted] = []
    for job in jobs:
        executor.update_parameters(name=job.name)
        try:
            handle = executor.submit(NodeTask(arguments=job.arguments, gpus=processes, nodes=nodes))
        except (OSError, RuntimeError) as error:  # sbatch's words are in submitit's RuntimeErrors
            ids = ", ".join(f"{each.name} is job {each.job_id}" for each in sent)
            raise OvbenchError(
                f"'{job.name}' cannot be sent: {error}",
                where="--launch slurm",
                fix=f"already sent: {ids or 'none'}; send the others again when the cause is removed",
            ) from error
        sent.append(
            Submitted(
                name=job.name,
                job_id=str(handle.job_id),
                arguments=job.arguments,
                folder=Path(handle.paths.folder),
                handle=handle,
            )
        )
        log.info("%s is job %s: %s", job.name, handle.job_id, " ".join(job.arguments))
    return sent
