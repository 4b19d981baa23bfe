"""Samples as files on request: PNGs by number with a table of their classes, or one npz in the layout of ADM's files.

Contract: a folder of samples appears whole or not at all, and nothing that is there is ever replaced.
"""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovbench._base.errors import DataError
from ovbench._base.files import atomic_dir, write_json, writing
from ovbench.harness.generation.options_config import SaveFormat
from ovbench.harness.generation.sample_folders import CARD, is_saved, leftovers

LABELS, ARCHIVE = "labels.csv", "samples.npz"


def save_samples(
    folder: Path,
    batches: Iterable[NDArray[np.uint8]],
    labels: NDArray[np.int64],
    save_format: SaveFormat,
    card: Mapping[str, Any],
) -> None:
    """Writes samples into a new folder, without holding more than a batch of them; where they are already, nothing.

    png: `000000.png` … by number, and `labels.csv` (index, label). npz: `samples.npz` with `arr_0` uint8 [N, H, W, 3]
    and `arr_1` int64 [N], as in the files of github.com/openai/guided-diffusion.

    Args:
        folder: Made here.
        batches: uint8 [B, H, W, 3], by number.
        labels: Classes of all, [N].
        save_format: png or npz.
        card: What they are, JSON-able; it lies beside them as `samples.json`.

    Raises:
        ConfigError: The folder holds something else, or cannot be written; nothing is left behind then.
        DataError: There are more or fewer pictures than classes.
    """
    if is_saved(folder, card):
        return
    for left in leftovers(folder):
        shutil.rmtree(left, ignore_errors=True)
    with atomic_dir(folder) as temporary, writing(folder):
        write = _write_npz if save_format == "npz" else _write_pngs
        if (count := write(temporary, batches, labels.astype(np.int64))) != len(labels):
            raise DataError(f"{count} pictures have {len(labels)} classes", where=str(folder))
        write_json(temporary / CARD, dict(card))


def _write_pngs(folder: Path, batches: Iterable[NDArray[np.uint8]], labels: NDArray[np.int64]) -> int:
    number = 0
    for image in (image for batch in batches for image in batch):
        Image.fromarray(image).save(folder / f"{number:06d}.png")
        number += 1
    rows = "".join(f"{place},{label}\n" for place, label in enumerate(labels.tolist()))
    (folder / LABELS).write_text(f"index,label\n{rows}", encoding="utf-8")
    return number


def _write_npz(folder: Path, batches: Iterable[NDArray[np.uint8]], labels: NDArray[np.int64]) -> int:
    count = 0
    with zipfile.ZipFile(folder / ARCHIVE, "w", zipfile.ZIP_STORED) as archive:
        with archive.open("arr_0.npy", "w", force_zip64=True) as stream:
            for batch in batches:
                if count == 0:  # the shape of all stands in front
                    header = {"descr": "|u1", "fortran_order": False, "shape": (len(labels), *batch.shape[1:])}
                    np.lib.format.write_array_header_1_0(stream, header)
                stream.write(np.ascontiguousarray(batch).data)
                count += len(batch)
        with archive.open("arr_1.npy", "w") as stream:
            np.lib.format.write_array(stream, labels, allow_pickle=False)
    return count
