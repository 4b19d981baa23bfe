"""Cached steps of a run under one or several processes.

All processes walk through the same steps: the main one holds the locks of the cache and writes, every one computes its
share.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ovbench._base.files import copy_file, make_dir
from ovbench.harness.events import Reporter
from ovbench.harness.parallel import Processes
from ovbench.harness.steps import Step, StepCache, StepResult
from ovbench.harness.training import Progress

Build = Callable[[Path, Path, Progress], None]


def _linked(source: str, target: str) -> str:
    """Gives a file a second name, or copies it where the file system cannot."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return target


class Counted:
    """Progress that counts: a training tells of each update, so this knows those of this process's own time.

    Args:
        progress: Is told everything.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress, self.count = progress, 0

    def __call__(self, done: int, total: int, **fields: float) -> None:
        """Counts one, and passes it on."""
        self.count += 1
        self._progress(done, total, **fields)


class StepRunner:
    """Obtains steps for all processes of a run.

    Args:
        cache: Where finished steps are.
        reporter: Told about each step by the main process.
        processes: All of them call the same methods in the same order.
    """

    def __init__(self, cache: StepCache, reporter: Reporter, processes: Processes) -> None:
        self.cache, self.reporter, self.processes = cache, reporter, processes
        self.throughput: dict[str, tuple[float, str]] = {}  # what was made now → units a second, and the unit
        self._results: dict[str, StepResult] = {}

    def obtain(self, step: Step, label: str, parents: Sequence[Callable[[], object]], build: Build) -> StepResult:
        """Returns a step's output, once per run; its parents first where it is not there.

        Args:
            step: What is wanted.
            label: Its name in progress lines.
            parents: Called before anything is built.
            build: Called as `build(out, work, progress)` by every process, with one `work` for all. What the main one
                leaves in `out` becomes the entry; the `out` of others is thrown away.
        """
        if step.key in self._results:
            return self._results[step.key]
        processes = self.processes
        if not processes.broadcast(processes.is_main and self.cache.find(step) is not None):
            for parent in parents:
                parent()
        if processes.is_main:
            result = self._obtain_as_main(step, label, build)
        else:
            builds, work = processes.broadcast((False, ""))
            if builds:
                scratch = make_dir(self.cache.root / "scratch" / f"rank-{processes.rank}-{step.key[:16]}")
                build(scratch, Path(work), lambda done, total, **fields: None)
                shutil.rmtree(scratch, ignore_errors=True)
                processes.barrier()
            result = self.cache.describe(step)
        processes.barrier()
        self._results[step.key] = result
        return result

    def _obtain_as_main(self, step: Step, label: str, build: Build) -> StepResult:
        built = False

        def build_with_others(out: Path, work: Path) -> None:
            nonlocal built
            built = True
            self.processes.broadcast((True, str(work)))
            build(out, work, self.reporter.step(label))
            self.processes.barrier()

        result = self.cache.obtain(step, build_with_others)
        if not built:  # it was there, or another command has made it meanwhile
            self.processes.broadcast((False, ""))
        self.reporter.ended(label, cached=result.cached, seconds=result.seconds)
        return result

    def result(self, step: Step) -> StepResult:
        """Returns what is known of a step, whether this run had need of it or not."""
        return self._results.get(step.key) or self.cache.describe(step)

    def take_over(self, source: Path, target: Path) -> None:
        """Puts a finished folder into an entry; the main process does, when all are done with it.

        Contract: the files stay in `work` too, by a second name, until the entry is there: a kill loses none.
        """
        self.processes.barrier()
        if self.processes.is_main:
            shutil.copytree(source, target, copy_function=_linked)

    def keep_training(self, out: Path, work: Path, weights: Sequence[Path]) -> None:
        """Copies weights and logs of a training into its entry."""
        if self.processes.is_main:
            for path in (*weights, *sorted(work.glob("*.log.jsonl"))):
                copy_file(path, out / path.name)

    def speed(self, name: str, units: int, began: float, unit: str) -> None:
        """Remembers how fast something was made, by the clock that `time.monotonic` reads.

        Args:
            name: Of what was made.
            units: Made since then: what an interrupted run had made before is none of them.
            began: Seconds.
            unit: Of the rate.
        """
        seconds = time.monotonic() - began
        if seconds > 0 and units > 0:
            self.throughput[name] = (units / seconds, unit)
