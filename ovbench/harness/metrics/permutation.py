"""Is there a difference at all? Tests that swap the two runs image by image, and McNemar's for single questions.

Swapping whole images keeps the questions of one image together (Good, Permutation, Parametric and Bootstrap Tests of
Hypotheses, 2005, section 3). It is exact where the two runs could have been exchanged on each image, and keeps its size
for large numbers of images where only the scores are equal. McNemar: doi 10.1007/BF02295996; mid-p: Fagerland, Lydersen
& Laake, doi 10.1186/1471-2288-13-91.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ovbench._base.seeding import numpy_generator
from ovbench.harness.metrics.interval import Floats
from ovbench.harness.metrics.ratios import Ratios

NUM_DRAWS = 10_000
MAX_EXACT = 13  # images that differ up to which all 2^m swaps are counted, which are then fewer than the draws
_MAX_CELLS = 8_000_000  # draws x images held in memory at once
_SLACK = 1e-9  # relative; equal differences must count as equal whatever the order of summation


@dataclass(frozen=True, kw_only=True, slots=True)
class PValue:
    """A two-sided p-value, and how it was made."""

    p: float
    method: str


def swap_test(first: Ratios, second: Ratios, *, label: str, seed: int = 0, num_draws: int = NUM_DRAWS) -> PValue:
    """Tests whether two runs that answered about the same images differ, by swapping their answers image by image.

    Works for every score that is made of sums over images. A swap that leaves the score without a value counts as if it
    were as extreme as what was seen.

    Contract: depends on (seed, label) and the answers alone. Swapping `first` and `second` gives the same p.

    Args:
        first: Score of one run.
        second: The same score of the other, on the same images in the same order.
        label: Name of the use, so that different tasks draw differently.
        seed: Of the draws.
        num_draws: How many, where not all swaps are counted.
    """
    assert first.num.shape == second.num.shape, "both runs are about the same images"
    step_num, step_den = second.num - first.num, second.den - first.den
    differs = np.any((step_num != 0) | (step_den != 0), axis=1)
    count = int(differs.sum())
    if count == 0:
        return PValue(p=1.0, method="no image on which the answers differ")
    step = np.concatenate([step_num[differs], step_den[differs]], axis=1)  # [m, 2J]
    one = np.concatenate([first.num.sum(axis=0), first.den.sum(axis=0)])
    other = np.concatenate([second.num.sum(axis=0), second.den.sum(axis=0)])
    observed = abs(first.value - second.value)
    exact = count <= MAX_EXACT
    total = 2**count if exact else num_draws
    generator = numpy_generator(seed, "swaps", label)
    at_once = max(1, _MAX_CELLS // count)
    reached = 0
    for start in range(0, total, at_once):
        rows = min(at_once, total - start)
        swaps = _all_swaps(start, rows, count) if exact else _random_swaps(generator, rows, count)
        moved = swaps @ step
        width = len(first.weights)
        shown = first.of_sums((one + moved)[:, :width], (one + moved)[:, width:])
        hidden = first.of_sums((other - moved)[:, :width], (other - moved)[:, width:])
        gaps = np.abs(shown - hidden)
        reached += int(np.sum(np.isnan(gaps) | (gaps >= observed * (1 - _SLACK) - 1e-15)))
    if exact:
        return PValue(p=reached / total, method=f"all {total} swaps of the {count} images that differ")
    # What was seen is one of the possible swaps, so p is never 0 (Phipson & Smyth, doi 10.2202/1544-6115.1585).
    return PValue(p=(reached + 1) / (total + 1), method=f"{total} random swaps of the {count} images that differ")


def _all_swaps(start: int, rows: int, count: int) -> Floats:
    numbers = np.arange(start, start + rows)
    return ((numbers[:, None] >> np.arange(count)) & 1).astype(np.float64)


def _random_swaps(generator: np.random.Generator, rows: int, count: int) -> Floats:
    bytes_a_row = (count + 7) // 8
    drawn: NDArray[np.uint8] = generator.integers(0, 256, size=(rows, bytes_a_row), dtype=np.uint8)
    return np.unpackbits(drawn, axis=1, count=count).astype(np.float64)


@dataclass(frozen=True, kw_only=True, slots=True)
class McNemar:
    """McNemar's test of two runs that answered the same independent questions."""

    first_only: int  # questions that only the first run has right
    second_only: int
    exact_p: float  # conditional binomial, keeps its size always and errs on the safe side
    mid_p: float  # half of what was seen counts: close to its size


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> McNemar:
    """Returns McNemar's test, right or wrong [n] each; only for independent questions, so one per image."""
    first_only, second_only = int(np.sum(first & ~second)), int(np.sum(~first & second))
    count, least = first_only + second_only, min(first_only, second_only)
    if count == 0:
        return McNemar(first_only=0, second_only=0, exact_p=1.0, mid_p=1.0)
    logs = [math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1) for k in range(least + 1)]
    chances = [math.exp(log - count * math.log(2.0)) for log in logs]
    tail = math.fsum(chances)
    exact = min(1.0, 2.0 * tail)
    mid = 1.0 if first_only == second_only else min(1.0, 2.0 * tail - chances[-1])
    return McNemar(first_only=first_only, second_only=second_only, exact_p=exact, mid_p=mid)
