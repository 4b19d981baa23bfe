"""An interrupted set keeps what was written before, and the next command computes the rest alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.collect import Collected, collect
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.image_sources import ImageSource

from .picture_sets import LOGITS, POOL, SPATIAL, pictures, toy_extractor, toy_rows, write_folder

IMAGES = pictures(40, 3)
BATCH = 4
KEEP = ("pool", "logits")
ROW_BYTES = 4 * (POOL + SPATIAL + LOGITS)
AT_ONCE = {"shard_bytes": 1, "flush_s": 1e9}  # each batch is a shard
BY_SIZE = {"shard_bytes": 10 * ROW_BYTES, "flush_s": 1e9}  # three batches are
BY_TIME = {"shard_bytes": 2**30, "flush_s": 0.0}
NEVER = {"shard_bytes": 2**30, "flush_s": 1e9}


class Killed(BaseException):
    """Ends a set as a kill does: nothing is written after it."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", IMAGES)


def run(folder: Path, extractor: Extractor, tmp_path: Path, bounds: Mapping[str, float]) -> Collected:
    cache = FeatureCache(tmp_path / FOLDER, max_bytes=2**26, **bounds)  # type: ignore[arg-type]
    scratch = tmp_path / "scratch"
    return collect(ImageSource(folder), extractor, keep=KEEP, folder=scratch, cache=cache, batch_size=BATCH)


def killed_after(num_pictures: int, monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """The toy extractor up to a picture; from there on it raises, and the cache takes no more."""
    seen: list[int] = []
    working = toy_extractor()

    def breaks(images: Tensor) -> Mapping[str, Tensor]:
        if sum(seen) >= num_pictures:
            # A kill runs no `finally`: what waits in memory is lost.
            monkeypatch.setattr("ovbench.harness.metrics.collect._Memory.flush", lambda self: None)
            raise Killed
        seen.append(len(images))
        return working.run(images)

    return Extractor(info=working.info, device=working.device, run=breaks)


@pytest.mark.parametrize("bounds", [AT_ONCE, BY_SIZE, BY_TIME], ids=["each batch", "by size", "by time"])
def test_what_was_written_before_a_kill_is_not_computed_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bounds: Mapping[str, float]
) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        run(folder, killed_after(32, patch), tmp_path, bounds)
    calls: list[int] = []
    found = run(folder, toy_extractor(calls=calls), tmp_path, bounds)
    assert 0 < found.num_computed < len(IMAGES)
    assert sum(calls) == found.num_computed
    for layer in KEEP:
        np.testing.assert_array_equal(found.features.rows[layer], toy_rows(IMAGES)[layer])
    assert run(folder, toy_extractor(), tmp_path, bounds).num_computed == 0


def test_what_only_waited_is_computed_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(Killed):
        run(folder, killed_after(32, patch), tmp_path, NEVER)
    assert run(folder, toy_extractor(), tmp_path, NEVER).num_computed == len(IMAGES)


def test_an_interruption_writes_what_waits(folder: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    working = toy_extractor()

    def breaks(images: Tensor) -> Mapping[str, Tensor]:
        if sum(seen) >= 32:
            raise KeyboardInterrupt
        seen.append(len(images))
        return working.run(images)

    with pytest.raises(KeyboardInterrupt):
        run(folder, Extractor(info=working.info, device=working.device, run=breaks), tmp_path, NEVER)
    found = run(folder, toy_extractor(), tmp_path, NEVER)
    assert 0 < found.num_computed < len(IMAGES)
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES)["pool"])
