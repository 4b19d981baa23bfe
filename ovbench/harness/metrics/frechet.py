"""Fréchet distance between two Gaussians, the number behind FID, sFID and FD-DINOv2, with a solver that cannot fail.

Formula: Dowson & Landau, The Fréchet Distance between Multivariate Normal Distributions, 1982, equation 4; as a score
of images: Heusel et al., GANs Trained by a Two Time-Scale Update Rule (arXiv:1706.08500), equation 6. Reference code:
openai/guided-diffusion `evaluations/evaluator.py`, which takes `scipy.linalg.sqrtm`; this module takes singular values
instead. `fid_infinity` extrapolates the distance to an infinite sample.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch

from ovbench._base.errors import DataError
from ovbench.harness.metrics.moments import (
    Features,
    Moments,
    check_features,
    check_same_dim,
    gram,
    to_float64,
)

Solver = Literal["cholesky-eigvalsh", "svd-of-factors", "svd-of-data"]

NEGATIVE = -1e-3  # below this a distance is more than rounding
_ASYMMETRY = 1e-6  # of the largest entry
_NOT_PSD = 1e-6  # of the trace
_STRIPES = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class FrechetResult:
    """A Fréchet distance and how it came about. All parts in squared feature units.

    `value` is the raw number: rounding may put it slightly below 0. `flags` names what a reader must know:
    `negative` (below -1e-3), `n1-below-dim`, `n2-below-dim`, `n1-unknown`, `n2-unknown`.
    """

    value: float  # mean_term + trace1 + trace2 - 2 * trace_sqrt
    mean_term: float  # |mu1 - mu2|^2
    trace1: float
    trace2: float
    trace_sqrt: float  # tr (S1 S2)^(1/2)
    solver: Solver
    n1: int | None
    n2: int | None
    flags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean [d] and covariance [d, d] in float64, checked, with the number of samples behind them (None: unknown).

    It is decomposed when that is first needed, and once: several scores against one reference share the work.
    """

    mu: torch.Tensor
    sigma: torch.Tensor
    n: int | None
    name: str
    _roots: dict[str, torch.Tensor | None] = field(default_factory=dict, repr=False, compare=False)


def gaussian(
    mu: Features, sigma: Features, n: int | None, name: str, device: torch.device | str | None = None
) -> Gaussian:
    """Returns statistics after checking shape, finiteness, symmetry and the diagonal.

    Raises:
        DataError: They are not the mean and covariance of anything.
    """
    mean, cov = to_float64(mu, device), to_float64(sigma, device)
    if mean.ndim != 1 or len(mean) == 0 or cov.shape != (len(mean), len(mean)):
        raise DataError(
            f"expected a mean [d] and a covariance [d, d], got {list(mean.shape)} and {list(cov.shape)}", where=name
        )
    largest = float(cov.abs().max())  # NaN and infinity survive a maximum
    if not (torch.isfinite(mean).all() and math.isfinite(largest)):
        raise DataError("the statistics hold NaN or infinity", where=name, fix="compute them again")
    if n is not None and n < 2:
        raise DataError(f"a covariance needs at least 2 samples, got n = {n}", where=name, fix="score more images")
    gap = float((cov - cov.T).abs().max())
    if gap > _ASYMMETRY * largest:
        raise DataError(
            f"the covariance is not symmetric: entries differ from their mirror by up to {gap:.3g}",
            where=name,
            fix="the file is damaged or holds something else",
        )
    trace = float(cov.trace())
    smallest = float(cov.diagonal().min())
    if smallest < -_NOT_PSD * abs(trace):
        raise _not_psd(name, f"variance {smallest:.3g}")
    return Gaussian(mean, (cov + cov.T) / 2 if gap else cov, n, name)


def _not_psd(name: str, what: str) -> DataError:
    return DataError(
        f"the covariance is not positive semidefinite: it has {what}",
        where=name,
        fix="the file is damaged or holds something else",
    )


