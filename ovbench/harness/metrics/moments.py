"""Mean and covariance of features, batch by batch: the statistics behind FID, in float64 and in constant memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError, DataError

Features = NDArray[Any] | torch.Tensor  # [n, d], any real dtype
Floats = NDArray[np.float64]

_FORMAT = "ovbench-moments-1"
_ROWS_AT_ONCE = 4096  # bounds the float64 copy of a large batch


def check_features(features: Features, name: str, *, min_rows: int = 1) -> None:
    """Refuses what is not a finite real matrix [n, d] with n >= `min_rows` and d >= 1.

    Args:
        features: The matrix.
        name: What the caller calls it; stands in the error.
        min_rows: Fewest rows accepted.

    Raises:
        DataError: It is something else.
    """
    shape = tuple(features.shape)
    if len(shape) != 2 or shape[1] == 0:
        raise DataError(f"the features must be a matrix [images, dimensions], got shape {list(shape)}", where=name)
    is_tensor = isinstance(features, torch.Tensor)
    if features.is_complex() if is_tensor else features.dtype.kind not in "fiu":
        raise DataError(f"the features must be real numbers, got {features.dtype}", where=name)
    if shape[0] < min_rows:
        raise DataError(f"at least {min_rows} rows are needed, got {shape[0]}", where=name, fix="score more images")
    if isinstance(features, torch.Tensor):
        finite = torch.isfinite(features).all(dim=1).cpu().numpy()
    else:
        finite = np.isfinite(features).all(axis=1)
    num_bad = int(np.count_nonzero(~finite))
    if num_bad:
        first = int(np.flatnonzero(~finite)[0])
        raise DataError(
            f"{num_bad} of {shape[0]} rows hold NaN or infinity, the first is row {first}",
            where=name,
            fix="look for a damaged image or an extractor that overflows in half precision",
        )


def to_float64(features: Features, device: torch.device | str | None = None) -> torch.Tensor:
    """Returns the features as a float64 tensor on `device`; None leaves a tensor where it is."""
    tensor = features if isinstance(features, torch.Tensor) else torch.from_numpy(np.array(features, dtype=np.float64))
    return tensor.detach().to(device=device if device is not None else tensor.device, dtype=torch.float64)


def as_rows(features: Features, device: torch.device | str | None = None) -> torch.Tensor:
    """Returns features on a device: float32 as they are, since 50,000 rows fill half a gigabyte, else float64."""
    if isinstance(features, np.ndarray) and features.dtype == np.float32:
        return torch.from_numpy(np.require(features, requirements=["C", "W"])).to(device or "cpu")
    if isinstance(features, torch.Tensor) and features.dtype == torch.float32:
        return features.detach().to(device if device is not None else features.device)
    return to_float64(features, device)


def gram(rows: torch.Tensor) -> torch.Tensor:
    """Returns rows^T rows, [n, d] → [d, d]; on a CPU by NumPy, whose product of a matrix with itself costs half."""
    if rows.device.type == "cpu":
        matrix = rows.numpy()
        return torch.from_numpy(matrix.T @ matrix)
    return rows.T @ rows


class Moments:
    """Count, mean and covariance of all rows seen so far.

    Sums of x - c and (x - c)(x - c)^T in float64, where c is the mean of the first batch: without the shift a mean that
    is large beside the spread would cost the digits of the covariance. Two accumulators merge by addition, after moving
    one to the shift of the other (Chan, Golub & LeVeque, Updating Formulae and a Pairwise Algorithm for Computing
    Sample Variances, 1979). Order, batches and shards change the result by rounding only.

    Args:
        device: Where the sums live; None takes that of the first batch.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = torch.device(device) if device is not None else None
        self._count = 0
        self._shift: torch.Tensor | None = None  # [d]
        self._sum: torch.Tensor | None = None  # [d]
        self._products: torch.Tensor | None = None  # [d, d]

    @property
    def count(self) -> int:
        """Rows seen."""
        return self._count

    @property
    def dim(self) -> int | None:
        """Number of dimensions; None before the first batch."""
        return None if self._shift is None else len(self._shift)

    def add(self, batch: Features) -> None:
        """Adds the rows of a batch, [n, d]; an empty batch changes nothing.

        Raises:
            DataError: NaN, infinity, or another number of dimensions; the accumulator is then unchanged.
        """
        check_features(batch, "batch", min_rows=0)
        if self.dim not in (None, batch.shape[1]):
            raise DataError(
                f"the batch has {batch.shape[1]} dimensions and the earlier ones had {self.dim}",
                where="batch",
                fix="use one accumulator per extractor and layer",
            )
        if len(batch) == 0:
            return
        device = self._device
        if self._shift is None or self._sum is None or self._products is None:
            first = to_float64(batch[:_ROWS_AT_ONCE], device)
            self._shift = first.mean(dim=0)
            self._sum = torch.zeros_like(self._shift)
            self._products = torch.zeros(len(self._shift), len(self._shift), dtype=torch.float64, device=first.device)
        for start in range(0, len(batch), _ROWS_AT_ONCE):
            rows = to_float64(batch[start : start + _ROWS_AT_ONCE], self._shift.device) - self._shift
            self._sum += rows.sum(dim=0)
            self._products += gram(rows)
        self._count += len(batch)

    def merge(self, other: Moments) -> None:
        """Adds all rows that another accumulator has seen; the other one is not changed."""
        if other._shift is None or other._sum is None or other._products is None:
            return
        if self._shift is None or self._sum is None or self._products is None:
            device = self._device if self._device is not None else other._shift.device
            self._shift, self._sum, self._products = (
                part.to(device, copy=True) for part in (other._shift, other._sum, other._products)
            )
            self._count = other._count
            return
        if self.dim != other.dim:
            raise DataError(
                f"cannot merge statistics of {other.dim} dimensions into statistics of {self.dim}",
                where="merge",
                fix="merge shards of one extractor and layer only",
            )
        device = self._shift.device
        step = other._shift.to(device) - self._shift
        total = other._sum.to(device)
        cross = torch.outer(step, total)
        self._products += other._products.to(device)
        self._products += cross
        self._products += cross.T
        self._products += other._count * torch.outer(step, step)
        self._sum += total + other._count * step
        self._count += other._count

    def mean(self) -> torch.Tensor:
        """Returns the mean, [d], float64."""
        if self._shift is None or self._sum is None:
            raise DataError("no features were added", where="moments", fix="add at least two rows")
        return self._shift + self._sum / self._count

    def covariance(self) -> torch.Tensor:
        """Returns the covariance with n - 1 in the denominator, exactly symmetric, [d, d], float64."""
        if self._sum is None or self._products is None or self._count < 2:
            raise DataError(
                f"a covariance needs at least 2 rows, got {self._count}", where="moments", fix="score more images"
            )
        mean = self._sum / self._count
        matrix = (self._products - self._count * torch.outer(mean, mean)) / (self._count - 1)
        return (matrix + matrix.T) / 2

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything needed to go on later, as arrays for `numpy.savez`; no pickle is involved."""
        arrays: dict[str, NDArray[Any]] = {"format": np.array(_FORMAT), "count": np.array(self._count, dtype=np.int64)}
        if self._shift is not None and self._sum is not None and self._products is not None:
            arrays |= {
                "shift": self._shift.cpu().numpy().copy(),
                "sum": self._sum.cpu().numpy().copy(),
                "products": self._products.cpu().numpy().copy(),
            }
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, Any], device: torch.device | str | None = None) -> Moments:
        """Returns the accumulator that `state` described.

        Args:
            arrays: What `state` returned, or a file opened by `numpy.load(path, allow_pickle=False)`.
            device: Where the sums shall live; None is the CPU.

        Raises:
            DataError: The arrays are not such a state.
        """
        if "format" not in arrays or str(arrays["format"]) != _FORMAT or "count" not in arrays:
            raise DataError("this is not a saved state of Moments", where="format", fix=f"expected format {_FORMAT!r}")
        moments = cls(device)
        count = int(arrays["count"])
        if count == 0:
            return moments
        missing = [key for key in ("shift", "sum", "products") if key not in arrays]
        if missing:
            raise DataError(f"the saved state lacks {', '.join(missing)}", where="moments", fix="compute it again")
        shift, total, products = (np.array(arrays[key], dtype=np.float64) for key in ("shift", "sum", "products"))
        dim = len(shift) if shift.ndim == 1 else 0
        sound = total.shape == (dim,) and products.shape == (dim, dim) and dim > 0 and count > 0
        if not sound or not all(np.isfinite(part).all() for part in (shift, total, products)):
            raise DataError("the saved state is damaged: its arrays do not fit or are not finite", where="moments")
        moments._count = count
        moments._shift, moments._sum, moments._products = (
            torch.from_numpy(part).to(moments._device or "cpu") for part in (shift, total, products)
        )
        return moments


def check_same_dim(first: Features, second: Features, names: str) -> None:
    """Refuses two feature matrices of different width."""
    if first.shape[1] != second.shape[1]:
        raise DataError(
            f"the two sets have {first.shape[1]} and {second.shape[1]} dimensions",
            where=names,
            fix="score both with the same extractor and layer",
        )


def check_count(value: int, name: str, *, low: int, high: int | None = None, why: str = "") -> None:
    """Refuses a whole number outside [low, high]."""
    if value < low or (high is not None and value > high):
        limits = f"at least {low}" if high is None else f"between {low} and {high}"
        raise ConfigError(f"{name} must be {limits}, got {value}", where=name, fix=why)
