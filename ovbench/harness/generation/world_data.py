"""Single garments of the miniature world as labelled pictures: 32 x 32, the label is the garment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError
from ovbench._base.fingerprint import fingerprint
from ovbench.tasks.world.draw import draw_single, embedded_sprites
from ovbench.tasks.world.scene import CELL_PX, GARMENTS, make_single
from ovbench.tasks.world.source import GENERATOR_VERSION


class WorldGarments:
    """The first `count` one-garment pictures of a seed and split; a `PictureData`, drawn once and kept (3 KiB each).

    Args:
        seed: Of the world.
        split: `train` or `test`: which photographs may be used.
        count: Pictures.
    """

    def __init__(self, seed: int, split: str, count: int) -> None:
        sprites = embedded_sprites(split)
        scenes = [make_single(seed, split, index) for index in range(count)]
        self._labels = np.array([GARMENTS.index(scene.items[0].garment) for scene in scenes], dtype=np.int64)
        self._images = np.stack([draw_single(scene, sprites) for scene in scenes])
        self.name = f"garments of the world, {split}, {count} pictures of seed {seed}"
        self.digest = fingerprint(
            {
                "generator": GENERATOR_VERSION,
                "kind": "single",
                "seed": seed,
                "split": split,
                "count": count,
                "sprites": sprites.digest,
            }
        )

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return len(self._labels)

    @property
    def num_classes(self) -> int:
        """Garments."""
        return len(GARMENTS)

    @property
    def side_px(self) -> int:
        """Side of a cell."""
        return CELL_PX

    def prepare(self, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Does nothing: all pictures are drawn."""
        del rank, num_ranks

    def labels(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Returns the garments of pictures, int64 [B]."""
        return self._labels[list(indices)]

    def images_u8(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Returns pictures, uint8 [B, 32, 32, 3]."""
        return self._images[list(indices)]

    def crops_u8(self, indices: Sequence[int], uses: Sequence[int], seed: int) -> NDArray[np.uint8]:
        """Returns the pictures themselves: the world shifts and mirrors its photographs already."""
        if len(uses) != len(indices):
            raise ConfigError(f"{len(indices)} pictures have {len(uses)} uses", where="crops_u8")
        del seed
        return self.images_u8(indices)
