"""Mean and variance of an encoder's latents per channel and place: what RAE normalises by before its second stage.

The reference estimates them by a running mean of momentum 0.1, so that the last few dozen batches count (RAE,
calculate_stat.py; nobody could reproduce its files, issue 49). Here they are the population's, exact, in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.training import Progress, no_progress

_FORMAT = "ovbench-latent-moments-1"
EPS = 1e-5  # added to the variance inside the root


@dataclass(frozen=True, kw_only=True, slots=True)
class LatentStats:
    """Population mean and variance of latents, bound to the encoder and tap that made them."""

    mean: Tensor | None  # [C, h, w]; None: 0, as in RAE's released file for DINOv2-B
    var: Tensor | None  # [C, h, w]; None: 1
    encoder: str  # `Encoder.fingerprint` of the tap
    eps: float = EPS
    num_pictures: int = 0  # that they were taken over; 0: not known
    provenance: Mapping[str, Any] = field(default_factory=dict)  # plain values: data, flips, where a file came from

    def __post_init__(self) -> None:
        parts = [part for part in (self.mean, self.var) if part is not None]
        if not parts:
            raise DataError("the statistics hold neither a mean nor a variance", where="latent statistics")
        if len({tuple(part.shape) for part in parts}) > 1:
            raise DataError(
                f"mean {list(parts[0].shape)} and variance {list(parts[1].shape)} differ in shape",
                where="latent statistics",
            )
        check_square(tuple(parts[0].shape))
        if not all(part.is_floating_point() and bool(part.isfinite().all()) for part in parts):
            raise DataError("the statistics hold NaN, infinite or whole numbers", where="latent statistics")
        if not (self.eps >= 0.0 and (self.var is None or bool((self.var >= 0.0).all()))):
            raise DataError("the statistics hold a negative variance", where="latent statistics")
        if not bool((self.scale() > 0.0).all()):
            raise DataError(
                "a variance is 0 and eps is 0, so that it cannot be divided by",
                where="latent statistics",
                fix=f"use eps={EPS}",
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, h, w)."""
        part = self.var if self.var is not None else self.mean
        assert part is not None
        channels, rows, columns = part.shape
        return channels, rows, columns

    @property
    def device(self) -> torch.device:
        """Where the statistics are."""
        part = self.var if self.var is not None else self.mean
        assert part is not None
        return part.device

    def scale(self) -> Tensor:
        """Returns what latents are divided by, sqrt(var + eps), [C, h, w] in the precision of the statistics."""
        var = torch.ones_like(self.mean) if self.var is None and self.mean is not None else self.var
        assert var is not None
        return (var + self.eps).sqrt()

    def shift(self) -> Tensor:
        """Returns what is subtracted from latents, [C, h, w]."""
        return self.mean if self.mean is not None else torch.zeros_like(self.scale())

    def normalise(self, latents: Tensor) -> Tensor:
        """Returns (z - mean) / sqrt(var + eps), [B, C, h, w], in float32 (float64 for float64 latents)."""
        return (self._wide(latents) - self.shift().to(_like(latents))) / self.scale().to(_like(latents))

    def denormalise(self, latents: Tensor) -> Tensor:
        """Returns z * sqrt(var + eps) + mean: what `normalise` was given, [B, C, h, w]."""
        return self._wide(latents) * self.scale().to(_like(latents)) + self.shift().to(_like(latents))

    def _wide(self, latents: Tensor) -> Tensor:
        if latents.ndim != 4 or tuple(latents.shape[1:]) != self.shape:
            raise ConfigError(
                f"latents must be [B, {', '.join(map(str, self.shape))}], got {list(latents.shape)}",
                where="latent statistics",
                fix="compute the statistics at the size that the encoder is used at",
            )
        return latents.to(_like(latents))

    def check_encoder(self, encoder: Encoder, tap: Tap | None = None) -> None:
        """Refuses an encoder (or a tap) that these are not the statistics of.

        Raises:
            ConfigError: Weights, architecture, tap or size differ.
        """
        if self.encoder != latent_fingerprint(encoder, tap):
            raise ConfigError(
                f"the latent statistics are of another encoder, tap or precision than '{encoder.info.name}'",
                where="latent statistics",
                fix="compute them for this encoder",
            )
        wanted = (encoder.info.dim, *encoder.info.grid)
        if self.shape != wanted:
            raise ConfigError(
                f"the latent statistics are {list(self.shape)}, and the latents of '{encoder.info.name}' are "
                f"{list(wanted)}",
                where="latent statistics",
                fix="compute them at this input size",
            )

    def without_mean(self) -> LatentStats:
        """Returns the same statistics with a mean of 0, as RAE's released DINOv2-B file has them."""
        return replace(self, mean=None, provenance={**self.provenance, "mean": "none"})

    def to(self, device: torch.device | str) -> LatentStats:
        """Returns the same statistics on a device."""
        mean, var = (None if part is None else part.to(device) for part in (self.mean, self.var))
        return replace(self, mean=mean, var=var)

    def digest(self) -> str:
        """Returns sha256 of everything that changes a normalised latent."""
        digest = sha256(f"{self.encoder}|{self.eps!r}|{self.shape}".encode())
        for part in (self.mean, self.var):
            digest.update(b"none" if part is None else part.detach().cpu().double().contiguous().numpy().tobytes())
        return digest.hexdigest()


