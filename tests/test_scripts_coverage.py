"""scripts/coverage_statistics.py with few trials and wide bands; docs/statistics.md has the figures of many."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

PATH = Path(__file__).parent.parent / "scripts" / "coverage_statistics.py"


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location("coverage_statistics", PATH)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["coverage_statistics"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules["coverage_statistics"]


def test_answers_have_the_accuracy_and_correlation_that_were_asked_for(script: ModuleType) -> None:
    world = script.World(images=20_000, questions=6)
    one, two = world.draw(np.random.default_rng(0))
    values = one.astype(float) - 0.85
    assert one.mean() == pytest.approx(0.85, abs=0.005)
    assert two.mean() == pytest.approx(0.85, abs=0.005)
    pairs = (values.sum(axis=1) ** 2 - (values**2).sum(axis=1)).mean() / (6 * 5)
    assert pairs / (0.85 * 0.15) == pytest.approx(0.15, abs=0.02)
    shared = np.corrcoef(one.mean(axis=1), two.mean(axis=1))[0, 1]
    assert 0.2 < shared < 0.6


def test_intervals_cover_and_the_naive_ones_do_not(script: ModuleType) -> None:
    found = script.coverage(script.World(images=120, gap=0.01), 150, 0)
    for name in ("accuracy, clustered", "F1, bootstrap over images", "difference of accuracy, clustered"):
        assert 0.90 <= found[name] <= 0.99, name
    for name in ("accuracy, naive p(1-p)/n", "F1, naive p(1-p)/n", "difference of accuracy, naive"):
        assert found[name] < 0.90, name


def test_paired_tests_keep_their_size_and_the_naive_one_does_not(script: ModuleType) -> None:
    found = script.rejections(script.World(images=120), 300, 1)
    for name in ("swaps of images, accuracy", "swaps of images, F1", "paired t, clustered"):
        assert 0.02 <= found[name] <= 0.085, name
    assert found["naive McNemar over questions"] > 0.085


def test_pairing_gains_power(script: ModuleType) -> None:
    found = script.rejections(script.World(images=120, gap=0.03), 150, 2)
    assert found["swaps of images, accuracy"] > found["unpaired t, clustered"] + 0.15
    assert found["unpaired t, clustered"] >= found["intervals do not overlap"]
