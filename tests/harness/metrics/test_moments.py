from __future__ import annotations

import io
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import DataError
from ovbench.harness.metrics.moments import Moments

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))


def _rows(n: int = 600, dim: int = 12, offset: float = 3.0) -> np.ndarray:
    generator = np.random.default_rng(5)
    return generator.standard_normal((n, dim)) @ generator.standard_normal((dim, dim)) + offset


def _moments(rows: Any, batch: int) -> Moments:
    moments = Moments()
    for start in range(0, len(rows), batch):
        moments.add(rows[start : start + batch])
    return moments


def _assert_same(one: Moments, other: Moments, relative: float = 1e-10) -> None:
    assert one.count == other.count
    for first, second in ((one.mean(), other.mean()), (one.covariance(), other.covariance())):
        assert float((first - second).abs().max()) <= relative * float(second.abs().max())


@pytest.mark.parametrize("batch", [1, 7, 64, 600])
def test_batches_give_what_numpy_gives_at_once(batch: int) -> None:
    rows = _rows()
    moments = _moments(rows, batch)
    mean, cov = ORACLE.moments(rows)
    np.testing.assert_allclose(moments.mean().numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(moments.covariance().numpy(), cov, rtol=1e-10, atol=1e-12)
    assert moments.count == 600
    assert moments.dim == 12


def test_order_does_not_matter() -> None:
    rows = _rows()
    _assert_same(_moments(rows[np.random.default_rng(0).permutation(len(rows))], 50), _moments(rows, 64))


@pytest.mark.parametrize("cuts", [[300], [1, 2], [100, 101, 580]])
def test_shards_merge_to_the_whole(cuts: list[int]) -> None:
    rows = _rows()
    shards = [_moments(part, 32) for part in np.split(rows, cuts)]
    merged = Moments()
    for shard in shards[::-1]:
        merged.merge(shard)
    _assert_same(merged, _moments(rows, 600))


def test_merging_leaves_the_other_as_it_was() -> None:
    first, second = _moments(_rows(), 64), _moments(_rows(offset=9.0), 64)
    before = second.covariance()
    first.merge(second)
    empty = Moments()
    empty.merge(second)
    empty.add(_rows())
    assert torch.equal(second.covariance(), before)
    assert second.count == 600


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_a_mean_large_beside_the_spread_costs_no_digits(offset: float) -> None:
    plain = _rows(offset=0.0)
    cov = _moments(plain + offset, 32).covariance()
    expected = np.cov((plain + offset) - offset, rowvar=False)  # the rows as they survive the addition
    np.testing.assert_allclose(cov.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_a_far_first_batch_costs_little() -> None:
    rows = np.concatenate([np.full((3, 12), 1e3), _rows(n=5000)])
    _assert_same(_moments(rows, 3), _moments(rows, 5003))


def test_the_covariance_is_exactly_symmetric() -> None:
    cov = _moments(_rows(), 64).covariance()
    assert torch.equal(cov, cov.T)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.uint8])
def test_numpy_and_torch_of_any_real_dtype_agree(dtype: Any) -> None:
    rows = (np.random.default_rng(0).random((40, 3)) * 10).astype(dtype)
    rows.setflags(write=False)  # a memory-mapped file is read-only
    _assert_same(_moments(rows, 40), _moments(torch.from_numpy(rows.copy()), 40), relative=0.0)


def test_a_saved_state_goes_on_where_it_stopped() -> None:
    rows = _rows()
    file = io.BytesIO()
    state: dict[str, Any] = _moments(rows[:200], 64).state()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        resumed = Moments.from_state(arrays)
    resumed.add(rows[200:])
    straight = _moments(rows[:200], 64)
    straight.add(rows[200:])
    _assert_same(resumed, straight, relative=0.0)


def test_a_state_is_a_copy() -> None:
    moments = _moments(_rows(), 64)
    state = moments.state()
    restored = Moments.from_state(state)
    moments.add(_rows())
    restored.add(_rows())
    assert int(state["count"]) == 600
    _assert_same(Moments.from_state(state), _moments(_rows(), 64), relative=0.0)


def test_an_empty_state_comes_back_empty() -> None:
    assert Moments.from_state(Moments().state()).count == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_features_that_are_not_finite_are_refused_and_change_nothing(bad: float, kind: str) -> None:
    moments = _moments(_rows(), 64)
    rows: Any = _rows()
    rows[[4, 9], 2] = bad
    with pytest.raises(DataError, match="2 of 600 rows hold NaN or infinity, the first is row 4"):
        moments.add(torch.from_numpy(rows) if kind == "torch" else rows)
    _assert_same(moments, _moments(_rows(), 64), relative=0.0)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.zeros(5), r"must be a matrix \[images, dimensions\], got shape \[5\]"),
        (np.zeros((5, 2, 2)), r"must be a matrix \[images, dimensions\], got shape \[5, 2, 2\]"),
        (np.zeros((5, 0)), r"got shape \[5, 0\]"),
        (np.zeros((5, 2), dtype=complex), "must be real numbers, got complex128"),
        (torch.zeros((5, 2), dtype=torch.complex64), "must be real numbers, got torch.complex64"),
        (np.array([["a", "b"]]), "must be real numbers"),
    ],
)
def test_what_is_no_feature_matrix_is_refused(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Moments().add(rows)


def test_another_dimension_is_refused() -> None:
    moments = _moments(_rows(), 64)
    with pytest.raises(DataError, match="the batch has 5 dimensions and the earlier ones had 12"):
        moments.add(np.zeros((3, 5)))
    with pytest.raises(DataError, match="cannot merge statistics of 5 dimensions into statistics of 12"):
        moments.merge(_moments(np.zeros((3, 5)), 3))


def test_too_few_rows_have_no_covariance() -> None:
    moments = Moments()
    moments.add(np.zeros((0, 3)))
    with pytest.raises(DataError, match="no features were added"):
        moments.mean()
    moments.add(np.ones((1, 3)))
    with pytest.raises(DataError, match="a covariance needs at least 2 rows, got 1"):
        moments.covariance()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": np.array("other")}, "not a saved state of Moments"),
        ({"sum": None}, "lacks sum"),
        ({"products": np.zeros((3, 3))}, "damaged"),
        ({"shift": np.full(12, np.nan)}, "damaged"),
        ({"count": np.array(-4)}, "damaged"),
    ],
)
def test_a_damaged_state_is_refused(change: dict[str, Any], message: str) -> None:
    state = {key: value for key, value in (_moments(_rows(), 64).state() | change).items() if value is not None}
    with pytest.raises(DataError, match=message):
        Moments.from_state(state)
