"""Kernel Inception Distance: the squared maximum mean discrepancy between two sets of features.

Source: Bińkowski et al., Demystifying MMD GANs (arXiv:1801.01401), section 4 and equation 4 (Gretton et al. 2012,
equation 3). Reference code: torch-fidelity 0.4.0 `metric_kid.py`, clean-fid 0.1.35 `fid.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import numpy_generator
from ovbench.harness.metrics.moments import Features, as_rows, check_count, check_features, check_same_dim

Convention = Literal["ovbench", "torch-fidelity", "clean-fid"]
Kernel = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Indices = NDArray[np.int64]

_BLOCK = 4096  # rows and columns of the kernel matrix held at once: 134 MB


def polynomial_kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Returns (x.y / d + 1)^3, [n, d] and [m, d] → [n, m]; without a unit."""
    return (x @ y.T / x.shape[1] + 1.0) ** 3


def gaussian_kernel(sigma: float) -> Kernel:
    """Returns k(x, y) = exp(-|x - y|^2 / (2 sigma^2)); sigma in feature units."""
    if not (math.isfinite(sigma) and sigma > 0):
        raise ConfigError(f"sigma must be a positive number, got {sigma}", where="sigma")

    def kernel(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        square = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)[None, :] - 2.0 * (x @ y.T)
        return torch.exp(-square.clamp_min(0.0) / (2.0 * sigma**2))

    return kernel


def kernel_sum(kernel: Kernel, x: torch.Tensor, y: torch.Tensor, *, skip_diagonal: bool = False) -> float:
    """Returns the sum of k(x_i, y_j) over all pairs, in float64 blocks; without i = j on request (then y must be x)."""
    total = 0.0
    for row in range(0, len(x), _BLOCK):
        for column in range(0, len(y), _BLOCK):
            block = kernel(x[row : row + _BLOCK].double(), y[column : column + _BLOCK].double())
            total += float(block.sum())
            if skip_diagonal and row == column:
                total -= float(block.diagonal().sum())
    return total


def mmd2(kernel: Kernel, x: torch.Tensor, y: torch.Tensor, *, biased: bool = False) -> float:
    """Returns the estimate of MMD^2 between rows [n, d] and [m, d], computed in float64.

    Unbiased: sum_{i≠j} k(x_i, x_j) / (n (n - 1)) + sum_{i≠j} k(y_i, y_j) / (m (m - 1)) - 2 mean k(x_i, y_j).
    Biased: the first two are plain means, diagonal included.
    """
    n, m = len(x), len(y)
    pairs_x, pairs_y = (n * n, m * m) if biased else (n * (n - 1), m * (m - 1))
    within = kernel_sum(kernel, x, x, skip_diagonal=not biased) / pairs_x
    within += kernel_sum(kernel, y, y, skip_diagonal=not biased) / pairs_y
    return within - 2.0 * kernel_sum(kernel, x, y) / (n * m)


def _prepare(first: Features, second: Features, device: torch.device | str | None) -> tuple[torch.Tensor, torch.Tensor]:
    check_features(first, "first", min_rows=2)
    check_features(second, "second", min_rows=2)
    check_same_dim(first, second, "first, second")
    return as_rows(first, device), as_rows(second, device)


def kid_full(
    first: Features,
    second: Features,
    *,
    kernel: Kernel = polynomial_kernel,
    biased: bool = False,
    device: torch.device | str | None = None,
) -> float:
    """Returns MMD^2 over all rows of [n, d] and [m, d], in float64; unbiased, so slightly negative values are normal.

    The formula is `mmd2`'s with k(x, y) = (x.y / d + 1)^3. Source: Bińkowski et al. 2018, section 4 and equation 4.
    No random subsets and so no seed; memory is bounded by blocks of the kernel matrix.
    """
    x, y = _prepare(first, second, device)
    return mmd2(kernel, x, y, biased=biased)


