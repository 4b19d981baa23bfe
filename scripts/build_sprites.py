"""Builds the embedded garment photographs from Fashion-MNIST.

    apt-get install dataset-fashion-mnist
    python scripts/build_sprites.py --source /usr/share/datasets/fashion-mnist

The first 1,000 photographs of each garment of the training file and the first 200 of the test file are taken, so the
result depends on the source files alone.
"""

from __future__ import annotations

import argparse
import io
import lzma
from pathlib import Path

import numpy as np

from ovbench._base.files import atomic_write_bytes
from ovbench._base.paths import ASSETS
from ovbench.tasks.world.draw import read_fashion_mnist

COUNTS = {"train": 1000, "test": 200}


def main() -> None:
    """Writes `world/sprites-{train,test}.npy.xz` into the assets folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the four Fashion-MNIST .gz files")
    parser.add_argument("--out", type=Path, default=ASSETS)
    arguments = parser.parse_args()
    for split, count in COUNTS.items():
        images = read_fashion_mnist(arguments.source, split).images[:, :count]
        stream = io.BytesIO()
        np.save(stream, np.ascontiguousarray(images), allow_pickle=False)
        data = lzma.compress(stream.getvalue(), preset=9 | lzma.PRESET_EXTREME)
        path = arguments.out / "world" / f"sprites-{split}.npy.xz"
        atomic_write_bytes(path, data)
        print(f"{path.name}: {images.shape}, {len(data)} bytes")  # noqa: T201


if __name__ == "__main__":
    main()