def _like(latents: Tensor) -> Tensor:
    """Returns an empty tensor on the latents' device, in the precision to compute in."""
    dtype = torch.float64 if latents.dtype == torch.float64 else torch.float32
    return torch.empty(0, device=latents.device, dtype=dtype)


def check_square(shape: tuple[int, ...]) -> None:
    """Refuses what is not (C, h, w) with h = w >= 1.

    Raises:
        DataError: It is not.
    """
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"statistics must be [C, h, w], got {list(shape)}", where="latent statistics")
    if shape[1] != shape[2]:
        raise DataError(
            f"the latents are {shape[1]} x {shape[2]}, and RAE's are square",
            where="latent statistics",
            fix="use the encoder at a square input",
        )


def latent_fingerprint(encoder: Encoder, tap: Tap | None = None) -> str:
    """Returns what the statistics of an encoder's latents are bound to; None is the encoder's own tap for latents."""
    return encoder.fingerprint(replace(tap or encoder.info.latent_tap, prefix=False))


class LatentMoments:
    """Mean and population variance of latents, batch by batch, in float64 and in constant memory.

    Sums of x - c and (x - c)^2, where c is the mean of the first batch; two accumulators merge after one has moved to
    the other's c (Chan, Golub & LeVeque 1979). Order, batches and shards change the result by rounding only.

    Args:
        device: Where the sums live; None takes that of the first batch.
    """

    def __init__(self, device: torch.device | str | None = None) -> None:
        self._device = torch.device(device) if device is not None else None
        self._count = 0
        self._shift: Tensor | None = None  # [C, h, w], as the two below
        self._sum: Tensor | None = None
        self._squares: Tensor | None = None

    @property
    def count(self) -> int:
        """Latents seen; both flips of a picture are two."""
        return self._count

    def add(self, latents: Tensor) -> None:
        """Adds latents [B, C, h, w] with h = w; an empty batch changes nothing.

        Raises:
            DataError: NaN or infinity, or another shape than before; the accumulator is then unchanged.
        """
        if latents.ndim != 4:
            raise DataError(f"latents must be [B, C, h, w], got {list(latents.shape)}", where="latent statistics")
        check_square(tuple(latents.shape[1:]))
        if self._shift is not None and latents.shape[1:] != self._shift.shape:
            raise DataError(
                f"the latents are {list(latents.shape[1:])} and the earlier ones were {list(self._shift.shape)}",
                where="latent statistics",
                fix="use one accumulator per encoder and size",
            )
        finite = latents.flatten(1).isfinite().all(dim=1)
        if not bool(finite.all()):
            first = int((~finite).nonzero()[0])
            raise DataError(
                f"{int((~finite).sum())} of {len(latents)} latents hold NaN or infinity, the first is number {first}",
                where="latent statistics",
                fix="look for a damaged picture, or an encoder that overflows in half precision",
            )
        if len(latents) == 0:
            return
        rows = latents.detach().to(device=self._device or latents.device, dtype=torch.float64)
        if self._shift is None or self._sum is None or self._squares is None:
            self._shift = rows.mean(dim=0)
            self._sum, self._squares = torch.zeros_like(self._shift), torch.zeros_like(self._shift)
        rows = rows.to(self._shift.device) - self._shift
        self._sum += rows.sum(dim=0)
        self._squares += rows.square().sum(dim=0)
        self._count += len(rows)

    def merge(self, other: LatentMoments) -> None:
        """Adds everything that another accumulator has seen; the other one is not changed."""
        if other._shift is None or other._sum is None or other._squares is None:
            return
        if self._shift is None or self._sum is None or self._squares is None:
            device = self._device or other._shift.device
            self._shift, self._sum, self._squares = (
                part.to(device, copy=True) for part in (other._shift, other._sum, other._squares)
            )
            self._count = other._count
            return
        if self._shift.shape != other._shift.shape:
            raise DataError(
                f"cannot merge statistics of {list(other._shift.shape)} into statistics of {list(self._shift.shape)}",
                where="latent statistics",
                fix="merge shards of one encoder and size only",
            )
        device = self._shift.device
        step, total = other._shift.to(device) - self._shift, other._sum.to(device)
        self._squares += other._squares.to(device) + 2.0 * step * total + other._count * step.square()
        self._sum += total + other._count * step
        self._count += other._count

    def mean(self) -> Tensor:
        """Returns the mean, float64 [C, h, w].

        Raises:
            DataError: Nothing was added.
        """
        shift, total, _ = self._parts()
        return shift + total / self._count

    def var(self) -> Tensor:
        """Returns the variance with n in the denominator, float64 [C, h, w].

        Raises:
            DataError: Nothing was added.
        """
        _, total, squares = self._parts()
        return (squares / self._count - (total / self._count).square()).clamp_min(0.0)

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        if self._shift is None or self._sum is None or self._squares is None:
            raise DataError("no latents were added", where="latent statistics", fix="name at least one picture")
        return self._shift, self._sum, self._squares

    def state(self) -> dict[str, NDArray[Any]]:
        """Returns everything needed to go on later, as arrays for `numpy.savez`; no pickle is involved."""
        arrays: dict[str, NDArray[Any]] = {"format": np.array(_FORMAT), "count": np.array(self._count, dtype=np.int64)}
        if self._count:
            names = ("shift", "sum", "squares")
            arrays |= {name: part.cpu().numpy().copy() for name, part in zip(names, self._parts(), strict=True)}
        return arrays

    @classmethod
    def from_state(cls, arrays: Mapping[str, Any], device: torch.device | str | None = None) -> LatentMoments:
        """Returns the accumulator that `state` described.

        Args:
            arrays: What `state` returned, or a file opened by `numpy.load(path, allow_pickle=False)`.
            device: Where the sums shall live; None is the CPU.

        Raises:
            DataError: The arrays are not such a state.
        """
        fix = "compute the statistics again"
        if "format" not in arrays or str(arrays["format"]) != _FORMAT or "count" not in arrays:
            raise DataError("this is not a saved state of LatentMoments", where="latent statistics", fix=fix)
        moments = cls(device)
        count = int(arrays["count"])
        if count == 0:
            return moments
        missing = [name for name in ("shift", "sum", "squares") if name not in arrays]
        if missing:
            raise DataError(f"the saved state lacks {', '.join(missing)}", where="latent statistics", fix=fix)
        parts = [np.array(arrays[name], dtype=np.float64) for name in ("shift", "sum", "squares")]
        sound = count > 0 and parts[0].ndim == 3 and len({part.shape for part in parts}) == 1
        if not sound or not all(np.isfinite(part).all() for part in parts):
            raise DataError("the saved state is damaged", where="latent statistics", fix=fix)
        moments._count = count
        moments._shift, moments._sum, moments._squares = (
            torch.from_numpy(part).to(moments._device or "cpu") for part in parts
        )
        return moments

    def stats(
        self, *, encoder: str, num_pictures: int, eps: float = EPS, provenance: Mapping[str, Any] | None = None
    ) -> LatentStats:
        """Returns the statistics of everything seen so far, bound to an encoder's `latent_fingerprint`."""
        return LatentStats(
            mean=self.mean().cpu(),
            var=self.var().cpu(),
            encoder=encoder,
            eps=eps,
            num_pictures=num_pictures,
            provenance=dict(provenance or {}),
        )


