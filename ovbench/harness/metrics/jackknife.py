"""95% intervals for scores of generated sets: a block jackknife for Fréchet distances, a bootstrap for image means.

The reference is held fixed, as every protocol does: an interval says how far another generated set of the same size
would move the score, not another reference. Block jackknife: Efron & Tibshirani, An Introduction to the Bootstrap,
1993, chapter 11; Shao & Tu, The Jackknife and Bootstrap, 1995, section 2.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.seeding import numpy_generator
from ovbench.harness.metrics.base import Interval
from ovbench.harness.metrics.frechet import (
    Gaussian,
    assemble,
    cholesky,
    factor,
    gaussian,
    moments_of,
    singular_values,
    sqrt_sum,
    symmetric_eigen,
    symmetric_eigenvalues,
)
from ovbench.harness.metrics.interval import bootstrap_interval
from ovbench.harness.metrics.moments import Features, Floats, check_count, check_features, gram, to_float64
from ovbench.results.quantile import t_quantile

Method = Literal["auto", "exact", "second-order"]

NUM_BLOCKS = 50
_TRUST = 0.05  # error of the expansion that `auto` accepts, as a share of the standard error


@dataclass(frozen=True, kw_only=True, slots=True)
class FrechetJackknife:
    """A Fréchet distance with its jackknife error. All values in squared feature units."""

    value: float  # the plain distance at this number of images
    error: float  # its standard error
    interval: Interval  # around `value`: covers the mean distance of sets of this size
    bias: float  # estimated part of `value` that comes from the finite generated set
    corrected: float  # value - bias
    corrected_interval: Interval  # around `corrected`: covers the distance of the generator itself
    without_block: tuple[float, ...]  # the distance with each block left out
    method: Literal["exact", "second-order"]
    reason: str  # why that method
    num_images: int
    num_blocks: int


def block_rows(num_rows: int, num_blocks: int, seed: int) -> list[NDArray[np.int64]]:
    """Returns the rows of each block: a seeded permutation cut into blocks that differ by at most one in size.

    The permutation makes blocks alike whatever the order of the file; it depends on (seed, num_rows) alone, so two sets
    of one size are cut in the same way.
    """
    check_count(num_blocks, "num_blocks", low=2, high=num_rows // 2, why="a block needs at least two images")
    order = numpy_generator(seed, "jackknife", num_rows).permutation(num_rows)
    return [np.sort(part) for part in np.array_split(order, num_blocks)]


class _LeftOut:
    """Distances to a reference with one block of the generated set left out; the reference is decomposed once.

    With F F^T = S_ref and z = F^T (x - mu), the trace term needs the eigenvalues of A = F^T S F alone. Leaving out the
    m rows of a block with scatter Z about mu and mean c gives, exactly, with n' = n - m and step = -m c / n',

        A' = ((n - 1) A - Z - n' step step^T) / (n' - 1).

    The second-order expansion around A = U diag(s^2) U^T, with K = U^T (A' - A) U, is

        tr A'^(1/2) = sum_i s_i + sum_i K_ii / (2 s_i) - sum_ij K_ij^2 / (4 s_i s_j (s_i + s_j)) + ...

    It needs products of matrices where the exact way needs a decomposition per block. Both use the rows once more.
    """

    def __init__(
        self,
        features: Features,
        reference: Gaussian,
        blocks: list[NDArray[np.int64]],
        device: torch.device | str | None,
        own: Gaussian | None = None,
    ) -> None:
        self.features, self.blocks, self.reference, self.device = features, blocks, reference, device
        self.own = moments_of(features, "generated", device) if own is None else own
        lower = cholesky(reference)
        self.root = lower if lower is not None else factor(reference)  # F, [d, r]
        self.inner = self.root.T @ self.own.sigma @ self.root  # A, [r, r]
        count, dim = len(features), len(reference.mu)
        if lower is not None and cholesky(self.own) is not None:
            whole, solver = sqrt_sum(self.inner), "cholesky-eigvalsh"
        else:
            whole, solver = float(singular_values(self.root.T @ factor(self.own)).sum()), "svd-of-factors"
        self.value = assemble(reference, self.own, whole, solver).value
        self.count, self.rank = count, min(count - 1, dim, self.inner.shape[0])

    def _parts(self, index: int, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, float, int]:
        """Returns (scatter in the basis, step in the basis, distance without the trace term, rows left)."""
        rows = self.features[self.blocks[index]]
        gaps = to_float64(rows, self.device) - self.own.mu
        left = self.count - len(gaps)
        step = -gaps.sum(dim=0) / left
        trace = (self.count - 1) * self.own.sigma.trace() - gaps.square().sum() - left * step.square().sum()
        mean_term = (self.own.mu + step - self.reference.mu).square().sum()
        rest = float(mean_term + self.reference.sigma.trace() + trace / (left - 1))
        return gram(gaps @ basis), basis.T @ step, rest, left

    def _without(self, index: int, inner: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, float, int]:
        """Returns A' in the basis, the distance without the trace term, and the rows left."""
        scatter, step, rest, left = self._parts(index, basis)
        matrix = ((self.count - 1) * inner - scatter - left * torch.outer(step, step)) / (left - 1)
        return matrix, rest, left

    def _roots(self, matrix: torch.Tensor, count: int) -> float:
        """Returns the sum of the roots of the eigenvalues that `count` rows can have."""
        values = symmetric_eigenvalues(matrix)[-min(count - 1, len(matrix)) :]
        return float(values.clamp_min(0.0).sqrt().sum())

    def exact(self, indices: list[int]) -> Floats:
        """Returns the distances by one decomposition per block, [len(indices)]."""
        offset = self.value - (self._rest() - 2 * self._roots(self.inner, self.count))
        found = []
        for index in indices:
            matrix, rest, left = self._without(index, self.inner, self.root)
            found.append(rest - 2 * self._roots(matrix, left) + offset)
        return np.array(found)

    def _rest(self) -> float:
        mean_term = (self.own.mu - self.reference.mu).square().sum()
        return float(mean_term + self.reference.sigma.trace() + self.own.sigma.trace())

    def second_order(self) -> Floats:
        """Returns the distances of all blocks by the expansion, [blocks]."""
        values, vectors = symmetric_eigen(self.inner)
        keep = values > values[-1:].sum() * torch.finfo(torch.float64).eps * len(values)  # there may be none
        keep[: len(values) - self.rank] = False
        roots = values[keep].sqrt()
        basis = self.root @ vectors[:, keep]
        inner = torch.diag(values[keep])
        weights = 1.0 / (4.0 * roots[:, None] * roots[None, :] * (roots[:, None] + roots[None, :]))
        offset = self.value - self._rest()
        found = []
        for index in range(len(self.blocks)):
            matrix, rest, _ = self._without(index, inner, basis)
            change = matrix - inner
            shift = (change.diagonal() / (2.0 * roots)).sum() - (weights * change.square()).sum()
            found.append(rest - 2.0 * float(shift) + offset)
        return np.array(found)


def _error(values: Floats) -> float:
    """Returns the delete-a-group standard error sqrt((g - 1) / g sum (v_j - mean)^2)."""
    count = len(values)
    return math.sqrt((count - 1) / count * float(np.sum((values - values.mean()) ** 2)))


def jackknife_interval(value: float, without_block: Floats, what: str, *, extra: float = 0.0, of: str = "") -> Interval:
    """Returns the interval around a score from its values with each block left out, [blocks].

    Args:
        value: The score.
        without_block: Its values.
        what: What was left out of, for the method's text.
        extra: Another, independent standard error that is added in squares.
        of: What that is the error of.
    """
    error = math.hypot(_error(without_block), extra)
    found = _interval(value, error, len(without_block), what)
    return replace(found, method=f"{found.method}, with the error of {of}") if extra else found


def _interval(centre: float, error: float, num_blocks: int, what: str) -> Interval:
    half = t_quantile(num_blocks - 1) * error
    method = f"block jackknife of {what}, {num_blocks} blocks, t with {num_blocks - 1} degrees of freedom"
    return Interval(low=centre - half, high=centre + half, method=method)


def _leave_out(parts: _LeftOut, method: Method) -> tuple[Floats, Literal["exact", "second-order"], str]:
    """Returns the distance without each block, the method used and why."""
    everything = list(range(len(parts.blocks)))
    if method == "exact":
        return parts.exact(everything), "exact", "asked for"
    if method == "second-order":
        return parts.second_order(), "second-order", "asked for"
    if parts.count <= 2 * len(parts.reference.mu):
        return parts.exact(everything), "exact", "too few images per dimension for an expansion"
    values = parts.second_order()
    probes = [0, int(np.argmax(np.abs(values - np.median(values))))]
    gap = float(np.max(np.abs(values[probes] - parts.exact(probes)))) * (len(values) - 1)
    # Contract: a common error of the distances shifts `corrected` by g - 1 times as much, so that is what is bounded.
    share = gap / _error(values) if _error(values) > 0 else math.inf
    if share <= _TRUST:
        return values, "second-order", f"two blocks checked: off by {share:.2g} standard errors at most"
    return parts.exact(everything), "exact", f"the expansion was off by {share:.2g} standard errors"


def jackknife_frechet(
    features: Features,
    mu: Features,
    sigma: Features,
    n: int | None = None,
    *,
    num_blocks: int = NUM_BLOCKS,
    seed: int = 0,
    method: Method = "auto",
    device: torch.device | str | None = None,
) -> FrechetJackknife:
    """Returns the Fréchet distance of generated features to a fixed reference, with intervals.

    error^2 = (g - 1) / g sum_j (D_j - mean D)^2 over the distances D_j without block j, and
    bias = (g - 1) (mean D - D): the distance of a finite set is too large by about a constant / n. Where bias is of
    the size of the value, quote `corrected` beside it.

    Args:
        features: Generated features, [n, d].
        mu: Mean of the reference, [d].
        sigma: Its covariance, [d, d].
        n: Samples behind the reference; None where unknown.
        num_blocks: Number of blocks g.
        seed: Of the assignment to blocks.
        method: `exact` (one decomposition per block), `second-order`, or `auto`: the expansion where two blocks
            confirm it, else exact.
        device: Where to compute; None is where the arrays are.
    """
    reference = gaussian(mu, sigma, n, "mu, sigma", device)
    return jackknife_against(features, reference, num_blocks=num_blocks, seed=seed, method=method, device=device)


def jackknife_against(
    features: Features,
    reference: Gaussian,
    *,
    own: Gaussian | None = None,
    num_blocks: int = NUM_BLOCKS,
    seed: int = 0,
    method: Method = "auto",
    device: torch.device | str | None = None,
) -> FrechetJackknife:
    """Returns `jackknife_frechet` against checked statistics; `own` are those of the features, where they are there."""
    parts = _prepare(features, reference, num_blocks, seed, method, device, own=own)
    values, used, reason = _leave_out(parts, method)
    error, bias = _error(values), (num_blocks - 1) * (float(values.mean()) - parts.value)
    corrected = parts.value - bias
    return FrechetJackknife(
        value=parts.value, error=error, interval=_interval(parts.value, error, num_blocks, "the distance"), bias=bias,
        corrected=corrected, corrected_interval=_interval(corrected, error, num_blocks, "the corrected distance"),
        without_block=tuple(values.tolist()), method=used, reason=reason, num_images=parts.count, num_blocks=num_blocks,
    )  # fmt: skip


def _prepare(
    features: Features,
    reference: Gaussian,
    num_blocks: int,
    seed: int,
    method: Method,
    device: torch.device | str | None,
    name: str = "generated",
    own: Gaussian | None = None,
) -> _LeftOut:
    if method not in ("auto", "exact", "second-order"):
        raise ConfigError(f"unknown jackknife method {method!r}", where="method", fix="auto, exact or second-order")
    check_features(features, name, min_rows=2)
    if features.shape[1] != len(reference.mu):
        raise DataError(
            f"the features have {features.shape[1]} dimensions and the reference has {len(reference.mu)}",
            where=name,
            fix="score both with the same extractor and layer",
        )
    return _LeftOut(features, reference, block_rows(len(features), num_blocks, seed), device, own)


@dataclass(frozen=True, kw_only=True, slots=True)
class PairedDifference:
    """Score of the first generator minus score of the second, on common seeds, with its interval."""

    value: float
    error: float | None  # None where the interval comes from a bootstrap
    interval: Interval


def paired_frechet_difference(
    first: Features,
    second: Features,
    mu: Features,
    sigma: Features,
    n: int | None = None,
    *,
    num_blocks: int = NUM_BLOCKS,
    seed: int = 0,
    method: Method = "auto",
    device: torch.device | str | None = None,
) -> PairedDifference:
    """Returns FD(first) - FD(second) against one reference; row i of both comes from the same seed and class.

    The same rows are left out of both sets at once, so that what the seeds share cancels.

    Args:
        first: Features of the first generator, [n, d].
        second: Features of the second, [n, d], in the same order of seeds.
        mu: Mean of the reference, [d].
        sigma: Its covariance, [d, d].
        n: Samples behind the reference; None where unknown.
        num_blocks: Number of blocks.
        seed: Of the assignment to blocks.
        method: As in `jackknife_frechet`.
        device: Where to compute; None is where the arrays are.
    """
    reference = gaussian(mu, sigma, n, "mu, sigma", device)
    return paired_difference_against(
        first, second, reference, num_blocks=num_blocks, seed=seed, method=method, device=device
    )


def paired_difference_against(
    first: Features,
    second: Features,
    reference: Gaussian,
    *,
    num_blocks: int = NUM_BLOCKS,
    seed: int = 0,
    method: Method = "auto",
    device: torch.device | str | None = None,
) -> PairedDifference:
    """Returns `paired_frechet_difference` against checked statistics."""
    _check_paired(len(first), len(second))
    values, wholes = [], []
    for name, features in (("first", first), ("second", second)):
        parts = _prepare(features, reference, num_blocks, seed, method, device, name)
        values.append(_leave_out(parts, method)[0])
        wholes.append(parts.value)
    gap, error = wholes[0] - wholes[1], _error(values[0] - values[1])
    return PairedDifference(value=gap, error=error, interval=_interval(gap, error, num_blocks, "the paired difference"))


def _check_paired(first: int, second: int) -> None:
    if first != second:
        raise DataError(
            f"a paired difference needs two sets of one size, got {first} and {second}",
            where="first, second",
            fix="sample both generators on the same seeds",
        )


def _per_image(values: NDArray[np.floating], name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise DataError(f"expected one value for each of at least 2 images, got shape {list(array.shape)}", where=name)
    if not np.isfinite(array).all():
        raise DataError("the values per image hold NaN or infinity", where=name, fix="look for a damaged image")
    return array


def _means(sums: Floats) -> Floats:
    return sums[:, 0] / sums[:, 1]


def image_mean_interval(values: NDArray[np.floating], *, label: str, seed: int = 0) -> Interval:
    """Returns the bootstrap interval of a mean over images (PSNR, SSIM, LPIPS), values [n]; 1000 draws, percentiles."""
    array = _per_image(values, label)
    return bootstrap_interval(np.stack([array, np.ones_like(array)], axis=1), _means, label=label, seed=seed)


def paired_mean_difference(
    first: NDArray[np.floating], second: NDArray[np.floating], *, label: str, seed: int = 0
) -> PairedDifference:
    """Returns the difference of two means over the same images, [n] each, with its bootstrap interval."""
    one, other = _per_image(first, "first"), _per_image(second, "second")
    _check_paired(len(one), len(other))
    gaps = one - other
    return PairedDifference(
        value=float(gaps.mean()), error=None, interval=image_mean_interval(gaps, label=label, seed=seed)
    )
