"""The pictures that a recipe names: of the world, or of ImageNet where the user says it is. Checked before training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.paths import cache_dir
from ovbench.harness.generation.crop_cache import FOLDER
from ovbench.harness.generation.imagenet_checks import check_labelled, check_same_classes
from ovbench.harness.generation.imagenet_data import ImageNetPictures
from ovbench.harness.generation.imagenet_sources import open_labelled
from ovbench.harness.generation.labelled_source import LabelledSource
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.picture_data import PictureData
from ovbench.harness.generation.recipe_config import DataConfig
from ovbench.harness.generation.world_data import WorldGarments


@dataclass(frozen=True, kw_only=True, slots=True)
class Pictures:
    """Both sets of a recipe."""

    train: PictureData
    test: PictureData


class Subset:
    """Some pictures of a set, numbered anew; a `PictureData`.

    Args:
        data: The set.
        indices: Which of its pictures, in order.
    """

    def __init__(self, data: PictureData, indices: NDArray[np.int64]) -> None:
        self._data, self._indices = data, indices
        self.name = f"{data.name}, {len(indices)} of {data.num_pictures}"
        self.digest = fingerprint({"of": data.digest, "indices": indices.tolist()})

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return len(self._indices)

    @property
    def num_classes(self) -> int:
        """Of the whole set."""
        return self._data.num_classes

    @property
    def side_px(self) -> int:
        """Side of the pictures."""
        return self._data.side_px

    def _own(self, indices: Sequence[int]) -> list[int]:
        return self._indices[list(indices)].tolist()

    def labels(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Returns the classes of pictures, int64 [B]."""
        return self._data.labels(self._own(indices))

    def images_u8(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Returns pictures, uint8 [B, side_px, side_px, 3]."""
        return self._data.images_u8(self._own(indices))

    def crops_u8(self, indices: Sequence[int], uses: Sequence[int], seed: int) -> NDArray[np.uint8]:
        """Returns pictures as the first stage sees them; see `PictureData`."""
        return self._data.crops_u8(self._own(indices), uses, seed)

    def prepare(self, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Does nothing: of a part, pictures are decoded when they are needed."""
        del rank, num_ranks


def evenly(labels: NDArray[np.int64], count: int, num_classes: int) -> NDArray[np.int64]:
    """Returns the first pictures of each class, in their order, as many of each.

    Args:
        labels: Of all pictures.
        count: Pictures wanted, a multiple of the classes.
        num_classes: Classes.

    Raises:
        ConfigError: There are not enough, or they cannot be split evenly.
    """
    per_class, rest = divmod(count, num_classes)
    if rest:
        raise ConfigError(f"{count} pictures are no whole number of each of {num_classes} classes", where="--data")
    rank_in_class = np.empty(len(labels), dtype=np.int64)
    for label in range(num_classes):
        own = np.flatnonzero(labels == label)
        if len(own) < per_class:
            raise ConfigError(
                f"class {label} has {len(own)} pictures, and the protocol takes {per_class} of each", where="--data"
            )
        rank_in_class[own] = np.arange(len(own))
    return np.flatnonzero(rank_in_class < per_class)


@lru_cache(maxsize=4)
def _garments(seed: int, split: str, count: int) -> WorldGarments:
    """Returns pictures of the world, drawn once for all runs of a process."""
    return WorldGarments(seed, split, count)


def open_pictures(config: DataConfig, options: GenerationOptions) -> Pictures:
    """Returns both sets, looked over.

    Raises:
        ConfigError: Nobody said where ImageNet is, or said it of the world.
        DataError: Folders, labels or pictures are not as they have to be.
    """
    if config.source == "world":
        if options.data is not None:
            raise ConfigError("the world is built in and needs no data", where="--data", fix="leave --data out")
        seed, num_train, num_test = config.world_seed, config.num_train, config.num_test
        assert seed is not None, "DataConfig refuses a world without a seed"
        return Pictures(train=_garments(seed, "train", num_train or 0), test=_garments(seed, "test", num_test or 0))
    if options.data is None:
        raise ConfigError(
            "this protocol trains on ImageNet, and nobody said where it is",
            where="--data",
            fix="name the folder that holds train/ and val/ with a folder per class, a folder of tar or parquet "
            "shards, or a data set of the hub: owner/name@COMMIT",
        )
    train, test = (_labelled(config, options.data, split) for split in ("train", "val"))
    check_same_classes(train, test, where="--data")
    return Pictures(train=_imagenet(config, train, config.num_train), test=_imagenet(config, test, config.num_test))


def _labelled(config: DataConfig, data: str, split: str) -> LabelledSource:
    try:
        source = open_labelled(data, split=split, expected_classes=config.num_classes)
    except (ConfigError, DataError) as error:
        where = error.where if error.where.startswith("--data") else f"--data: {error.where}"
        raise type(error)(error.what, where=where, fix=error.fix) from error
    wanted = config.num_train if split == "train" else config.num_test
    per_class = 1 if wanted is None else wanted // config.num_classes
    check_labelled(source, expected_classes=config.num_classes, per_class_min=per_class, where="--data")
    return source


def _imagenet(config: DataConfig, source: LabelledSource, count: int | None) -> PictureData:
    part = None if count is None or count == source.num_pictures else evenly(source.labels, count, config.num_classes)
    folder = cache_dir() / FOLDER / f"{source.digest[:24]}-{config.image_px}"
    whole = ImageNetPictures(source, side_px=config.image_px, cache=folder if part is None else None)
    return whole if part is None else Subset(whole, part)