def singular_values(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the singular values, [p, q] → [min(p, q)]; on a CPU by NumPy, which is faster there than torch."""
    if 0 in matrix.shape:
        return matrix.new_zeros(0)
    if matrix.device.type == "cpu":
        return torch.from_numpy(np.linalg.svd(matrix.numpy(), compute_uv=False))
    return torch.linalg.svdvals(matrix)


def symmetric_eigen(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns ascending eigenvalues [d] and eigenvectors [d, d] of a symmetric matrix."""
    if matrix.device.type == "cpu":
        values, vectors = np.linalg.eigh(matrix.numpy())
        return torch.from_numpy(values), torch.from_numpy(vectors)
    values, vectors = torch.linalg.eigh(matrix)
    return values, vectors


def symmetric_eigenvalues(matrix: torch.Tensor) -> torch.Tensor:
    """Returns the ascending eigenvalues [d] of a symmetric matrix; on a CPU by NumPy, as `singular_values`."""
    if matrix.device.type == "cpu":
        return torch.from_numpy(np.linalg.eigvalsh(matrix.numpy()))
    return torch.linalg.eigvalsh(matrix)


def cholesky(stats: Gaussian) -> torch.Tensor | None:
    """Returns L with L L^T = S, or None where n does not exceed d, n is unknown, or S is singular."""
    if stats.n is None or stats.n <= len(stats.mu):
        return None
    if "cholesky" not in stats._roots:
        lower, info = torch.linalg.cholesky_ex(stats.sigma)
        stats._roots["cholesky"] = None if int(info) else lower
    return stats._roots["cholesky"]


def factor(stats: Gaussian) -> torch.Tensor:
    """Returns F with F F^T = S, [d, r]: the centred rows where there are at most d of them, else of eigenvectors.

    Raises:
        DataError: S has an eigenvalue below -1e-6 of its trace.
    """
    found = stats._roots.get("factor")
    if found is None:
        found = stats._roots["factor"] = _eigen_factor(stats)
    return found


def _eigen_factor(stats: Gaussian) -> torch.Tensor:
    """Returns F with F F^T = S, [d, r], from the eigenvectors of S.

    Eigenvalues that n samples cannot have (rank <= n - 1) and eigenvalues within rounding of 0 are left out: there are
    many of them, and the square roots of their noise would add up.

    Raises:
        DataError: S has an eigenvalue below -1e-6 of its trace.
    """
    values, vectors = symmetric_eigen(stats.sigma)
    dim = len(values)
    trace = float(stats.sigma.trace())
    if float(values[0]) < -_NOT_PSD * abs(trace):
        raise _not_psd(stats.name, f"eigenvalue {float(values[0]):.3g}")
    noise = float(values[-1]) * torch.finfo(torch.float64).eps * dim**0.5
    keep = values > noise
    if stats.n is not None and stats.n <= dim:
        keep[: dim - stats.n + 1] = False
    return vectors[:, keep] * values[keep].sqrt()


def sqrt_sum(symmetric: torch.Tensor) -> float:
    """Returns the sum of the roots of the eigenvalues of a positive semidefinite matrix; rounding below 0 is 0."""
    return float(symmetric_eigenvalues(symmetric).clamp_min(0.0).sqrt().sum())


def trace_sqrt(first: Gaussian, second: Gaussian) -> tuple[float, Solver]:
    """Returns tr (S1 S2)^(1/2), and how.

    tr (S1 S2)^(1/2) is the sum of the singular values of F1^T F2 for any F with F F^T = S. It is real and finite for
    every positive semidefinite pair, singular ones included. Where both n exceed d and both Cholesky factors exist,
    the eigenvalues of M^T M with M = L1^T L2 are the squares of those singular values and cost a quarter of the time.
    """
    lower1 = cholesky(first)
    lower2 = cholesky(second) if lower1 is not None else None
    if lower1 is not None and lower2 is not None:
        return sqrt_sum(gram(_upper_times_lower(lower1, lower2))), "cholesky-eigvalsh"
    return float(singular_values(factor(first).T @ factor(second)).sum()), "svd-of-factors"


def _upper_times_lower(lower1: torch.Tensor, lower2: torch.Tensor) -> torch.Tensor:
    """Returns L1^T L2, [d, d]; on a CPU without the products with zeros, which are two thirds of it."""
    if lower1.device.type != "cpu":
        return lower1.T @ lower2
    step = -(-len(lower1) // _STRIPES)
    starts = range(0, len(lower1), step)
    result = torch.empty_like(lower1)
    for row in starts:
        for column in starts:
            first = max(row, column)
            left, right = lower1[first:, row : row + step], lower2[first:, column : column + step]
            torch.mm(left.T, right, out=result[row : row + step, column : column + step])
    return result


def frechet_distance(
    mu1: Features,
    sigma1: Features,
    mu2: Features,
    sigma2: Features,
    n1: int | None = None,
    n2: int | None = None,
    *,
    device: torch.device | str | None = None,
) -> FrechetResult:
    """Returns |mu1 - mu2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2).

    Everything in float64; no offset is added and nothing is cut at 0. FID and sFID are this number of Inception's
    layers `2048` and `spatial_2023`. Source: Dowson & Landau 1982, equation 4; Heusel et al. 2017, equation 6.

    Args:
        mu1: Mean of the first set, [d].
        sigma1: Its covariance, [d, d].
        mu2: Mean of the second set, [d].
        sigma2: Its covariance, [d, d].
        n1: Number of samples behind the first; None where unknown. Chooses the solver, never the definition.
        n2: The same for the second.
        device: Where to compute; None is where the arrays are.

    Raises:
        DataError: Statistics of nothing, or of different dimensions.
    """
    first, second = gaussian(mu1, sigma1, n1, "mu1, sigma1", device), gaussian(mu2, sigma2, n2, "mu2, sigma2", device)
    if len(first.mu) != len(second.mu):
        raise DataError(
            f"the statistics have {len(first.mu)} and {len(second.mu)} dimensions",
            where="mu1, mu2",
            fix="score both with the same extractor and layer",
        )
    return frechet_between(first, second)


def frechet_between(first: Gaussian, second: Gaussian) -> FrechetResult:
    """Returns the distance of checked statistics of equal dimensions."""
    root, solver = trace_sqrt(first, second)
    return assemble(first, second, root, solver)


def assemble(first: Gaussian, second: Gaussian, root: float, solver: Solver) -> FrechetResult:
    """Returns the distance from its trace term."""
    mean_term = float((first.mu - second.mu).square().sum())
    traces = float(first.sigma.trace()), float(second.sigma.trace())
    return _result(mean_term, traces, root, solver, (first.n, second.n), len(first.mu))


def _result(
    mean_term: float,
    traces: tuple[float, float],
    root: float,
    solver: Solver,
    counts: tuple[int | None, int | None],
    dim: int,
) -> FrechetResult:
    value = mean_term + traces[0] + traces[1] - 2 * root
    flags = ["negative"] if value < NEGATIVE else []
    for label, count in zip(("n1", "n2"), counts, strict=True):
        if count is None:
            flags.append(f"{label}-unknown")
        elif count < dim:
            flags.append(f"{label}-below-dim")
    return FrechetResult(
        value=value, mean_term=mean_term, trace1=traces[0], trace2=traces[1], trace_sqrt=root, solver=solver,
        n1=counts[0], n2=counts[1], flags=tuple(flags),
    )  # fmt: skip


def moments_of(features: Features, name: str, device: torch.device | str | None = None) -> Gaussian:
    """Returns mean and covariance of a feature matrix [n, d], n >= 2."""
    check_features(features, name, min_rows=2)
    moments = Moments(device)
    moments.add(features)
    found = Gaussian(moments.mean(), moments.covariance(), moments.count, name)
    if len(features) <= features.shape[1]:
        found._roots["factor"] = _row_factor(to_float64(features, device) - found.mu)
    return found


def _row_factor(gaps: torch.Tensor) -> torch.Tensor:
    """Returns F with F F^T = the covariance of centred rows [n, d], [d, n - 1].

    The rows sum to 0, so one of the n directions among them is empty; a reflection turns it into the first row.
    """
    count = len(gaps)
    axis = torch.full((count,), count**-0.5, dtype=gaps.dtype, device=gaps.device)
    axis[0] -= 1.0
    axis /= axis.norm()
    turned = gaps - 2.0 * torch.outer(axis, axis @ gaps)
    return turned[1:].T / (count - 1) ** 0.5


def frechet_from_features(
    first: Features, second: Features, *, device: torch.device | str | None = None
) -> FrechetResult:
    """Returns the Fréchet distance between two sets of features, [n1, d] and [n2, d].

    It is `frechet_distance` of their means and covariances, the latter with n - 1 in the denominator.
    With fewer rows than dimensions on both sides, tr (S1 S2)^(1/2) is the sum of the singular values of
    A B^T / sqrt((n1 - 1)(n2 - 1)) for the centred rows A, B: exact, and no d x d matrix is made.
    """
    check_features(first, "first", min_rows=2)
    check_features(second, "second", min_rows=2)
    check_same_dim(first, second, "first, second")
    dim = first.shape[1]
    if len(first) >= dim or len(second) >= dim:
        one, other = moments_of(first, "first", device), moments_of(second, "second", device)
        root, solver = trace_sqrt(one, other)
        return assemble(one, other, root, solver)
    parts = []
    for features in (first, second):
        rows = to_float64(features, device)
        mean = rows.mean(dim=0)
        parts.append((mean, (rows - mean) / (len(rows) - 1) ** 0.5))
    (mean1, rows1), (mean2, rows2) = parts
    root = float(singular_values(rows1 @ rows2.T).sum())
    mean_term = float((mean1 - mean2).square().sum())
    traces = float(rows1.square().sum()), float(rows2.square().sum())
    return _result(mean_term, traces, root, "svd-of-data", (len(first), len(second)), dim)
