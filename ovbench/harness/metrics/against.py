"""What generated pictures are compared with, checked and decomposed once for all scores."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ovbench.harness.metrics.feature_sets import FeatureSet
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
        spatial = None if stats.spatial is None else _checked(stats.spatial, stats.n, device)
        few = own is not None and len(own) <= stats.pool.dim
        pool = (
            moments_of(own, "reference", device) if few and own is not None else _checked(stats.pool, stats.n, device)
        )
        return cls(stats=stats, rows=rows, pool=pool, spatial=spatial)


def of_generated(generated: FeatureSet, layer: str) -> Statistics:
    """Returns the statistics of a layer of generated pictures; from the rows where they are no more than dimensions."""
    rows = generated.rows.get(layer)
    if rows is not None and len(rows) <= generated.info.layers[layer]:
        return moments_of(rows, "generated", generated.device)
    stats = generated.gaussian(layer)
    return gaussian(stats.mu, stats.sigma, generated.count, "generated", generated.device)


def _checked(stats: Gaussian, n: int | None, device: torch.device) -> Statistics:
    return gaussian(stats.mu, stats.sigma, n, "reference", device)
