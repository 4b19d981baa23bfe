"""From a source of pictures to its features: decoded by threads, run through the extractor, remembered by picture.

A picture that the feature cache holds is not run again, so an interrupted command goes on where it stopped, and a set
that was scored once costs its decoding.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovbench.harness.feature_cache import CacheFull, FeatureCache, Namespace
from ovbench.harness.feature_shards import DamagedShards
from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo
from ovbench.harness.metrics.feature_sets import FeatureAccumulator, FeatureSet
from ovbench.harness.metrics.image_sources import ImageSource, PictureBatch

Progress = Callable[[int, int], None]  # pictures done, pictures in all
CPU_BATCH, GPU_BATCH = 16, 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """The features of a source, and how many of them had to be computed."""

    features: FeatureSet
    names: tuple[str, ...]  # of the pictures, in order
    keys: tuple[str | None, ...]  # of the pictures, to find their pairs in another source
    num_computed: int
    seconds: float


def namespace_of(info: ExtractorInfo) -> dict[str, object]:
    """Returns what the feature cache keys the rows of an extractor by: all that can change them."""
    return {
        "name": info.name,
        "view": "picture scores: " + ", ".join(info.layers),
        "dtype": "float32",
        "extractor": info.fingerprint(),
        "widths": list(info.layers.values()),
    }


def collect(
    source: ImageSource,
    extractor: Extractor,
    *,
    keep: Collection[str],
    stream: Collection[str] = (),
    folder: Path,
    cache: FeatureCache | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Collected:
    """Returns the features of all pictures of a source.

    Args:
        source: The pictures.
        extractor: The network.
        keep: Layers whose rows are kept.
        stream: Layers of which mean and covariance are wanted and no rows.
        folder: Where rows lie while they are used.
        cache: The feature cache; None or a bound of 0: nothing is remembered.
        batch_size: Pictures in one forward pass; None: 16 a core on a CPU, 128 on a GPU. Changes values by rounding.
        progress: Called with pictures done and pictures in all.

    Raises:
        DataError: Unusable pictures (see `ImageSource.batches`), or features that are not finite.
        ConfigError: The folder cannot be written to.
    """
    began = time.perf_counter()
    on_cpu = extractor.device.type == "cpu"
    side_by_side = on_cpu and extractor.concurrent
    size = batch_size or (CPU_BATCH if on_cpu else GPU_BATCH)
    accumulator = FeatureAccumulator(
        extractor.info, len(source), keep=keep, stream=stream, folder=folder, device=extractor.device
    )
    names: list[str] = []
    keys: list[str | None] = []
    computed = 0
    with contextlib.ExitStack() as stack:
        memory = stack.enter_context(_Memory.opened(cache, extractor.info))
        pool = stack.enter_context(_pool(torch.get_num_threads() if side_by_side else 1, single=side_by_side))
        stack.callback(pool.shutdown, cancel_futures=True)
        for batch, rows, fresh in _extracted(source, extractor, memory, pool, size):
            accumulator.add(_layers(rows, extractor.info), len(names))
            names += batch.names
            keys += batch.keys
            computed += fresh
            if progress is not None:
                progress(len(names), len(source))
    return Collected(
        features=accumulator.finish(len(names)),
        names=tuple(names),
        keys=tuple(keys),
        num_computed=computed,
        seconds=time.perf_counter() - began,
    )


def _layers(rows: np.ndarray, info: ExtractorInfo) -> dict[str, np.ndarray]:
    edges = np.cumsum([0, *info.layers.values()])
    return {layer: rows[:, edges[i] : edges[i + 1]] for i, layer in enumerate(info.layers)}


@contextlib.contextmanager
def _pool(workers: int, *, single: bool) -> Iterator[ThreadPoolExecutor]:
    """Yields threads that run forward passes side by side.

    On a CPU each takes one core: threads that share one pass wait for each other at every layer, and on a busy machine
    much longer than they compute.
    """
    before = torch.get_num_threads()

    def alone() -> None:
        torch.get_num_threads()  # Trap: the first use in a thread takes the process's number; only then can it be set.
        torch.set_num_threads(1)

    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="extract", initializer=alone if single else None) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


def _extracted(
    source: ImageSource, extractor: Extractor, memory: _Memory, pool: ThreadPoolExecutor, size: int
) -> Iterator[tuple[PictureBatch, np.ndarray, int]]:
    """Yields batches in order with their rows [B, sum of widths], and how many of them were computed now."""
    waiting: deque[tuple[PictureBatch, dict[int, Tensor], list[int], Future[np.ndarray] | None]] = deque()

    def run(images_u8: np.ndarray) -> np.ndarray:
        # Contract: every pass takes as many pictures, so that what is cached already cannot change the rest by a bit.
        count = len(images_u8)
        if count < size:
            images_u8 = np.concatenate([images_u8, np.zeros((size - count, *images_u8.shape[1:]), dtype=np.uint8)])
        found = extractor.extract(images_u8)
        return torch.cat([found[layer] for layer in extractor.info.layers], dim=1)[:count].cpu().numpy()

    def finished() -> tuple[PictureBatch, np.ndarray, int]:
        batch, known, fresh, future = waiting.popleft()
        rows = np.empty((len(batch.names), sum(extractor.info.layers.values())), dtype=np.float32)
        for place, row in known.items():
            rows[place] = row.numpy()
        if future is not None:
            rows[fresh] = future.result()
            memory.remember([batch.digests[place] for place in fresh], rows[fresh])
        return batch, rows, len(fresh)

    ahead = 2 * pool._max_workers
    for batch in source.batches(size):
        known = memory.recall(batch.digests)
        fresh = [place for place in range(len(batch.names)) if place not in known]
        images = batch.images_u8 if len(fresh) == len(batch.names) else batch.images_u8[fresh]
        waiting.append((batch, known, fresh, pool.submit(run, images) if fresh else None))
        if len(waiting) > ahead:
            yield finished()
    while waiting:
        yield finished()


class _Memory:
    """Rows by picture, in the feature cache; without a cache it remembers nothing.

    Rows are written in shards: when enough of them wait, when the oldest has waited for long, and at the end, an
    interrupted one included.
    """

    def __init__(self, space: Namespace | None) -> None:
        self._space = space
        self._waiting: dict[str, Tensor] = {}
        self._since = time.monotonic()

    @classmethod
    @contextlib.contextmanager
    def opened(cls, cache: FeatureCache | None, info: ExtractorInfo) -> Iterator[_Memory]:
        space = cache.open(namespace_of(info)) if cache is not None and cache.max_bytes else None
        memory = cls(space)
        try:
            yield memory
        finally:
            memory.flush()
            if space is not None:
                space.close()

    def recall(self, digests: Collection[str]) -> dict[int, Tensor]:
        """Returns place → row of the pictures that are there."""
        if self._space is None:
            return {}
        there = {place: digest for place, digest in enumerate(digests) if digest in self._space}
        if not there:
            return {}
        try:
            rows = self._space.gather(list(there.values()))  # [n, 1, D]
        except DamagedShards as damage:
            self._space.set_aside(damage)
            return {}
        return {place: rows[index, 0] for index, place in enumerate(there)}

    def remember(self, digests: Collection[str], rows: np.ndarray) -> None:
        """Takes rows that were computed; they are written in due time."""
        if self._space is None:
            return
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting.update((digest, torch.from_numpy(row)[None]) for digest, row in zip(digests, rows, strict=True))
        cache = self._space.cache
        num_bytes = rows.shape[1] * 4 * len(self._waiting)
        if num_bytes >= cache.shard_bytes or time.monotonic() - self._since >= cache.flush_s:
            self.flush()

    def flush(self) -> None:
        """Writes what waits; without room, the rest of this set is not remembered, which is said."""
        if self._space is None or not self._waiting:
            return
        waiting, self._waiting = self._waiting, {}
        try:
            self._space.add(waiting)
        except CacheFull as full:
            _log.warning("features are not remembered from here on: %s", full)
            self._space.close()
            self._space = None