def compute_stats(
    encoder: Encoder,
    batches: Iterable[Tensor],
    *,
    data: str,
    tap: Tap | None = None,
    flips: bool = True,
    eps: float = EPS,
    total: int = 0,
    progress: Progress = no_progress,
) -> LatentStats:
    """Returns the exact statistics of an encoder's latents over pictures.

    Args:
        encoder: The frozen encoder.
        batches: Pictures, float32 [B, 3, H, W] in [0, 1]; each picture once. Another size than the encoder's is
            resized as RAE does.
        data: What the pictures are, for the provenance.
        tap: Layer and norm; None: the encoder's own for latents.
        flips: Take each picture as it is and mirrored, so that no draw is left to chance.
        eps: Added to the variance inside the root.
        total: Pictures to come, for the progress; 0: not known.
        progress: Told the number of pictures that are done.

    Raises:
        DataError: No pictures, NaN latents, or latents that are not square.
    """
    check_square((encoder.info.dim, *encoder.info.grid))
    moments, done = LatentMoments(), 0
    for images_01 in batches:
        for view in (images_01, images_01.flip(-1)) if flips else (images_01,):
            moments.add(encoder.latents(view, tap, resize=True))
        done += len(images_01)
        progress(done, max(total, done))
    return moments.stats(
        encoder=latent_fingerprint(encoder, tap),
        num_pictures=done,
        eps=eps,
        provenance={"data": data, "flips": flips, "encoder": encoder.info.name, "estimator": "population, float64"},
    )
