"""What a run tells while it works: one small record per event, the same in one process and across several."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ovbench.harness.training import Progress  # at run time it would load torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One thing that happened."""

    job: str  # what is being run, e.g. `ovis3/mini seed 0`
    step: str  # `features`, `llava_stage1`, …
    state: Literal["started", "progress", "cached", "finished"]
    done: int = 0
    total: int = 0
    elapsed_s: float = 0.0
    eta_s: float | None = None
    fields: dict[str, float] = field(default_factory=dict)  # e.g. the loss


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listens to nothing."""
    del event


class Reporter:
    """Turns the progress of the steps of one job into events.

    Args:
        job: Name of the job.
        listener: Receives the events, at most five a second per step.
    """

    def __init__(self, job: str, listener: Listener = ignore) -> None:
        self.job, self.listener = job, listener

    def step(self, name: str) -> Progress:
        """Announces a step and returns where its progress goes."""
        began = last = 0.0
        first_done: int | None = None
        self.listener(Event(job=self.job, step=name, state="started"))

        def progress(done: int, total: int, **fields: float) -> None:
            nonlocal began, last, first_done
            now = time.monotonic()
            if first_done is None:  # the rate counts from here: a step may first wait for another, or start part-way
                began, first_done = now, done
            if now - last < 0.2 and done < total:
                return
            last = now
            rate = (done - first_done) / (now - began) if now > began else 0.0
            eta = (total - done) / rate if rate > 0 else None
            self.listener(
                Event(
                    job=self.job,
                    step=name,
                    state="progress",
                    done=done,
                    total=total,
                    elapsed_s=now - began,
                    eta_s=eta,
                    fields=fields,
                )
            )

        return progress

    def ended(self, name: str, *, cached: bool, seconds: float) -> None:
        """Says that a step is there, and whether it was made now."""
        self.listener(Event(job=self.job, step=name, state="cached" if cached else "finished", elapsed_s=seconds))
