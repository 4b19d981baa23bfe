"""Visual tokens by image id: read from the feature cache, or computed on demand where a cache does not pay.

Contract: every forward pass takes the same number of pictures, so that what an encoder makes of a picture depends
neither on its neighbours nor on what was cached before, and both ways give the same bits.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Encoder, PreprocessSpec, Tap
from ovbench.encoders.preprocess import resize, to_01
from ovbench.harness.feature_cache import CacheFull, FeatureCache, Namespace
from ovbench.harness.feature_decision import Decision, decide
from ovbench.harness.feature_shards import DamagedShards, image_digest
from ovbench.harness.training import Progress, no_progress

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
BATCH_SIZE = 32  # pictures in a forward pass
_MEASURED_BATCHES = 2  # the first also pays for warming up
_MAX_REPAIRS = 3


class FeatureSource(Protocol):
    """Frozen visual tokens by image id, wherever they come from."""

    @property
    def dim(self) -> int:
        """Width of a token."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        ...

    def __call__(self, image_ids: Sequence[str]) -> Tensor:
        """Returns float32 [B, N, C]."""
        ...


def namespace_inputs(
    encoder: Encoder, tap: Tap | None, dtype: str, spec: PreprocessSpec | None = None
) -> dict[str, Any]:
    """Returns everything but the picture that can change the stored tokens of `llm_tokens`."""
    info = encoder.info
    return {
        "encoder": encoder.fingerprint(tap or info.llm_tap),
        "name": info.name,
        "preprocess": asdict(spec or info.input),
        "resize": "prepare",  # the other route, `resize_for`, is that of `latents`
        "view": "llm_tokens",
        "dtype": dtype,
    }


