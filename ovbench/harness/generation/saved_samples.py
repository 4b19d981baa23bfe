"""Samples as files on request: PNGs by number with a table of their classes, or one npz in the layout of ADM's files.

Contract: a folder of samples appears whole or not at all, and nothing that is there is ever replaced.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovbench._base.files import atomic_dir, writing
from ovbench.harness.generation.options_config import SaveFormat
from ovbench.harness.generation.sample_folders import check_target

LABELS, ARCHIVE = "labels.csv", "samples.npz"


def save_samples(
    folder: Path, images_u8: NDArray[np.uint8], labels: NDArray[np.int64], save_format: SaveFormat
) -> None:
    """Writes samples into a new folder.

    png: `000000.png` … by number, and `labels.csv` (index, label). npz: `samples.npz` with `arr_0` uint8 [N, H, W, 3]
    and `arr_1` int64 [N], as in the files of github.com/openai/guided-diffusion.

    Args:
        folder: Made here.
        images_u8: [N, H, W, 3], by number.
        labels: Classes, [N].
        save_format: png or npz.

    Raises:
        ConfigError: The folder is there, or cannot be written; nothing is left behind then.
    """
    assert len(images_u8) == len(labels), "every sample has a class"
    check_target(folder)
    with atomic_dir(folder) as temporary, writing(folder):
        if save_format == "npz":
            np.savez(temporary / ARCHIVE, arr_0=images_u8, arr_1=labels.astype(np.int64))
            return
        for number, image in enumerate(images_u8):
            Image.fromarray(image).save(temporary / f"{number:06d}.png")
        rows = "".join(f"{number},{label}\n" for number, label in enumerate(labels.tolist()))
        (temporary / LABELS).write_text(f"index,label\n{rows}", encoding="utf-8")
