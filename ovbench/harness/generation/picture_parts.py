"""Pictures that a model makes, straight into features: pass by pass, each pass a file of its own.

Contract: item i sits in slot i mod G of a pass of G items through every network (`slots`), so pictures, features and
files are the same bytes for any number of processes and restarts. A killed run loses the passes in flight, no others.
Pictures themselves are kept where they are asked for; otherwise only a few for a grid.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import DataError
from ovbench._base.files import atomic_write_bytes, make_dir
from ovbench.harness.generation.slots import Group, groups, share_of_rank
from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo
from ovbench.harness.metrics.feature_sets import FeatureAccumulator, FeatureSet
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.training import Progress, no_progress

_FEATURES, _VALUES, _IMAGES, _INDICES = "features/", "values/", "images", "indices"


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """What one pass gives."""

    images_u8: NDArray[np.uint8]  # [G, H, W, 3], a picture in every slot
    values: Mapping[str, NDArray[Any]]  # name → [n], of the wanted items in order


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """Everything that the passes left."""

    features: FeatureSet
    values: Mapping[str, NDArray[Any]]  # name → [N]
    images_u8: NDArray[np.uint8]  # [shown, H, W, 3]: the first ones
    kept: Callable[[], Iterator[NDArray[np.uint8]]] = field(repr=False)  # all that were kept, a pass at a time


def make_parts(
    folder: Path,
    num_items: int,
    group_size: int,
    make: Callable[[Group], Made],
    extractor: Extractor,
    *,
    layers: Collection[str],
    num_kept: int,
    processes: Processes = ALONE,
    progress: Progress = no_progress,
) -> int:
    """Makes the passes that are not there yet, each process its share; returns how many items this one made now.

    Args:
        folder: Of the files of passes; the same for all processes.
        num_items: Items, numbered from 0.
        group_size: Slots of a pass.
        make: Makes the pictures of a pass.
        extractor: Its features are kept.
        layers: Which of its layers.
        num_kept: The pictures of the first so many items are kept.
        processes: Take passes in turn.
        progress: Told the number of items that are behind this process's finished passes.

    Raises:
        ConfigError: The disk is full; finished passes are kept.
    """
    make_dir(folder)
    share = share_of_rank(num_items, group_size, processes.rank, processes.world_size)
    done = made_now = 0
    for group in groups(share, group_size):
        path = _path(folder, group)
        if _read(path, group) is None:
            made = make(group)
            # The other slots are features of nothing: they fill the pass, and are not taken.
            rows = extractor.extract(made.images_u8)
            slots = list(group.slots)
            arrays: dict[str, NDArray[Any]] = {_INDICES: np.array(group.indices, dtype=np.int64)}
            arrays |= {_FEATURES + layer: rows[layer].cpu().numpy()[slots] for layer in layers}
            arrays |= {_VALUES + name: np.asarray(values) for name, values in made.values.items()}
            kept = [slot for index, slot in zip(group.indices, slots, strict=True) if index < num_kept]
            arrays[_IMAGES] = made.images_u8[kept]
            atomic_write_bytes(path, _packed(arrays))
            made_now += len(group.indices)
        done += len(group.indices)
        progress(done, len(share))
    processes.barrier()
    return made_now


def trim_parts(
    source: Path, folder: Path, num_items: int, group_size: int, *, num_kept: int, processes: Processes = ALONE
) -> None:
    """Writes finished passes again with fewer pictures: the same bytes as those that keep so few from the start.

    Args:
        source: Of the passes that keep more.
        folder: Of those that keep `num_kept`; the same for all processes.
        num_items: As in `make_parts`.
        group_size: As in `make_parts`.
        num_kept: As in `make_parts`.
        processes: Take passes in turn.

    Raises:
        DataError: A pass is missing or damaged.
        ConfigError: The disk is full; finished passes are kept.
    """
    make_dir(folder)
    for group in groups(share_of_rank(num_items, group_size, processes.rank, processes.world_size), group_size):
        arrays = _whole(source, group)
        arrays[_IMAGES] = arrays[_IMAGES][: max(0, num_kept - group.indices[0])]
        atomic_write_bytes(_path(folder, group), _packed(arrays))
    processes.barrier()


def read_parts(
    folder: Path,
    num_items: int,
    group_size: int,
    info: ExtractorInfo,
    *,
    layers: Collection[str],
    scratch: Path,
    num_shown: int,
) -> Content:
    """Returns what all passes left, in the order of the items.

    Args:
        folder: Of the files of passes.
        num_items: As in `make_parts`.
        group_size: As in `make_parts`.
        info: Of the extractor.
        layers: Of its layers.
        scratch: Where rows of features lie while they are used.
        num_shown: So many pictures are held in memory, at most; `kept` reads the others when they are wanted.

    Raises:
        DataError: A pass is missing or damaged.
    """
    passes = list(groups(range(num_items), group_size))
    found = FeatureAccumulator(info, num_items, keep=layers, folder=scratch)
    values: dict[str, list[NDArray[Any]]] = {}
    images: list[NDArray[np.uint8]] = []
    for group in passes:
        arrays = _whole(folder, group)
        features = {key.removeprefix(_FEATURES): rows for key, rows in arrays.items() if key.startswith(_FEATURES)}
        found.add(features, group.indices[0])
        for key, part in arrays.items():
            if key.startswith(_VALUES):
                values.setdefault(key.removeprefix(_VALUES), []).append(part)
        if not images or group.indices[0] < num_shown:
            images.append(arrays[_IMAGES][: max(0, num_shown - group.indices[0])])

    def kept() -> Iterator[NDArray[np.uint8]]:
        for group in passes:
            yield _whole(folder, group)[_IMAGES]

    return Content(
        features=found.finish(),
        # What a pass of an older version does not say is said of none.
        values={name: np.concatenate(parts) for name, parts in values.items() if len(parts) == len(passes)},
        images_u8=np.concatenate(images),
        kept=kept,
    )


def _path(folder: Path, group: Group) -> Path:
    return folder / f"pass-{group.indices[0] // group.size:06d}.npz"


def _whole(folder: Path, group: Group) -> dict[str, NDArray[Any]]:
    path = _path(folder, group)
    arrays = _read(path, group)
    if arrays is None:
        raise DataError(
            f"'{path.name}' is missing or damaged",
            where=str(folder),
            fix="run the same command again: it makes what is missing",
        )
    return arrays


def _packed(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            inner = io.BytesIO()
            np.save(inner, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), inner.getvalue())  # no time of day in the bytes
    return buffer.getvalue()


def _read(path: Path, group: Group) -> dict[str, NDArray[Any]] | None:
    """Returns the arrays of a pass; None where it is not there, or not whole."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        return arrays if tuple(arrays[_INDICES].tolist()) == group.indices else None
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
