"""Runs plans: each job in one process or several side by side, each ending in one record."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ovbench._base import launcher
from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.files import folder_lock
from ovbench._base.paths import cache_dir
from ovbench.harness.events import Event, Listener, Reporter, ignore
from ovbench.harness.plan import Job, Plan, plan_runs
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from ovbench.tasks.base import TaskSpec

log = logging.getLogger(__name__)
R = TypeVar("R")
__all__ = ["plan_runs", "run_all", "run_job"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """What a run leaves."""

    record: RunRecord
    rows: list[dict[str, Any]]  # per question
    files: dict[str, Path]  # name in the run's folder → file


def run_job(job: Job, listener: Listener = ignore) -> Finished:
    """Runs one job and returns its record, its per-question rows and its files; writes nothing but the cache."""
    import torch

    from ovbench.harness.steps import StepCache

    began = time.time()
    reporter = Reporter(job.name, listener)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(job.protocol.section(job.suite).get("cpu_threads", 1)))
    try:
        if job.suite == "understanding":
            from ovbench.harness.recording import make_record
            from ovbench.harness.understanding.pipeline import UnderstandingRun

            answers = UnderstandingRun(job, StepCache(cache_dir()), reporter).run()
            record, rows = make_record(job, answers, began=began)
            return Finished(record=record, rows=rows, files={})
        from ovbench.harness.generation.pipeline import GenerationRun
        from ovbench.harness.recording_pictures import make_picture_record

        pictures = GenerationRun(job, StepCache(cache_dir()), reporter).run()
        return Finished(record=make_picture_record(job, pictures, began=began), rows=[], files=pictures.files)
    finally:
        torch.set_num_threads(threads)


def check_job(job: Job) -> None:
    """Finds and checks everything that a run of pictures needs; computes and writes nothing.

    Raises:
        OvbenchError: Something is missing or does not fit.
    """
    from ovbench.harness.generation.setting import open_setting

    open_setting(job, quiet=True)


def _to_check(jobs: Sequence[Job]) -> list[Job]:
    """Returns the jobs that are checked before the first one trains; what the last one lacks is said at once."""
    return [job for job in jobs if job.suite != "understanding"] if len(jobs) > 1 else []


def is_main_process() -> bool:
    """Whether this process writes and prints: under torchrun the first one does."""
    return launcher.rank() == 0


def _keep(store: RunStore, finished: Finished) -> RunRecord:
    return store.keep(finished.record, finished.rows, finished.files)


def run_all(
    plan: Plan, *, jobs: int | None = None, in_process: bool = False, listener: Listener = ignore
) -> list[RunRecord]:
    """Runs every job of a plan and stores the records; a record that is there already is returned, not made again.

    Args:
        plan: From `plan_runs`.
        jobs: Processes side by side; None: one per core, at most one per job. On a GPU one after the other.
        in_process: Run the jobs one after the other in this process, without workers.
        listener: Receives progress events.

    Returns:
        One record per job, in the order of the plan.

    Raises:
        RecordError: Another run is using the output folder.
        OvbenchError: A job failed; the records of those that ended before are kept.
    """
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs must be 1 or more, got {jobs}", where="--jobs")
    assert plan.out is not None, "only workers plan without a folder, and they do not run plans"
    on_cpu = all(job.device == "cpu" for job in plan.jobs)
    count = jobs if jobs is not None else (min(len(plan.jobs), os.cpu_count() or 1) if on_cpu else 1)
    store = RunStore(plan.out)
    if launcher.world_size() > 1:
        return _run_with_others(plan.jobs, store, listener)
    with folder_lock(plan.out, purpose="run"):
        store.records()  # a damaged or newer record is said now, not after the training
        if in_process:
            for job in _to_check(plan.jobs):
                check_job(job)
            return [_keep(store, run_job(job, listener)) for job in plan.jobs]
        return _run_side_by_side(plan.jobs, count, store, listener)


def _run_with_others(jobs: Sequence[Job], store: RunStore, listener: Listener) -> list[RunRecord]:
    """Runs every job in all processes of a launcher together; the main one stores records and tells of progress."""
    main = is_main_process()
    with folder_lock(store.root, purpose="run") if main else contextlib.nullcontext():
        records: list[RunRecord] = []
        if main:
            store.records()  # a damaged or newer record is said now, not after the training
        for job in _to_check(jobs):
            check_job(job)
        for job in jobs:
            finished = run_job(job, listener if main else ignore)
            records.append(_keep(store, finished) if main else finished.record)
        return records


# glibc gives large tensors back to the system at every step unless told otherwise: a fifth of the training time on CPU.
_ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_TOP_PAD_": "200000000",
}


def _run_side_by_side(jobs: Sequence[Job], count: int, store: RunStore, listener: Listener) -> list[RunRecord]:
    for name, value in _ALLOCATOR.items():
        os.environ.setdefault(name, value)  # workers inherit it; it must be there before a process starts
    context = multiprocessing.get_context("spawn")
    events: Any = context.Queue()
    done = threading.Event()

    def forward() -> None:
        while not (done.is_set() and events.empty()):
            try:
                listener(events.get(timeout=0.2))
            except queue.Empty:
                continue

    forwarder = threading.Thread(target=forward, daemon=True)
    forwarder.start()
    pool = ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(events, os.getpid()))
    try:
        for checked in [pool.submit(_check, _Request.of(job)) for job in _to_check(jobs)]:
            _result(checked)
        futures: list[Future[Finished]] = [pool.submit(_work, _Request.of(job)) for job in jobs]
        records: list[RunRecord] = []
        failure: OvbenchError | None = None
        for job, future in zip(jobs, futures, strict=True):
            try:
                records.append(_keep(store, _result(future)))
            except WorkerDied:
                raise
            except OvbenchError as error:
                log.warning("%s failed: %s", job.name, error.what)
                failure = failure or error
        if failure is not None:
            raise failure
        return records
    except BaseException:
        for process in list(pool._processes.values()):  # on Ctrl-C the workers stop with us
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        done.set()
        forwarder.join(timeout=2)


class WorkerDied(OvbenchError):
    """A worker process ended without a word."""


def _result(future: Future[R]) -> R:
    try:
        return future.result()
    except BrokenProcessPool:
        raise WorkerDied(
            "a worker process died",
            where="ovbench run",
            fix="it was killed, perhaps for lack of memory: run the same command again, with --jobs 1",
        ) from None


class _Request:
    """A job as plain words, which travel between processes; families hold functions, which need not."""

    def __init__(self, words: dict[str, Any]) -> None:
        self.words = words

    @classmethod
    def of(cls, job: Job) -> _Request:
        return cls(
            {
                "encoders": [job.encoder.canonical],
                "suite": job.suite,
                "protocol": job.protocol.origin,
                "tasks": [task.origin if isinstance(task, TaskSpec) else task.name for task in job.tasks],
                "limit": job.limit,
                "seeds": [job.seed],
                "device": job.device,
                "dtype": job.dtype,
                "batch_size": job.batch_size,
                "generation": None if job.generation is None else [job.generation],
                "understanding": job.understanding,
            }
        )


_events: Any = None


def _start_worker(events: Any, parent: int) -> None:
    global _events  # the queue can only be handed over when the process starts
    _events = events
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which stops the workers
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)  # the parent was killed: what is finished is in the cache, and nobody waits for the rest


def _job_of(request: _Request) -> Job:
    from ovbench._base.log import configure

    configure()
    (job,) = plan_runs(**request.words, out=None).jobs
    return job


def _check(request: _Request) -> None:
    check_job(_job_of(request))


def _work(request: _Request) -> Finished:
    job = _job_of(request)

    def send(event: Event) -> None:
        _events.put(event)

    return run_job(job, send)
