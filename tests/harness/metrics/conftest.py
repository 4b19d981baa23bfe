"""Questions and answers made by hand, and the oracles."""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from ovbench.tasks.base import Prediction, Sample

Quiz = tuple[list[Sample], list[Prediction]]


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """tests/oracles/scores.py"""
    path = Path(__file__).parents[2] / "oracles" / "scores.py"
    spec = importlib.util.spec_from_file_location("oracles_scores", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _quiz(rows: list[tuple[str, str, str, str | None]], *, ranked: bool = False) -> Quiz:
    """Rows of (image, group, answer, chosen); the written answer is the chosen one."""
    samples = [
        Sample(
            item_id=f"q{index}",
            image_id=image,
            question="?",
            prompt="?",
            options=(answer, "other"),
            answer=answer,
            group=group,
        )
        for index, (image, group, answer, _) in enumerate(rows)
    ]
    predictions = [
        Prediction(
            item_id=f"q{index}",
            raw=chosen or "",
            parsed=chosen,
            option_scores=(-1.0, -2.0) if ranked else None,
            chosen=chosen,
            correct=chosen == answer,
        )
        for index, (_, _, answer, chosen) in enumerate(rows)
    ]
    return samples, predictions


@pytest.fixture
def quiz() -> Callable[..., Quiz]:
    return _quiz


@pytest.fixture
def random_yes_no() -> list[tuple[str, str, str, str | None]]:
    """240 yes/no questions on 40 images in two splits; some answers cannot be read."""
    generator = random.Random(7)
    rows: list[tuple[str, str, str, str | None]] = []
    for index in range(240):
        answer = generator.choice(["yes", "no"])
        chosen = generator.choice([answer, answer, "yes", "no", None])
        rows.append((f"image{index % 40}", ("random", "popular")[index // 40 % 2], answer, chosen))
    return rows
