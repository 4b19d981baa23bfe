from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.inception_score import (
    adm_splits,
    is_adm,
    is_tf,
    labels_sorted,
    score_without_blocks,
    tf_splits,
)

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()
IS = ORACLE.golden_expected()["is"]


@pytest.mark.parametrize(
    ("name", "size"), [("logits", 100), ("logits", 150), ("logits", 5000), ("logits_class_ordered", 100)]
)
def test_adm_golden_values(name: str, size: int) -> None:
    found = is_adm(Z[name], split_size=size)
    assert found.mean == pytest.approx(IS[name][f"adm_split_size_{size}"], rel=1e-5)
    assert found.std is None
    assert found.num_splits == -(-len(Z[name]) // size)


@pytest.mark.parametrize(
    ("name", "key", "options"),
    [
        ("logits", "torch_fidelity_splits4_noshuffle", {"num_splits": 4, "shuffle": False}),
        ("logits", "torch_fidelity_splits4_shuffle_seed2020", {"num_splits": 4}),
        ("logits", "torch_fidelity_splits3_noshuffle", {"num_splits": 3, "shuffle": False}),
        ("logits", "torch_fidelity_splits10_shuffle_seed2020", {}),
        ("logits_class_ordered", "torch_fidelity_splits10_noshuffle", {"shuffle": False}),
        ("logits_class_ordered", "torch_fidelity_splits10_shuffle_seed2020", {}),
        ("logits_class_ordered", "torch_fidelity_splits1", {"num_splits": 1}),
        ("logits_extreme", "torch_fidelity_splits1", {"num_splits": 1}),
    ],
)
def test_torch_fidelity_golden_values(name: str, key: str, options: dict[str, Any]) -> None:
    found = is_tf(Z[name], **options)
    assert found.mean == pytest.approx(IS[name][key]["mean"], rel=1e-9)
    assert found.std == pytest.approx(IS[name][key]["std"], rel=1e-5, abs=1e-12)


def test_vanishing_probabilities_give_a_number_where_adm_gives_nan() -> None:
    assert IS["logits_extreme"]["adm_split_size_5000"] == "nan"
    assert is_adm(Z["logits_extreme"]).mean == pytest.approx(1.0)
    sure = np.where(np.eye(4), 0.0, -5000.0)
    assert is_adm(sure).mean == pytest.approx(4.0)  # each image sure of another class


def test_oracle_agrees() -> None:
    logits = np.random.default_rng(0).standard_normal((60, 7)) * 4
    assert is_adm(logits).mean == pytest.approx(ORACLE.inception_score(logits), rel=1e-12)
    assert is_tf(torch.from_numpy(logits), num_splits=1).mean == pytest.approx(ORACLE.inception_score(logits))


@pytest.mark.parametrize("splits", [tf_splits(50, 4), tf_splits(50, 3, shuffle=False), adm_splits(50, 15)])
def test_leaving_a_block_out_is_scoring_the_rest_of_each_split(splits: list[np.ndarray]) -> None:
    generator = np.random.default_rng(2)
    logits = generator.standard_normal((50, 7)) * 3
    blocks = np.array_split(generator.permutation(50), [4, 9, 30])  # of 4, 5, 21 and 20 rows
    found = score_without_blocks(logits, splits, blocks)
    wanted = [ORACLE.inception_score_without(logits, splits, block) for block in blocks]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    assert np.ptp(wanted) > 0.01  # the blocks matter


def test_a_split_that_lies_in_one_block_is_gone_with_it() -> None:
    logits = np.random.default_rng(3).standard_normal((30, 7)) * 3
    splits = adm_splits(30, 10)
    blocks = [np.arange(12), np.arange(12, 30)]  # all of the first split; all of the third
    found = score_without_blocks(logits, splits, blocks)
    np.testing.assert_allclose(found, [ORACLE.inception_score_without(logits, splits, block) for block in blocks])
    first, second = ORACLE.inception_score(logits[:10]), ORACLE.inception_score(logits[10:12])
    assert found[1] == pytest.approx((first + second) / 2)


def test_torch_fidelity_agrees_side_by_side() -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = torch.from_numpy(np.random.default_rng(1).standard_normal((257, 30)) * 3)
    theirs = isc_features_to_metric(logits)
    ours = is_tf(logits)
    assert ours.mean == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert ours.std == pytest.approx(theirs["inception_score_std"], rel=1e-9)


def test_sorted_labels_are_warned_about() -> None:
    labels = np.repeat(np.arange(20), 50)
    found = is_adm(Z["logits_class_ordered"], split_size=100, labels=labels)
    assert any("labels arrive sorted" in warning for warning in found.warnings)
    mixed = np.random.default_rng(0).permutation(labels)
    assert is_adm(Z["logits_class_ordered"], split_size=100, labels=mixed).warnings == ()


@pytest.mark.parametrize(
    ("labels", "sorted_"),
    [
        (np.repeat(np.arange(1000), 50), True),
        (np.repeat(np.random.default_rng(0).permutation(100), 10), True),  # one run each, in any order
        (np.tile(np.arange(1000), 50), False),
        (np.random.default_rng(1).integers(0, 1000, 50_000), False),
        (np.random.default_rng(1).integers(0, 1000, 300), False),
        (np.zeros(100), False),
        (np.arange(100), False),
        (np.random.default_rng(2).random(1000) < 0.01, False),
        (np.array([0, 0, 1, 1]), True),
        (np.array([], dtype=int), False),
    ],
)
def test_order_of_labels(labels: np.ndarray, sorted_: bool) -> None:
    assert labels_sorted(labels) is sorted_


def test_a_short_last_block_is_warned_about() -> None:
    assert is_adm(Z["logits"], split_size=150).warnings == ("the last block has 100 images instead of 150",)
    assert is_adm(Z["logits"], split_size=100).warnings == ()


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="at least 1 rows are needed, got 0"):
        is_adm(np.zeros((0, 5)))
    with pytest.raises(DataError, match="1 of 3 rows hold NaN"):
        is_tf(np.array([[0.0], [np.nan], [0.0]]))
    with pytest.raises(ConfigError, match="num_splits must be between 1 and 3, got 10"):
        is_tf(np.zeros((3, 5)))
    with pytest.raises(ConfigError, match="split_size must be at least 1, got 0"):
        is_adm(np.zeros((3, 5)), split_size=0)
    with pytest.raises(DataError, match=r"3 logits came with labels of shape \[2\]"):
        is_adm(np.zeros((3, 5)), labels=np.zeros(2))
