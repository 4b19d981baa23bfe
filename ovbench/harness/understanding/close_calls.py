"""Which decisions are too close to be trusted to a shared or batched computation.

Sums in another order round differently; where the two best choices are nearly equal, that decides. Such questions are
asked again alone, with nothing shared, and that answer counts (LLaVA issue 1928: two of 2374 MME answers change between
batch sizes 1 and 16 in float16, worth about ten points).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ovbench._base.errors import ConfigError

CLOSE_CALL = 1e-3  # nats; float32 sums in another order differ by about a hundredth of this
CLOSE_CALL_LOW = 0.1  # logits; 8 or 11 bits of mantissa
_DIGITS = 6  # decimals of a stored log-likelihood


def close_call_of(dtype: torch.dtype) -> float:
    """Returns the gap, in nats, below which a decision is made again, for a model's precision."""
    return CLOSE_CALL_LOW if dtype in (torch.bfloat16, torch.float16) else CLOSE_CALL


def check_close_call(value: float) -> float:
    """Returns the value.

    Raises:
        ConfigError: It is negative or not a number.
    """
    if not value >= 0.0:
        raise ConfigError(f"a close call is a gap of 0 or more, got {value}", where="close_call")
    return value


def margin_of(gap: float, scores: Sequence[float]) -> float:
    """Returns the gap of the closest decision: between tokens on the way, or between the two best options."""
    ranked = sorted(scores, reverse=True)
    return round(min(gap, ranked[0] - ranked[1]) if len(ranked) > 1 else gap, _DIGITS)


def rounded(scores: Sequence[float]) -> tuple[float, ...]:
    """Returns log-likelihoods as they are stored."""
    return tuple(round(value, _DIGITS) for value in scores)
