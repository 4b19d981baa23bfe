"""Batches whose results do not depend on the batch: item i always sits in slot i mod G of a pass of exactly G items.

Trap: torch's CPU kernels give a row other last bits in another batch. Matrix products of few rows take other paths,
and SiLU and GELU differ between the vectorised part of a tensor and its rest, so even the place in the batch counts.
With the shape and the place fixed, nothing is left to differ; what the other slots hold does not reach a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError

_TOKENS_PER_PASS = {"cpu": 512, "cuda": 32768}  # enough to keep the device busy


def default_group_size(num_tokens: int, device: torch.device) -> int:
    """Returns how many items of so many tokens go through a network at once; other devices count as GPUs."""
    return max(1, _TOKENS_PER_PASS["cpu" if device.type == "cpu" else "cuda"] // num_tokens)


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """The wanted items of one pass."""

    indices: tuple[int, ...]  # rising
    slots: tuple[int, ...]  # of each, index mod size
    size: int  # slots of the pass, wanted or not

    def fill(self, rows: Tensor) -> Tensor:
        """Returns [size, ...] with the rows [n, ...] in their slots and zeros elsewhere."""
        out = rows.new_zeros(self.size, *rows.shape[1:])
        out[list(self.slots)] = rows
        return out

    def take(self, filled: Tensor) -> Tensor:
        """Returns the wanted rows [n, ...] of [size, ...]."""
        return filled[list(self.slots)]


def groups(indices: Sequence[int], size: int) -> Iterator[Group]:
    """Yields the passes that wanted items need, each once.

    Args:
        indices: Numbers of items from 0, rising.
        size: Slots of a pass.

    Raises:
        ConfigError: The numbers do not rise, or one is negative.
    """
    if any(index < 0 for index in indices[:1]) or any(first >= second for first, second in pairwise(indices)):
        raise ConfigError("image numbers must rise from 0 or more, each once", where="indices")
    for _, members in groupby(indices, key=lambda index: index // size):
        chosen = tuple(members)
        yield Group(indices=chosen, slots=tuple(index % size for index in chosen), size=size)


def share_of_rank(num_items: int, size: int, rank: int, world_size: int) -> list[int]:
    """Returns the items of one process: whole passes in turn, so that no pass is computed twice.

    Args:
        num_items: Items of all processes, numbered from 0.
        size: Slots of a pass.
        rank: This process.
        world_size: All processes.
    """
    return [index for index in range(num_items) if index // size % world_size == rank]
