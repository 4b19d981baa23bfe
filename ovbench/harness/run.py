"""Runs plans: each job in one process or several side by side, each ending in one record."""

from __future__ import annotations

import logging
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.files import folder_lock
from ovbench._base.paths import cache_dir
from ovbench.harness.events import Event, Listener, Reporter, ignore
from ovbench.harness.plan import Job, Plan, plan_runs
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore

log = logging.getLogger(__name__)
__all__ = ["plan_runs", "run_all", "run_job"]


def run_job(job: Job, listener: Listener = ignore) -> tuple[RunRecord, list[dict[str, Any]]]:
    """Runs one job and returns its record and its per-question rows; writes nothing but the cache."""
    import torch

    from ovbench.harness.recording import make_record
    from ovbench.harness.steps import StepCache
    from ovbench.harness.understanding.pipeline import UnderstandingRun

    began = time.time()
    if job.suite != "understanding":
        raise ConfigError(f"the suite '{job.suite}' cannot be run", where="--suite", fix="use --suite understanding")
    reporter = Reporter(job.name, listener)
    threads = torch.get_num_threads()
    torch.set_num_threads(int(job.protocol.content["understanding"]["cpu_threads"]))
    try:
        outcome = UnderstandingRun(job, StepCache(cache_dir()), reporter).run()
        return make_record(job, outcome, began=began)
    finally:
        torch.set_num_threads(threads)


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
    with folder_lock(plan.out, purpose="run"):
        store.records()  # a damaged or newer record is said now, not after the training
        if in_process:
            return [store.keep(*run_job(job, listener)) for job in plan.jobs]
        return _run_side_by_side(plan.jobs, count, store, listener)


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
        futures: list[Future[tuple[RunRecord, list[dict[str, Any]]]]] = [
            pool.submit(_work, _Request.of(job)) for job in jobs
        ]
        records: list[RunRecord] = []
        failure: OvbenchError | None = None
        for job, future in zip(jobs, futures, strict=True):
            try:
                records.append(store.keep(*future.result()))
            except BrokenProcessPool:
                raise OvbenchError(
                    "a worker process died",
                    where="ovbench run",
                    fix="it was killed, perhaps for lack of memory: run the same command again, with --jobs 1",
                ) from None
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
                "protocol": job.protocol.name,
                "tasks": [task.origin for task in job.tasks],
                "limit": job.limit,
                "seeds": [job.seed],
                "device": job.device,
                "dtype": job.dtype,
                "batch_size": job.batch_size,
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


def _work(request: _Request) -> tuple[RunRecord, list[dict[str, Any]]]:
    from ovbench._base.log import configure

    configure()
    (job,) = plan_runs(**request.words, out=None).jobs

    def send(event: Event) -> None:
        _events.put(event)

    return run_job(job, send)
