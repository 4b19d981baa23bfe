"""Labelled pictures by number, as both trainings and all scores read them; and in which order training takes them.

Contract: a picture is a pure function of its number, and so is the order of its seed. Batch size, number of processes
and restarts change neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.seeding import numpy_generator


class PictureData(Protocol):
    """A set of labelled square pictures, numbered from 0."""

    @property
    def name(self) -> str:
        """What they are, for people."""
        ...

    @property
    def digest(self) -> str:
        """Sha256 over everything that can change a pixel or a label."""
        ...

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        ...

    @property
    def num_classes(self) -> int:
        """Labels are 0 … num_classes - 1."""
        ...

    @property
    def side_px(self) -> int:
        """Side of the pictures."""
        ...

    def prepare(self, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Does once what makes reading fast, such as cutting pictures; each process does its share."""
        ...

    def labels(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Returns the classes of pictures, int64 [B]."""
        ...

    def images_u8(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Returns pictures as the second stage and all scores see them, uint8 [B, side_px, side_px, 3], RGB."""
        ...

    def crops_u8(self, indices: Sequence[int], uses: Sequence[int], seed: int) -> NDArray[np.uint8]:
        """Returns pictures as the first stage sees them, uint8 [B, side_px, side_px, 3], RGB.

        Args:
            indices: Numbers of pictures.
            uses: Running number of each use over the whole training: an augmentation depends on (seed, use) alone.
            seed: Of the run.
        """
        ...


def to_01(images_u8: NDArray[np.uint8]) -> Tensor:
    """Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2))).float() / 255.0


def training_order(seed: int, label: str, first: int, count: int, num_pictures: int) -> list[int]:
    """Returns which pictures training takes as numbers first … first + count - 1 of its samples.

    Every epoch is a permutation of its own, and samples run on over the end of an epoch, so none is left out.

    Args:
        seed: Of the run.
        label: Of the use, e.g. `dit/order`.
        first: Running number of the first sample over the whole training, from 0.
        count: Samples.
        num_pictures: Pictures of the set.

    Raises:
        ConfigError: There are no pictures.
    """
    if num_pictures < 1:
        raise ConfigError("there are no pictures to train on", where="training data")
    places = (divmod(number, num_pictures) for number in range(first, first + count))
    return [int(_permutation(seed, label, epoch, num_pictures)[place]) for epoch, place in places]


@lru_cache(maxsize=4)
def _permutation(seed: int, label: str, epoch: int, num_pictures: int) -> NDArray[np.int64]:
    return numpy_generator(seed, label, epoch).permutation(num_pictures)


def training_flips(seed: int, label: str, first: int, count: int) -> NDArray[np.bool_]:
    """Returns which samples of training are mirrored, bool [count]; each depends on (seed, label, its number) alone."""
    return np.array([numpy_generator(seed, label, number).random() < 0.5 for number in range(first, first + count)])
