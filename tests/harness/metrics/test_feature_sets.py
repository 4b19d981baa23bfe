"""Features of a set: any order, batch, shard or restart gives the same; what does not fit together is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.metrics import feature_sets
from ovbench.harness.metrics.feature_sets import FeatureAccumulator, FeatureSet, rows_on_disk

from .picture_sets import pictures, toy_extractor, toy_rows

COUNT = 40
ROWS = toy_rows(pictures(COUNT, 0))
INFO = toy_extractor().info


def accumulator(
    tmp_path: Path, *, keep: Sequence[str] = ("pool",), stream: Sequence[str] = ("spatial",)
) -> FeatureAccumulator:
    return FeatureAccumulator(INFO, COUNT, keep=keep, stream=stream, folder=tmp_path)


def fill(target: FeatureAccumulator, pieces: Sequence[tuple[int, int]]) -> FeatureAccumulator:
    for start, stop in pieces:
        target.add({layer: rows[start:stop] for layer, rows in ROWS.items()}, start)
    return target


def batches(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + size, COUNT)) for start in range(0, COUNT, size)]


def assert_equal(found: FeatureSet) -> None:
    np.testing.assert_array_equal(found.rows["pool"], ROWS["pool"])
    for layer in ("pool", "spatial"):
        stats = found.gaussian(layer)
        np.testing.assert_allclose(stats.mu, ROWS[layer].astype(np.float64).mean(axis=0), rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            stats.sigma, np.cov(ROWS[layer].astype(np.float64), rowvar=False), rtol=1e-10, atol=1e-12
        )


@pytest.mark.parametrize("size", [1, 7, 40])
def test_batches_do_not_change_the_result(tmp_path: Path, size: int) -> None:
    assert_equal(fill(accumulator(tmp_path), batches(size)).finish())


def test_order_does_not_change_kept_layers_by_a_bit(tmp_path: Path) -> None:
    first = fill(accumulator(tmp_path), batches(6)).finish()
    other = fill(accumulator(tmp_path), batches(9)[::-1]).finish()
    assert_equal(other)
    np.testing.assert_array_equal(first.gaussian("pool").sigma, other.gaussian("pool").sigma)


def test_shards_merge_to_the_whole(tmp_path: Path) -> None:
    parts = [fill(accumulator(tmp_path), pieces) for pieces in ([(30, 40)], [(0, 3), (11, 30)], [(3, 11)])]
    for order in itertools.permutations(range(3)):
        whole = accumulator(tmp_path)
        for index in order:
            whole.merge(parts[index])
        assert_equal(whole.finish())


def test_a_saved_shard_is_restored_and_goes_on(tmp_path: Path) -> None:
    fill(accumulator(tmp_path), [(0, 13)]).save(tmp_path / "shard")
    found = accumulator(tmp_path)
    found.restore(tmp_path / "shard")
    assert found.count == 13
    assert_equal(fill(found, [(13, 40)]).finish())


def test_tensors_and_arrays_are_the_same(tmp_path: Path) -> None:
    found = accumulator(tmp_path)
    found.add({layer: torch.from_numpy(rows) for layer, rows in ROWS.items()}, 0)
    assert_equal(found.finish())


def test_rows_leave_no_file_behind(tmp_path: Path) -> None:
    found = fill(accumulator(tmp_path / "scratch"), batches(40)).finish()
    assert list((tmp_path / "scratch").iterdir()) == []
    assert_equal(found)


def test_rows_are_not_held_in_memory(tmp_path: Path) -> None:
    rows = rows_on_disk(5, 3, tmp_path)
    assert isinstance(rows, np.memmap)
    assert rows.shape == (5, 3)
    assert not rows.any()


def test_a_full_disk_is_an_error_and_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int, offset: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(feature_sets.os, "posix_fallocate", full)
    with pytest.raises(ConfigError, match="no space left on the device") as caught:
        rows_on_disk(5, 3, tmp_path)
    assert "OVBENCH_CACHE" in caught.value.fix
    assert list(tmp_path.iterdir()) == []


def test_where_space_cannot_be_reserved_zeros_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(feature_sets.os, "posix_fallocate")
    rows = rows_on_disk(5, 3, tmp_path)
    rows[:] = 2.0
    assert float(rows.sum()) == 30.0


@pytest.mark.parametrize(
    ("first", "change", "message"),
    [
        (35, {}, r"pictures 35 … 44 do not fit into 40"),
        (-1, {}, r"do not fit into 40"),
        (0, {"pool": ROWS["spatial"][:10]}, "layer 'pool' has 12 dimensions, got 10"),
        (0, {"spatial": np.full((10, 10), np.nan)}, "NaN or infinity"),
        (0, {"pool": ROWS["pool"][:9]}, "do not fit"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(
    tmp_path: Path, first: int, change: dict[str, np.ndarray], message: str
) -> None:
    found = accumulator(tmp_path)
    with pytest.raises(DataError, match=message):
        found.add({layer: rows[:10] for layer, rows in ROWS.items()} | change, first)
    assert found.count == 0
    assert_equal(fill(found, batches(40)).finish())


def test_a_picture_counts_once(tmp_path: Path) -> None:
    found = fill(accumulator(tmp_path), [(0, 10)])
    with pytest.raises(DataError, match="picture 4 was added twice"):
        fill(found, [(4, 12)])
    with pytest.raises(DataError, match="picture 5 is in both shards"):
        found.merge(fill(accumulator(tmp_path), [(5, 6)]))


def test_a_set_with_gaps_is_not_scored(tmp_path: Path) -> None:
    found = fill(accumulator(tmp_path), [(0, 10), (12, 40)])
    with pytest.raises(DataError, match=r"38 of 40 pictures were added, the first that is missing is 10"):
        found.finish()
    with pytest.raises(DataError, match="38 of 10 pictures"):
        found.finish(10)


def test_shards_of_other_sets_are_not_merged(tmp_path: Path) -> None:
    other = FeatureAccumulator(toy_extractor(scale=2.0).info, COUNT, keep=["pool"], stream=["spatial"], folder=tmp_path)
    with pytest.raises(DataError, match="not of one set under one extractor"):
        accumulator(tmp_path).merge(other)
    with pytest.raises(DataError, match="hold other layers"):
        accumulator(tmp_path).merge(accumulator(tmp_path, keep=["pool", "spatial"]))


def test_one_picture_has_no_covariance(tmp_path: Path) -> None:
    found = FeatureAccumulator(INFO, 1, keep=["pool"], folder=tmp_path)
    found.add({"pool": ROWS["pool"][:1]}, 0)
    with pytest.raises(DataError, match="at least 2 rows"):
        found.finish().gaussian("pool")


def test_unknown_layers_and_empty_sets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="gives no layer 'pools'"):
        accumulator(tmp_path, keep=["pools"])
    with pytest.raises(ConfigError, match="a set of 0 pictures"):
        FeatureAccumulator(INFO, 0, keep=["pool"], folder=tmp_path)


@pytest.mark.parametrize("damage", ["rows", "places", "moments", "state", "absent", "other"])
def test_a_damaged_shard_is_refused(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "shard"
    fill(accumulator(tmp_path), [(0, 13)]).save(folder)
    match damage:
        case "rows":
            (folder / "rows-0.npy").write_bytes((folder / "rows-0.npy").read_bytes()[:-8])
        case "places":
            np.save(folder / "places.npy", np.array([3, 99]))
        case "moments":
            (folder / "moments-0.npz").write_bytes(b"PK")
        case "state":
            (folder / "state.json").write_text("[]")
        case "absent":
            (folder / "state.json").unlink()
        case "other":
            state = json.loads((folder / "state.json").read_text())
            (folder / "state.json").write_text(json.dumps(state | {"num_images": 41}))
    found = accumulator(tmp_path)
    with pytest.raises(OvbenchError):
        found.restore(folder)
    assert found.count == 0