class Features:
    """The visual tokens of a set of images; a `FeatureSource`.

    Args:
        encoder: The frozen encoder.
        image_ids: Distinct names.
        image_u8: Name → uint8 [H, W, 3].
        cache: Where tokens are kept; None or a bound of 0: they are computed when they are asked for.
        tap: Layer and norm; None: the encoder's own choice for language models.
        dtype: Storage type, a name of `DTYPES`; tokens go through it whether they are stored or not.
        num_reads: How many times each image will be needed, for the decision whether to cache.
        batch_asked: How many images will be asked for at a time, for the same decision.
        batch_size: Images per forward pass.
        digests: Image id → digest of the picture, where known from before; saves loading the picture.
        spec: How pictures are prepared; None: the encoder's own way.
        workers: Threads that load and prepare the pictures of a pass.
        start: Where in the set `fill` begins, as a share in [0, 1): it goes on from there, and from the first image to
            there at last. Processes that begin at different places encode different images, and find the others' in the
            cache when they come to them. Changes no token.
    """

    def __init__(
        self,
        encoder: Encoder,
        image_ids: Sequence[str],
        image_u8: Callable[[str], np.ndarray],
        cache: FeatureCache | None,
        *,
        tap: Tap | None = None,
        dtype: str = "bfloat16",
        num_reads: float = 2.0,
        batch_asked: int = BATCH_SIZE,
        batch_size: int = BATCH_SIZE,
        digests: Mapping[str, str] | None = None,
        spec: PreprocessSpec | None = None,
        workers: int = 1,
        start: float = 0.0,
    ) -> None:
        assert 0.0 <= start < 1.0, "a share"
        if dtype not in DTYPES:
            raise ConfigError(f"unknown feature type '{dtype}'", where="feature_dtype", fix=f"use one of {[*DTYPES]}")
        self.image_ids = tuple(image_ids)
        first = int(start * len(self.image_ids))
        self._filling = self.image_ids[first:] + self.image_ids[:first]
        self.num_encoded = 0  # images that went through the encoder so far
        self.encode_s = 0.0  # seconds that this took, with loading and preparing them
        self.decision: Decision | None = None  # None: nothing had to be decided yet
        self._encoder, self._image, self._tap, self._dtype = encoder, image_u8, tap, DTYPES[dtype]
        self._num_reads, self._batch_size, self._batch_asked = num_reads, batch_size, batch_asked
        self._spec = None if spec == encoder.info.input else spec
        self._workers = ThreadPoolExecutor(workers) if workers > 1 else None
        self._known, self._digests = set(self.image_ids), dict(digests or {})
        self._shape: tuple[int, int] | None = None
        self._recent: dict[str, Tensor] = {}  # of the last call, since close calls are asked again at once
        self._space: Namespace | None = None
        if cache is None or cache.max_bytes == 0:
            self._bypass(Decision(cache=False, reason="the feature cache is switched off"))
        else:
            self._space = cache.open(namespace_inputs(encoder, tap, dtype, spec))

    @property
    def namespace(self) -> str | None:
        """Key of the namespace of the cache; None without a cache."""
        return self._space.key if self._space is not None else None

    @property
    def digests(self) -> dict[str, str]:
        """Image id → digest, of the pictures that were loaded or whose digest was given."""
        return dict(self._digests)

    @property
    def bypassed(self) -> str | None:
        """Why tokens are computed when they are asked for; None: they come from the cache."""
        return self.decision.reason if self.decision is not None and not self.decision.cache else None

    def close(self) -> None:
        """Lets the features be evicted."""
        if self._workers is not None:
            self._workers.shutdown()
        if self._space is not None:
            self._space.close()

    # --- reading ---------------------------------------------------------------------------------------------------

    @property
    def dim(self) -> int:
        """Width of a token."""
        return self._token_shape()[1]

    @property
    def num_tokens(self) -> int:
        """Tokens per image."""
        return self._token_shape()[0]

    def _token_shape(self) -> tuple[int, int]:
        if self._shape is None:
            num_tokens, dim = self(self.image_ids[:1]).shape[1:]
            self._shape = (num_tokens, dim)
        return self._shape

    def __call__(self, image_ids: Sequence[str]) -> Tensor:
        """Returns float32 [B, N, C], in the order of `image_ids`; a name may stand there more than once.

        Raises:
            DataError: A name is not of this set, or shards are damaged again and again.
        """
        if unknown := [name for name in image_ids if name not in self._known]:
            raise DataError(f"there is no image '{unknown[0]}' among these features", where="features")
        repairs = 0
        while repairs <= _MAX_REPAIRS:
            stored = {name: digest for name in image_ids if (digest := self._stored(name)) is not None}
            if len(stored) < len(set(image_ids)) and self.bypassed is None:
                self.fill()  # somebody emptied the cache, or shards were damaged
                repairs += 1
                continue
            try:
                return self._collect(image_ids, stored).float()
            except DamagedShards as damage:
                assert self._space is not None
                self._space.set_aside(damage)
        raise DataError(
            "shards of the feature cache are damaged again and again",
            where="features",
            fix="check the disk, or switch the cache off: OVBENCH_FEATURE_CACHE_GB=0",
        )

    def _stored(self, name: str) -> str | None:
        """Returns the digest of an image whose tokens are in the cache."""
        digest = self._digests.get(name)
        return digest if digest is not None and self._space is not None and digest in self._space else None

    def _collect(self, image_ids: Sequence[str], stored: Mapping[str, str]) -> Tensor:
        computed = [name for name in dict.fromkeys(image_ids) if name not in stored]
        if not computed:
            assert self._space is not None
            return self._space.gather([stored[name] for name in image_ids])
        rows = {name: self._recent[name] for name in computed if name in self._recent}
        fresh = [name for name in computed if name not in rows]
        for start in range(0, len(fresh), self._batch_size):
            names = fresh[start : start + self._batch_size]
            began = time.perf_counter()
            rows.update(zip(names, self._encode(list(self._map(self._image, names))), strict=True))
            self.encode_s += time.perf_counter() - began
        self._recent = dict(rows)
        if stored:
            assert self._space is not None
            rows.update(zip(stored, self._space.gather(list(stored.values())), strict=True))
        return torch.stack([rows[name] for name in image_ids])

    # --- filling ---------------------------------------------------------------------------------------------------

    def missing(self) -> int:
        """Returns how many images are not in the cache, or not known to be."""
        if self._space is not None:
            self._space.refresh()
        return sum(self._stored(name) is None for name in self.image_ids)

    def fill(self, progress: Progress = no_progress) -> None:
        """Encodes the images that the cache lacks, and stores them in shards; or decides against it.

        May be killed at any moment and called again, also by several processes at once.

        Args:
            progress: Told the number of images that are done.

        Raises:
            DataError: The encoder returned NaN or infinite values.
        """
        if self._space is None or self.bypassed is not None:
            return
        total = len(self.image_ids)
        waiting: dict[str, Tensor] = {}  # encoded and not yet stored
        since, done, fastest, num_bytes = time.monotonic(), 0, float("inf"), 0
        batches = self._batches(self._space, waiting)
        try:
            for number, (batch, passed, seconds) in enumerate(batches, start=1):
                began = time.perf_counter()
                tokens = self._encode(list(batch.values()))
                waiting.update(zip(batch, tokens, strict=True))
                image_bytes = tokens[0].numel() * tokens.element_size()
                num_bytes += image_bytes * len(batch)
                seconds += time.perf_counter() - began
                self.encode_s += seconds
                fastest = min(fastest, seconds / len(batch))
                if self.decision is None and (number == _MEASURED_BATCHES or passed == total):
                    self._decide(self._space, image_bytes, fastest)
                    if self.bypassed is not None:
                        return
                late = time.monotonic() - since >= self._space.cache.flush_s
                if self.decision is not None and (num_bytes >= self._space.cache.shard_bytes or late):
                    self._space.add(waiting)
                    waiting.clear()
                    since, num_bytes = time.monotonic(), 0
                done = passed
                progress(done, total)
            if waiting:
                self._space.add(waiting)
        except CacheFull as full:
            self._bypass(Decision(cache=False, reason=str(full), fits=False))
            return
        if self.decision is None:
            self.decision = Decision(cache=True, reason="everything is in the cache")
        if done < total:
            progress(total, total)

    def _batches(
        self, space: Namespace, waiting: Mapping[str, Tensor]
    ) -> Iterator[tuple[dict[str, np.ndarray], int, float]]:
        """Yields pictures to encode by digest, how many of the set are behind them, and the seconds to load them."""
        batch: dict[str, np.ndarray] = {}
        space.refresh()
        began, spent = time.perf_counter(), 0.0

        def load(name: str) -> np.ndarray | None:
            digest = self._digests.get(name)
            return None if digest is not None and digest in space else self._image(name)

        pictures = zip(self._filling, self._map(load, self._filling), strict=True)
        for passed, (name, picture) in enumerate(pictures, start=1):
            if picture is not None:
                digest = self._digests[name] = image_digest(picture)
                if digest not in space and digest not in waiting:
                    batch[digest] = picture
            if len(batch) == self._batch_size or (batch and passed == len(self.image_ids)):
                space.refresh()  # what another process has written meanwhile is not encoded again
                batch = {key: value for key, value in batch.items() if key not in space}
            if batch and (len(batch) == self._batch_size or passed == len(self.image_ids)):
                spent = time.perf_counter() - began
                yield batch, passed, spent
                batch = {}
                began = time.perf_counter()

    def _decide(self, space: Namespace, image_bytes: int, encode_s: float) -> None:
        self.decision = decide(
            image_bytes=image_bytes,
            num_images=sum(self._stored(name) is None for name in self.image_ids),
            num_reads=self._num_reads,
            padding=math.ceil(self._batch_asked / self._batch_size) * self._batch_size / self._batch_asked,
            encode_s=encode_s,
            speed=space.cache.throughput(),
            room_bytes=space.room_bytes(),
        )
        if not self.decision.cache:
            self._bypass(self.decision)

    def _bypass(self, decision: Decision) -> None:
        self.decision = decision
        log.log(
            logging.INFO if decision.fits else logging.WARNING,
            "features of %s are computed when they are asked for: %s",
            self._encoder.info.name,
            decision.reason,
        )

    def _map(self, function: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
        """Yields the results in order; threads work a few items ahead, so that a large set is never in memory."""
        if self._workers is None:
            yield from map(function, items)
            return
        ahead: deque[Future[T]] = deque()
        for item in items:
            ahead.append(self._workers.submit(function, item))
            if len(ahead) == 2 * self._batch_size:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    @torch.no_grad()
    def _encode(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """Returns the tokens of at most one batch, in the type of storage."""
        from PIL import Image

        def prepare(picture: np.ndarray) -> Tensor:
            image = Image.fromarray(picture)
            return self._encoder.prepare(image) if self._spec is None else to_01(resize(image, self._spec))

        images = list(self._map(prepare, pictures))
        images += images[-1:] * (self._batch_size - len(images))
        tokens = self._encoder.llm_tokens(torch.stack(images), self._tap)[: len(pictures)].to("cpu", self._dtype)
        if not bool(tokens.isfinite().all()):
            raise DataError(
                f"the encoder '{self._encoder.info.name}' returned NaN or infinite features",
                where="features",
                fix="check its weights and its input range with: ovbench encoders show NAME",
            )
        self.num_encoded += len(pictures)
        self._shape = (tokens.shape[1], tokens.shape[2])
        return tokens
