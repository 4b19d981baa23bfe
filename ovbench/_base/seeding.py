"""One seed per run; every other seed is derived from it by name.

Contract: sample *i* depends on (seed, label of use, *i*) alone, never on batch size, process or restart.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy
    import torch


def derive(seed: int, *labels: str | int) -> int:
    """Returns a seed in [0, 2**63) that depends on `seed` and every label, and on nothing else."""
    text = "\x1f".join([str(int(seed)), *(f"{type(label).__name__}:{label}" for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_generator(seed: int, *labels: str | int) -> numpy.random.Generator:
    """Returns a NumPy generator seeded by `derive(seed, *labels)`."""
    import numpy

    return numpy.random.default_rng(derive(seed, *labels))


def torch_generator(seed: int, *labels: str | int) -> torch.Generator:
    """Returns a CPU torch generator seeded by `derive(seed, *labels)`."""
    import torch

    return torch.Generator().manual_seed(derive(seed, *labels))
