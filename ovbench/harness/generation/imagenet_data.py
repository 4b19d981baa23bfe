"""ImageNet as both trainings and all scores of the generation side read it: `PictureData` on a labelled source.

Sources: centre crop of guided diffusion (ADM), which RAE's second stage and its scores use; augmentation of RAE's first
stage (arXiv 2510.11690, Table 12; official `train_stage1.py`): short side to 1.5 times the side, random crop, no flip.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench._base.seeding import numpy_generator
from ovbench.harness.generation.crop_cache import CropCache, centre_crop_u8, default_threads, in_threads
from ovbench.harness.generation.labelled_source import LabelledSource

log = logging.getLogger(__name__)
A = TypeVar("A")
T = TypeVar("T")
CROP_LABEL = "decoder/crop"  # of the draws of the first stage's crops
_MAX_PIXELS = 1 << 26  # of a picture on its way to a random crop; ImageNet's largest has 25 million


class ImageNetPictures:
    """Labelled square pictures of a source; a `PictureData`.

    Contract: pixels depend on the number of the picture and, for `crops_u8`, on (seed, use) alone: never on the batch,
    the threads, or whether there is a cache.

    Args:
        source: The originals.
        side_px: Side of the pictures.
        cache: Folder in which centre crops are kept; None: they are decoded each time.
        threads: That decode; None: `default_threads`.
        shard_pictures: Pictures of a shard of the cache.

    Raises:
        ConfigError: A setting that cannot be used, or the cache cannot be written.
        DataError: The cache's manifest is damaged.
    """

    def __init__(
        self,
        source: LabelledSource,
        *,
        side_px: int = 256,
        cache: Path | None = None,
        threads: int | None = None,
        shard_pictures: int = 4096,
    ) -> None:
        self._threads = default_threads() if threads is None else threads
        if side_px < 1 or self._threads < 1:
            raise ConfigError(
                f"side and threads must be 1 or more, got {side_px} and {self._threads}", where="ImageNetPictures"
            )
        self.source, self._side_px = source, side_px
        self.cache = (
            None
            if cache is None
            else CropCache(cache, source, side_px=side_px, shard_pictures=shard_pictures, threads=self._threads)
        )
        self._said_uncached = False

    @property
    def name(self) -> str:
        """What they are, for people."""
        return f"{self.source.name}, {self._side_px} px"

    @property
    def digest(self) -> str:
        """Sha256 over the source's identity (names, sizes, labels: see there) and the geometry."""
        return fingerprint(
            {
                "source": self.source.digest,
                "side_px": self._side_px,
                "images": "ADM centre crop/1",
                "crops": f"short side {_short_side(self._side_px)} bicubic, random crop/1",
            }
        )

    @property
    def num_pictures(self) -> int:
        """How many there are."""
        return self.source.num_pictures

    @property
    def num_classes(self) -> int:
        """Labels are 0 … num_classes - 1."""
        return len(self.source.classes)

    @property
    def side_px(self) -> int:
        """Side of the pictures."""
        return self._side_px

    def labels(self, indices: Sequence[int]) -> NDArray[np.int64]:
        """Returns the classes of pictures, int64 [B].

        Raises:
            ConfigError: There is no picture of such a number.
        """
        return self.source.labels[np.array(self._known(indices), np.int64)]

    def prepare(self, *, rank: int = 0, num_ranks: int = 1) -> None:
        """Fills the cache, where there is one; see `CropCache.fill`."""
        if self.cache is not None:
            self.cache.fill(rank=rank, num_ranks=num_ranks)

    def images_u8(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """Returns ADM's centre crops, uint8 [B, side_px, side_px, 3], RGB.

        They come from the cache. A picture whose shard is not cut yet is decoded, which is slower and is logged once.

        Raises:
            ConfigError: There is no picture of such a number.
            DataError: A picture cannot be read.
        """
        known = self._known(indices)
        if self.cache is not None:
            if all(map(self.cache.has, known)):
                return self.cache.read(known)
            if not self._said_uncached:
                self._said_uncached = True
                log.warning("the cache of crops is not filled (`prepare` fills it): pictures are decoded each time")
        return self._stack(
            in_threads(lambda index: centre_crop_u8(self.source, index, self._side_px), known, self._threads)
        )

    def crops_u8(self, indices: Sequence[int], uses: Sequence[int], seed: int) -> NDArray[np.uint8]:
        """Returns random crops of the originals for the first stage, uint8 [B, side_px, side_px, 3], RGB.

        Args:
            indices: Numbers of pictures.
            uses: Running number of each use over the whole training; the place of a crop depends on (seed, use) and on
                the size of its picture alone.
            seed: Of the run.

        Raises:
            ConfigError: There is no picture of such a number, or not one use per picture.
            DataError: A picture cannot be read, or its shape is too extreme.
        """
        known = self._known(indices)
        if len(uses) != len(known):
            raise ConfigError(f"{len(uses)} uses of {len(known)} pictures", where="crops_u8")
        pairs = list(zip(known, map(int, uses), strict=True))
        return self._stack(in_threads(lambda pair: self._random_crop(pair[0], pair[1], seed), pairs, self._threads))

    def _random_crop(self, index: int, use: int, seed: int) -> NDArray[np.uint8]:
        picture = self.source.read(index)
        short, side = _short_side(self._side_px), self._side_px
        width, height = picture.size
        # As torchvision's Resize: the long side is cut to whole pixels.
        long = int(short * max(width, height) / min(width, height))
        size = (short, long) if width <= height else (long, short)
        if short * long > _MAX_PIXELS:
            raise DataError(
                f"a picture of {width}×{height} pixels would grow to {size[0]}×{size[1]}",
                where=str(self.source.path / self.source.item(index)),
                fix="leave the picture out, or cut it to a less extreme shape",
            )
        grown = picture.resize(size, Image.Resampling.BICUBIC)
        draw = numpy_generator(seed, CROP_LABEL, use)
        top, left = int(draw.integers(size[1] - side + 1)), int(draw.integers(size[0] - side + 1))
        return np.asarray(grown.crop((left, top, left + side, top + side)))

    def _known(self, indices: Sequence[int]) -> list[int]:
        known = [int(index) for index in indices]
        for index in known:
            if not 0 <= index < self.num_pictures:
                raise ConfigError(
                    f"there is no picture {index}: {self.source.name} holds {self.num_pictures}", where="index"
                )
        return known

    def _stack(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(pictures) if pictures else np.empty((0, self._side_px, self._side_px, 3), np.uint8)


def _short_side(side_px: int) -> int:
    """Returns the short side before the random crop: 384 for 256."""
    return int(1.5 * side_px)


def prefetch(batches: Iterable[A], load: Callable[[A], T], *, depth: int = 2) -> Iterator[T]:
    """Yields `load(batch)` for every batch in order, loaded by a thread that is `depth` batches ahead.

    `batches` is read in the caller's thread. Closing the iterator ends the thread after the batch it is at.

    Args:
        batches: What to load.
        load: Called in the thread, for one batch at a time; its errors are raised at the batch's turn.
        depth: Batches that are loaded or being loaded beyond the one that was given out, 1 or more.

    Raises:
        ConfigError: `depth` is below 1.
    """
    if depth < 1:
        raise ConfigError(f"it must be 1 or more, got {depth}", where="depth")
    return _prefetch(batches, load, depth)


def _prefetch(batches: Iterable[A], load: Callable[[A], T], depth: int) -> Iterator[T]:
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        queue: deque[Future[T]] = deque()
        try:
            for batch in batches:
                queue.append(pool.submit(load, batch))
                if len(queue) > depth:
                    yield queue.popleft().result()
            while queue:
                yield queue.popleft().result()
        finally:
            for future in queue:
                future.cancel()