def mmd2_without_blocks(
    reference: Features,
    generated: Features,
    blocks: Sequence[Indices],
    *,
    kernel: Kernel = polynomial_kernel,
    biased: bool = False,
    device: torch.device | str | None = None,
) -> tuple[float, NDArray[np.float64]]:
    """Returns MMD^2 of [n, d] and [m, d], and MMD^2 with each block of generated rows left out: a jackknife's values.

    The kernel matrix is summed by blocks once, and leaving a block out takes its sums away.

    Args:
        reference: Features of the reference, which stays whole.
        generated: Features of the generated set.
        blocks: Rows of each block; together all rows, each once.
        kernel: As in `kid_full`.
        biased: As in `mmd2`.
        device: Where to compute; None is where the arrays are.
    """
    x, y = _prepare(reference, generated, device)
    parts = [y[torch.from_numpy(rows).to(y.device)] for rows in blocks]
    count = len(parts)
    within, diagonal = np.zeros((count, count)), np.zeros(count)
    for i, first in enumerate(parts):
        for j, second in enumerate(parts[: i + 1]):
            block = kernel(first.double(), second.double())
            within[i, j] = within[j, i] = float(block.sum())
            if i == j and not biased:
                diagonal[i] = float(block.diagonal().sum())
    cross = np.array([kernel_sum(kernel, x, part) for part in parts])
    n, sizes = len(x), np.array([len(part) for part in parts])
    of_reference = kernel_sum(kernel, x, x, skip_diagonal=not biased) / (n * n if biased else n * (n - 1))

    def estimate(
        inside: NDArray[np.float64], between: NDArray[np.float64], m: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        return of_reference + inside / (m * m if biased else m * (m - 1)) - 2 * between / (n * m)

    total = within.sum() - diagonal.sum()
    left = total - 2 * within.sum(axis=1) + np.diag(within) + diagonal
    whole = estimate(np.array([total]), np.array([cross.sum()]), np.array([sizes.sum()]))
    return float(whole[0]), estimate(left, cross.sum() - cross, sizes.sum() - sizes)


@dataclass(frozen=True, kw_only=True, slots=True)
class KidResult:
    """KID over random subsets: mean and population standard deviation, with all it depends on."""

    mean: float
    std: float
    num_subsets: int
    subset_size: int
    convention: Convention
    seed: int


def kid_subsets(
    first: Features,
    second: Features,
    *,
    convention: Convention = "ovbench",
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int | None = None,
    kernel: Kernel = polynomial_kernel,
    device: torch.device | str | None = None,
) -> KidResult:
    """Returns the mean of the unbiased MMD^2 over random subsets, [n, d] and [m, d].

    The formula is `kid_full`'s, on `subset_size` rows of both sets at a time. Source: Bińkowski et al. 2018, section 4.
    The conventions differ in the draws alone; here each kernel is float64 (torch-fidelity's are float32, clean-fid's
    take the features' dtype), so values agree to about 1e-6.

    - `torch-fidelity`: `RandomState(seed)`, default 2020; the subset of `first` is drawn first.
    - `clean-fid`: `RandomState(seed)`, default 0, in place of NumPy's global state; the subset of `second` is drawn
      first, and the size shrinks to the smaller set.
    - `ovbench`: subset i depends on (seed, i) alone, default seed 0.

    Args:
        first: Features of one set, [n, d].
        second: Features of the other, [m, d].
        convention: Whose draws.
        num_subsets: How many subsets.
        subset_size: Rows of a subset; more than a set holds is an error, except for `clean-fid`.
        seed: Of the draws; None takes the default of the convention.
        kernel: `polynomial_kernel` or `gaussian_kernel(sigma)`.
        device: Where to compute; None is where the arrays are.
    """
    if convention not in ("ovbench", "torch-fidelity", "clean-fid"):
        raise ConfigError(
            f"unknown KID convention {convention!r}", where="convention", fix="ovbench, torch-fidelity or clean-fid"
        )
    x, y = _prepare(first, second, device)
    smallest = min(len(x), len(y))
    size = min(smallest, subset_size) if convention == "clean-fid" else subset_size
    check_count(num_subsets, "num_subsets", low=1)
    check_count(size, "subset_size", low=2, high=smallest, why="a subset cannot hold more rows than the smaller set")
    chosen = (2020 if convention == "torch-fidelity" else 0) if seed is None else seed
    values = [
        mmd2(kernel, x[torch.from_numpy(rows).to(x.device)], y[torch.from_numpy(others).to(y.device)])
        for rows, others in _draws(convention, chosen, len(x), len(y), size, num_subsets)
    ]
    return KidResult(
        mean=float(np.mean(values)), std=float(np.std(values)), num_subsets=num_subsets, subset_size=size,
        convention=convention, seed=chosen,
    )  # fmt: skip


def _draws(
    convention: Convention, seed: int, n: int, m: int, size: int, num_subsets: int
) -> Iterator[tuple[Indices, Indices]]:
    """Yields the rows of the first and of the second set, one subset after the other."""
    legacy = np.random.RandomState(seed) if convention != "ovbench" else None
    for index in range(num_subsets):
        if legacy is None:
            generator = numpy_generator(seed, "kid", index)
            yield generator.choice(n, size, replace=False), generator.choice(m, size, replace=False)
        elif convention == "torch-fidelity":
            yield legacy.choice(n, size, replace=False), legacy.choice(m, size, replace=False)
        else:
            others = legacy.choice(m, size, replace=False)
            yield legacy.choice(n, size, replace=False), others
