"""What generated pictures are compared with, checked and decomposed once for all scores."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ovbench.harness.metrics.frechet import Gaussian as Statistics
from ovbench.harness.metrics.frechet import gaussian, moments_of
from ovbench.harness.metrics.references import Gaussian, Reference


@dataclass(frozen=True, kw_only=True, slots=True)
class Against:
    """What generated pictures are compared with."""

    stats: Reference
    rows: np.ndarray | None = field(repr=False)  # [N, D] of its pictures; None: there are none, or they are not needed
    pool: Statistics = field(repr=False)
    spatial: Statistics | None = field(repr=False)

    @classmethod
    def of(cls, stats: Reference, rows: np.ndarray | None, device: torch.device) -> Against:
        """Returns a reference whose statistics were checked, and are decomposed once for all scores."""
        # ADM's file holds a part of the pictures alone, whose rows are then not those of mu and sigma.
        own = rows if rows is not None and stats.n == len(rows) else None
        spatial = None if stats.spatial is None else checked(stats.spatial, stats.n, device)
        return cls(stats=stats, rows=rows, pool=checked(stats.pool, stats.n, device, own), spatial=spatial)


def checked(reference: Gaussian, n: int | None, device: torch.device, rows: np.ndarray | None = None) -> Statistics:
    """Returns statistics ready for several scores; from the rows themselves where there are fewer than dimensions."""
    if rows is not None and len(rows) <= reference.dim:
        return moments_of(rows, "reference", device)
    return gaussian(reference.mu, reference.sigma, n, "reference", device)
