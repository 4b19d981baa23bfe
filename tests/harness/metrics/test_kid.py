from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics import kid as kid_module
from ovbench.harness.metrics.kid import gaussian_kernel, kid_full, kid_subsets, mmd2_without_blocks

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()
KID = ORACLE.golden_expected()["kid"]
SUBSETS: dict[str, Any] = {"num_subsets": 50, "subset_size": 100}


@pytest.mark.parametrize(
    ("key", "order", "extra"),
    [
        ("torch_fidelity_input1_a_input2_b", "ab", {}),
        ("torch_fidelity_swapped", "ba", {}),
        ("torch_fidelity_seed7", "ab", {"seed": 7}),
        ("torch_fidelity_rbf_sigma10", "ab", {"kernel": gaussian_kernel(10.0)}),
    ],
)
def test_torch_fidelity_golden_values(key: str, order: str, extra: dict[str, Any]) -> None:
    found = kid_subsets(Z[order[0]], Z[order[1]], convention="torch-fidelity", **SUBSETS, **extra)
    assert found.mean == pytest.approx(KID[key]["mean"], abs=1e-6)
    assert found.std == pytest.approx(KID[key]["std"], abs=1e-6)
    assert found.seed == KID[key]["rng_seed"]


def test_clean_fid_golden_value() -> None:
    found = kid_subsets(Z["a"], Z["b"], convention="clean-fid", **SUBSETS)
    assert found.mean == pytest.approx(KID["clean_fid_np_seed0"]["value"], abs=1e-6)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize(("other", "key"), [("b", "full_set_mmd2_float64"), ("a", "full_set_mmd2_float64_a_vs_a")])
def test_full_set_golden_values(biased: bool, other: str, key: str) -> None:
    found = kid_full(Z["a"], Z[other], biased=biased)
    assert found == pytest.approx(KID[key]["biased" if biased else "unbiased"], abs=1e-10)
    assert kid_full(torch.from_numpy(Z["a"]), torch.from_numpy(Z[other]), biased=biased) == found


def test_oracle_agrees() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((23, 5)), generator.standard_normal((31, 5)) + 0.5
    assert kid_full(x, y) == pytest.approx(ORACLE.kid(x, y), abs=1e-12)


@pytest.mark.parametrize("biased", [False, True])
def test_leaving_a_block_out_is_scoring_the_other_rows(biased: bool) -> None:
    generator = np.random.default_rng(1)
    x, y = generator.standard_normal((13, 5)), generator.standard_normal((17, 5)) + 0.5
    blocks = np.array_split(generator.permutation(17), [2, 7, 8])  # of 2, 5, 1 and 9 rows
    whole, without = mmd2_without_blocks(x, y, blocks, biased=biased)
    assert whole == pytest.approx(ORACLE.kid(x, y, biased=biased), abs=1e-12)
    wanted = [ORACLE.kid(x, np.delete(y, block, axis=0), biased=biased) for block in blocks]
    np.testing.assert_allclose(without, wanted, rtol=0, atol=1e-12)
    assert np.ptp(wanted) > 0.05  # the blocks matter


@pytest.mark.parametrize("block", [1, 7, 399, 400])
def test_blocks_do_not_change_the_value(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = Z["a"][:60], Z["b"][:45]
    whole = kid_full(x, y)
    monkeypatch.setattr(kid_module, "_BLOCK", block)
    assert kid_full(x, y) == pytest.approx(whole, abs=1e-14)


def test_the_packages_agree_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    pytest.importorskip("cleanfid", reason="clean-fid is not installed")
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from cleanfid.fid import kernel_distance
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torchmetrics.image.kid import poly_mmd

    generator = np.random.default_rng(4)
    x, y = generator.random((300, 32)), generator.random((260, 32)) * 1.1
    theirs = kid_features_to_metric(
        torch.from_numpy(x), torch.from_numpy(y), kid_subsets=30, kid_subset_size=80, rng_seed=2020, verbose=False
    )
    ours = kid_subsets(x, y, convention="torch-fidelity", num_subsets=30, subset_size=80)
    assert ours.mean == pytest.approx(theirs["kernel_inception_distance_mean"], abs=1e-10)
    assert ours.std == pytest.approx(theirs["kernel_inception_distance_std"], abs=1e-10)

    monkeypatch.setattr(np.random, "choice", np.random.RandomState(0).choice)  # its draws come from the global state
    clean = kernel_distance(x, y, num_subsets=30, max_subset_size=1000)
    assert kid_subsets(x, y, convention="clean-fid", num_subsets=30).mean == pytest.approx(clean, abs=1e-10)

    whole = float(poly_mmd(torch.from_numpy(x[:260]), torch.from_numpy(y)))
    assert kid_full(x[:260], y) == pytest.approx(whole, abs=1e-10)


def test_clean_fid_shrinks_the_subset_and_says_so() -> None:
    found = kid_subsets(Z["a"], Z["b"], convention="clean-fid", num_subsets=2)
    assert (found.subset_size, found.seed, found.convention) == (400, 0, "clean-fid")


def test_own_subsets_depend_on_seed_and_index_alone() -> None:
    few, many, other = (
        kid_subsets(Z["a"], Z["b"], num_subsets=n, subset_size=100, seed=seed) for n, seed in ((1, 0), (2, 0), (1, 1))
    )
    assert few.std == 0.0
    assert few.mean != other.mean
    assert few.mean in (pytest.approx(many.mean - many.std), pytest.approx(many.mean + many.std))


def test_subsets_scatter_around_the_full_estimate() -> None:
    found = kid_subsets(Z["a"], Z["b"], num_subsets=200, subset_size=100)
    assert found.mean == pytest.approx(kid_full(Z["a"], Z["b"]), abs=4 * found.std / 200**0.5)


@pytest.mark.parametrize("convention", ["ovbench", "torch-fidelity"])
def test_a_subset_larger_than_a_set_is_refused(convention: Any) -> None:
    with pytest.raises(ConfigError, match="subset_size must be between 2 and 400, got 401"):
        kid_subsets(Z["a"], Z["b"], convention=convention, subset_size=401)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_subsets": 0}, "num_subsets must be at least 1, got 0"),
        ({"subset_size": 1}, "subset_size must be between 2 and 400, got 1"),
        ({"convention": "fid"}, "unknown KID convention 'fid'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kid_subsets(Z["a"], Z["b"], **options)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_kernel_without_width_is_refused(sigma: float) -> None:
    with pytest.raises(ConfigError, match="sigma must be a positive number"):
        gaussian_kernel(sigma)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 64)), "at least 2 rows are needed, got 1"),
        (np.zeros((0, 64)), "at least 2 rows are needed, got 0"),
        (np.full((5, 64), np.nan), "5 of 5 rows hold NaN"),
        (np.zeros((5, 63)), "the two sets have 64 and 63 dimensions"),
    ],
)
@pytest.mark.parametrize("score", [kid_full, kid_subsets])
def test_bad_features_are_refused(features: Any, message: str, score: Any) -> None:
    with pytest.raises(DataError, match=message):
        score(Z["a"], features)
