"""The features of one set of pictures: filled batch by batch, in any order, by any process; read by every metric.

One forward pass serves all metrics of an extractor. Rows lie in an unlinked file that is mapped into memory, so that
50,000 pictures cost no more memory than 50; layers of which only mean and covariance are wanted keep no rows at all.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_dir, make_dir, read_json, write_json, writing
from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.moments import Features, Moments, check_features
from ovbench.harness.metrics.references import Gaussian

_FORMAT = "ovbench-feature-set-1"
_STATE = "state.json"
_ROWS_AT_ONCE = 4096
_AGAIN = "remove the folder, and extract the features of this shard again"


def rows_on_disk(num_rows: int, dim: int, folder: Path) -> np.ndarray:
    """Returns zeros, float32 [num_rows, dim], in a file below `folder` that is gone when the array is.

    Raises:
        ConfigError: The folder cannot be written to, or the disk is full.
    """
    size = 4 * num_rows * dim
    with writing(make_dir(folder) / "features"), tempfile.TemporaryFile(dir=folder) as stream:
        # Trap: a file that is merely made long enough kills the process when the disk fills up under a mapped page.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(stream.fileno(), 0, size)
        else:
            for start in range(0, size, 1 << 24):
                stream.write(bytes(min(1 << 24, size - start)))
            stream.flush()
        return np.memmap(stream, dtype=np.float32, mode="r+", shape=(num_rows, dim))


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSet:
    """Features of `count` pictures under one extractor.

    `rows` holds float32 [count, D] per layer that was kept. Mean and covariance of a kept layer are computed from its
    rows in order, so they do not depend on how the rows arrived; those of other layers were summed on the way.
    """

    info: ExtractorInfo
    count: int
    rows: Mapping[str, np.ndarray]
    moments: Mapping[str, Moments] = field(repr=False)
    device: torch.device  # where mean and covariance are computed
    _gaussians: dict[str, Gaussian] = field(default_factory=dict, repr=False)

    def gaussian(self, layer: str) -> Gaussian:
        """Returns mean and covariance (ddof = 1) of a layer in float64; computed once.

        Raises:
            DataError: There are fewer than two pictures.
        """
        if layer not in self._gaussians:
            found = self.moments.get(layer)
            if found is None:
                found = Moments(self.device)
                for start in range(0, self.count, _ROWS_AT_ONCE):
                    found.add(self.rows[layer][start : start + _ROWS_AT_ONCE])
            self._gaussians[layer] = Gaussian(mu=found.mean().cpu().numpy(), sigma=found.covariance().cpu().numpy())
        return self._gaussians[layer]


class FeatureAccumulator:
    """Collects features of pictures 0 … num_images - 1.

    Contract: the result does not depend on order, batches or shards: bit for bit where rows are kept, and to rounding
    (1e-10) where only sums are.

    Args:
        info: Of the extractor.
        num_images: How many pictures there can be at most.
        keep: Layers whose rows are kept.
        stream: Layers of which mean and covariance are wanted and no rows.
        folder: Where the rows lie while they are used.
        device: Where sums are computed.

    Raises:
        ConfigError: A layer that the extractor does not give, or a folder that cannot be written to.
    """

    def __init__(
        self,
        info: ExtractorInfo,
        num_images: int,
        *,
        keep: Collection[str],
        stream: Collection[str] = (),
        folder: Path,
        device: torch.device | str = "cpu",
    ) -> None:
        if missing := sorted({*keep, *stream} - set(info.layers)):
            raise ConfigError(
                f"'{info.name}' gives no layer '{missing[0]}'", where="layers", fix=", ".join(info.layers)
            )
        if num_images < 1:
            raise ConfigError(f"a set of {num_images} pictures has no features", where="num_images")
        self.info, self.num_images, self.device = info, num_images, torch.device(device)
        self._rows = {
            layer: rows_on_disk(num_images, info.layers[layer], folder) for layer in info.layers if layer in keep
        }
        self._moments = {layer: Moments(self.device) for layer in info.layers if layer in stream and layer not in keep}
        self._seen = np.zeros(num_images, dtype=bool)

    @property
    def layers(self) -> tuple[str, ...]:
        """Layers that a batch must bring."""
        return (*self._rows, *self._moments)

    @property
    def count(self) -> int:
        """Pictures that were added."""
        return int(self._seen.sum())

    def add(self, features: Mapping[str, Features], first: int) -> None:
        """Adds the features of pictures `first`, `first` + 1, …; each picture counts once.

        Args:
            features: Layer → [B, D], all layers that the accumulator wants.
            first: Index of the first of them.

        Raises:
            DataError: NaN or infinity, another width, a picture that was added before or that there cannot be; nothing
                has been added then.
        """
        batches = {layer: features[layer] for layer in self.layers}
        sizes = {len(batch) for batch in batches.values()}
        size = sizes.pop() if sizes else 0
        places = slice(first, first + size)
        if sizes or first < 0 or first + size > self.num_images:
            raise DataError(f"pictures {first} … {first + size - 1} do not fit into {self.num_images}", where="add")
        if self._seen[places].any():
            again = first + int(np.flatnonzero(self._seen[places])[0])
            raise DataError(
                f"picture {again} was added twice", where="add", fix="give each process a range of pictures of its own"
            )
        for layer, batch in batches.items():
            check_features(batch, f"pictures {first} … {first + size - 1}, layer {layer}")
            if batch.shape[1] != self.info.layers[layer]:
                raise DataError(
                    f"layer '{layer}' has {self.info.layers[layer]} dimensions, got {batch.shape[1]}", where="add"
                )
        for layer, rows in self._rows.items():
            batch = batches[layer]
            rows[places] = batch.detach().cpu().numpy() if isinstance(batch, Tensor) else batch
        for layer, moments in self._moments.items():
            moments.add(batches[layer])
        self._seen[places] = True

    def merge(self, other: FeatureAccumulator) -> None:
        """Adds what another accumulator of the same extractor, layers and number of pictures has seen.

        Raises:
            DataError: It is of something else, or saw a picture that was added here.
        """
        if other.info.fingerprint() != self.info.fingerprint() or other.num_images != self.num_images:
            raise DataError(
                "the two shards are not of one set under one extractor",
                where="merge",
                fix="merge what was collected with the same extractor, weights and number of pictures",
            )
        if (set(other._rows), set(other._moments)) != (set(self._rows), set(self._moments)):
            raise DataError("the two shards hold other layers", where="merge", fix="collect both in the same way")
        places = np.flatnonzero(other._seen)
        self._absorb(places, lambda layer, part: other._rows[layer][places[part]], other._moments)

    def _absorb(
        self, places: np.ndarray, take: Callable[[str, slice], np.ndarray], moments: Mapping[str, Moments]
    ) -> None:
        """Adds the pictures at `places`; `take(layer, part)` gives the rows of a part of them."""
        if (again := self._seen[places]).any():
            raise DataError(
                f"picture {int(places[np.argmax(again)])} is in both shards",
                where="merge",
                fix="give each process a range of pictures of its own",
            )
        for layer, rows in self._rows.items():
            for start in range(0, len(places), _ROWS_AT_ONCE):
                part = slice(start, start + _ROWS_AT_ONCE)
                rows[places[part]] = take(layer, part)
        for layer, own in self._moments.items():
            own.merge(moments[layer])
        self._seen[places] = True

    def finish(self, count: int | None = None) -> FeatureSet:
        """Returns the features of pictures 0 … count - 1 (None: of all).

        Raises:
            DataError: Some were never added, or more than `count` were.
        """
        wanted = self.num_images if count is None else count
        if not self._seen[:wanted].all() or self._seen[wanted:].any() or wanted < 1:
            missing = wanted - int(self._seen[:wanted].sum())
            raise DataError(
                f"{self.count} of {wanted} pictures were added"
                + (f", the first that is missing is {int(np.argmin(self._seen[:wanted]))}" if missing else ""),
                where="finish",
                fix="collect the missing shards first",
            )
        rows = {layer: values[:wanted] for layer, values in self._rows.items()}
        return FeatureSet(info=self.info, count=wanted, rows=rows, moments=dict(self._moments), device=self.device)

    def _card(self) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "extractor": self.info.fingerprint(),
            "num_images": self.num_images,
            "rows": list(self._rows),
            "moments": list(self._moments),
        }

    def save(self, folder: Path) -> None:
        """Writes all that was collected into a folder, which appears whole or not at all."""
        places = np.flatnonzero(self._seen)
        with atomic_dir(folder) as temporary:
            for index, rows in enumerate(self._rows.values()):
                np.save(temporary / f"rows-{index}.npy", rows[places], allow_pickle=False)
            for index, moments in enumerate(self._moments.values()):
                np.savez(temporary / f"moments-{index}.npz", **cast(dict[str, Any], moments.state()))
            np.save(temporary / "places.npy", places, allow_pickle=False)
            write_json(temporary / _STATE, self._card())

    def restore(self, folder: Path) -> None:
        """Adds what `save` wrote, for instance in another process or before an interruption.

        Raises:
            DataError: The folder is no such state, is damaged, or is of another extractor, set or choice of layers.
        """
        state, expected = read_json(folder / _STATE), self._card()
        if not isinstance(state, dict) or state.keys() != expected.keys():
            raise DataError("this is no saved state of features", where=str(folder), fix=_AGAIN)
        if other := [key for key in expected if state[key] != expected[key]]:
            raise DataError(
                f"the saved features are of another {other[0]}: {state[other[0]]}, not {expected[other[0]]}",
                where=str(folder),
                fix="collect with the same extractor, layers and number of pictures",
            )
        try:
            places = np.load(folder / "places.npy", allow_pickle=False)
            rows = {
                layer: np.load(folder / f"rows-{index}.npy", mmap_mode="r", allow_pickle=False)
                for index, layer in enumerate(self._rows)
            }
            moments: dict[str, Moments] = {}
            for index, layer in enumerate(self._moments):
                with np.load(folder / f"moments-{index}.npz", allow_pickle=False) as arrays:
                    moments[layer] = Moments.from_state(arrays, self.device)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"the saved features are damaged: {error}", where=str(folder), fix=_AGAIN) from error
        shapes = [values.shape == (len(places), self.info.layers[layer]) for layer, values in rows.items()]
        counts = [part.count == len(places) for part in moments.values()]
        if (
            places.ndim != 1
            or not all(shapes + counts)
            or (len(places) and not 0 <= places.min() <= places.max() < self.num_images)
        ):
            raise DataError("the saved features are damaged: the arrays do not fit", where=str(folder), fix=_AGAIN)
        self._absorb(places, lambda layer, part: rows[layer][part], moments)
