from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import DataError
from ovbench.harness.metrics.cmmd import cmmd

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()


def test_golden_value() -> None:
    expected = ORACLE.golden_expected()["cmmd"]["a_vs_b_l2_normalised_sigma10_scale1000_biased"]
    assert cmmd(Z["a"], Z["b"]) == pytest.approx(expected, abs=1e-6)
    assert cmmd(torch.from_numpy(Z["b"]), torch.from_numpy(Z["a"])) == pytest.approx(expected, abs=1e-6)


def test_oracle_agrees() -> None:
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((20, 6)), generator.standard_normal((25, 6)) + 1
    assert cmmd(x, y) == pytest.approx(ORACLE.cmmd(x, y), abs=1e-9)


def test_equal_sets_are_zero_and_length_does_not_count() -> None:
    assert cmmd(Z["a"], Z["a"]) == pytest.approx(0.0, abs=1e-10)
    assert cmmd(Z["a"] * 7.0, Z["b"]) == pytest.approx(cmmd(Z["a"], Z["b"]), abs=1e-6)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((5, 64)), "an embedding is zero and has no direction"),
        (np.ones((1, 64)), "at least 2 rows are needed, got 1"),
        (np.full((5, 64), np.nan), "5 of 5 rows hold NaN"),
        (np.ones((5, 63)), "the two sets have 64 and 63 dimensions"),
    ],
)
def test_bad_features_are_refused(features: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        cmmd(Z["a"], features)
