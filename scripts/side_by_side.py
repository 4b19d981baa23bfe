"""Rivals timed in alternating rounds of one run, together with the proof that they compute the same.

A part of `speed_generation.py`; it does nothing by itself.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from ovbench._base.errors import DataError

Side = Callable[[], Sequence[Tensor]]  # computes, and returns what the check compares
MIN_S = 0.1  # a side that is faster runs several times per round


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """How far two results are apart."""

    bit_equal: bool
    largest: float  # absolute
    relative: float  # largest over the greatest magnitude of the tensor that it lies in


def synchronise(device: torch.device) -> None:
    """Waits for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def difference(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Difference:
    """Returns how far results are apart; tensors of the same number and shapes.

    Raises:
        DataError: The shapes differ, or a value is not finite or everything is 0, so that nothing would be compared.
    """
    if [tuple(one.shape) for one in found] != [tuple(one.shape) for one in wanted] or not found:
        raise DataError("the two sides return tensors of other shapes", where="side by side")
    largest = relative = 0.0
    for one, other in zip(found, wanted, strict=True):
        first, second = one.detach().double().cpu(), other.detach().double().cpu()
        gap, size = float((first - second).abs().max()), float(second.abs().max())
        if not math.isfinite(gap) or size == 0.0:
            raise DataError("a side returns zeros, NaN or infinity: there is nothing to compare", where="side by side")
        largest, relative = max(largest, gap), max(relative, gap / size)
    same = all(torch.equal(one.detach().cpu(), other.detach().cpu()) for one, other in zip(found, wanted, strict=True))
    return Difference(bit_equal=same, largest=largest, relative=relative)


def alternate(
    sides: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    device: torch.device,
    min_s: float = MIN_S,
    slowest_s: float | None = None,
) -> dict[str, list[float]]:
    """Returns seconds of one call, per side and round; every second round goes backwards through the sides.

    Args:
        sides: What is timed.
        rounds: Measurements of each.
        device: Waited for.
        min_s: Least seconds of a measurement; shorter calls are repeated, all sides alike.
        slowest_s: About how long the slowest takes, where all have run before; None: each is called twice first, so
            that nothing is timed cold.
    """
    if slowest_s is None:
        for call in sides.values():
            call()
        slowest_s = max(_seconds(call, 1, device) for call in sides.values())
    repeats = max(1, math.ceil(min_s / slowest_s))
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            times[name].append(_seconds(sides[name], repeats, device))
    return times


def _seconds(call: Callable[[], object], repeats: int, device: torch.device) -> float:
    synchronise(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    synchronise(device)
    return (time.perf_counter() - began) / repeats


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Returns the most memory that tensors took during a call, above what there was before.

    On a CPU torch's own record of every allocation is added up; neither Python nor the allocator's cache counts.
    """
    if device.type == "cuda":
        synchronise(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        synchronise(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        call()
    assert record.profiler is not None
    assert record.profiler.kineto_results is not None, "the profiler has run"
    events: list[Any] = record.profiler.kineto_results.events()  # torch's stub lacks `nbytes`
    # Trap: several changes can carry one time stamp, and sorting by size would order them; the sort is stable.
    changes = [event for event in events if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    held = peak = 0
    for change in changes:
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def compare(
    ours: Side,
    theirs: Side,
    *,
    rounds: int,
    device: torch.device,
    tolerance: float | None,
    memory: bool = False,
    min_s: float = MIN_S,
) -> dict[str, Any]:
    """Returns medians of both sides, how many times faster ours is, and how far the results are apart.

    Args:
        ours: With the saving.
        theirs: Without it.
        rounds: Of each side, alternating.
        device: Where they compute.
        tolerance: Largest relative difference; None: it is stated and not judged.
        memory: Measure the peak of both too, each in a call of its own.
        min_s: See `alternate`.

    Raises:
        DataError: The results differ by more, so that the times would compare different things.
    """
    results: list[Sequence[Tensor]] = []
    seconds = [_seconds(lambda side=side: results.append(side()), 1, device) for side in (ours, theirs)]  # warms up too
    apart = difference(*results)
    if tolerance is not None and apart.relative > tolerance:
        raise DataError(
            f"the two sides differ by {apart.relative:.2g} of the largest value, and {tolerance:.2g} is allowed",
            where="side by side",
        )
    sides = {"with": ours, "without": theirs}
    times = alternate(sides, rounds=rounds, device=device, min_s=min_s, slowest_s=max(seconds))
    ratios = [slow / fast for fast, slow in zip(times["with"], times["without"], strict=True)]
    report: dict[str, Any] = {
        "with_s": statistics.median(times["with"]),
        "without_s": statistics.median(times["without"]),
        "times_faster": statistics.median(ratios),
        "times_faster_of_rounds": ratios,
        "bit_equal": apart.bit_equal,
        "largest_difference": apart.largest,
        "relative_difference": apart.relative,
        "tolerance": tolerance,
    }
    if memory:
        report["with_peak_bytes"], report["without_peak_bytes"] = (peak_bytes(side, device) for side in (ours, theirs))
    return report


def skipped(reason: str) -> dict[str, Any]:
    """Returns the entry of something that was not measured."""
    return {"measured": False, "reason": reason}
