from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from ovbench.harness.metrics.permutation import mcnemar, swap_test
from ovbench.harness.metrics.ratios import Ratios


def _ratios(num: object, den: object, *, is_mean: bool = True) -> Ratios:
    numerators, denominators = np.array(num, dtype=float), np.array(den, dtype=float)
    return Ratios(num=numerators[:, None], den=denominators[:, None], weights=np.ones(1), is_mean=is_mean)


def _pair(images: int, seed: int = 0) -> tuple[Ratios, Ratios]:
    generator = np.random.default_rng(seed)
    den = np.full(images, 4.0)
    return tuple(_ratios(generator.integers(0, 5, size=images), den) for _ in range(2))  # type: ignore[return-value]


def _by_hand(first: Ratios, second: Ratios) -> float:
    """Every swap of every image, one after the other."""
    observed = abs(first.value - second.value)
    reached = 0
    for swaps in itertools.product([False, True], repeat=first.num_images):
        rows = np.array(swaps)[:, None]
        one = np.where(rows, second.num, first.num).sum() / np.where(rows, second.den, first.den).sum()
        two = np.where(rows, first.num, second.num).sum() / np.where(rows, first.den, second.den).sum()
        reached += abs(one - two) >= observed - 1e-12
    return reached / 2**first.num_images


@pytest.mark.parametrize("seed", range(4))
def test_few_images_are_swapped_in_every_way(seed: int) -> None:
    first, second = _pair(8, seed)
    found = swap_test(first, second, label="x")
    assert found.p == pytest.approx(_by_hand(first, second))
    assert found.method.startswith("all ")


def test_a_ratio_is_swapped_with_its_denominator() -> None:
    first, second = (
        _ratios([2, 0, 4, 6, 2], [4, 3, 5, 7, 2], is_mean=False),
        _ratios([0, 2, 2, 2, 2], [3, 4, 6, 4, 9], is_mean=False),
    )
    assert swap_test(first, second, label="x").p == pytest.approx(_by_hand(first, second))


def test_random_swaps_come_close_to_all_swaps(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = _pair(12, 0)
    exact = swap_test(first, second, label="x")
    monkeypatch.setattr("ovbench.harness.metrics.permutation.MAX_EXACT", 0)
    drawn = swap_test(first, second, label="x")
    assert (exact.method[:4], drawn.method[:19]) == ("all ", "10000 random swaps ")
    assert 0.02 < exact.p < 0.98
    assert drawn.p == pytest.approx(exact.p, abs=0.015)


def test_random_swaps_follow_the_normal_limit() -> None:
    generator = np.random.default_rng(3)
    first = _ratios(generator.integers(0, 5, size=400), np.full(400, 4.0))
    second = _ratios(
        np.minimum(generator.integers(0, 5, size=400) + (generator.random(400) < 0.1), 4), np.full(400, 4.0)
    )
    gaps = (first.num - second.num)[:, 0]
    z = abs(gaps.sum()) / math.sqrt(float(np.sum(gaps**2)))
    assert swap_test(first, second, label="x").p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=0.02)


def test_the_two_sides_have_one_p_value() -> None:
    first, second = _pair(60)
    assert swap_test(first, second, label="x").p == swap_test(second, first, label="x").p


def test_draws_depend_on_label_and_seed_alone() -> None:
    first, second = _pair(60, 1)
    assert swap_test(first, second, label="x") == swap_test(first, second, label="x")
    others = {swap_test(first, second, label=label, seed=seed).p for label, seed in (("x", 0), ("y", 0), ("x", 1))}
    assert len(others) > 1


def test_images_with_the_same_answers_say_nothing() -> None:
    first, second = _pair(9)
    same = [np.full(50, 3.0)] * 2
    padded = [
        _ratios(np.concatenate([r.num[:, 0], same[0]]), np.concatenate([r.den[:, 0], np.full(50, 4.0)]))
        for r in (first, second)
    ]
    assert swap_test(*padded, label="x").p == pytest.approx(swap_test(first, second, label="x").p)


def test_equal_answers_have_p_one() -> None:
    first, _ = _pair(9)
    found = swap_test(first, first, label="x")
    assert (found.p, found.method) == (1.0, "no image on which the answers differ")


def test_random_swaps_never_give_zero() -> None:
    first, second = _ratios(np.full(50, 4.0), np.full(50, 4.0)), _ratios(np.zeros(50), np.full(50, 4.0))
    assert swap_test(first, second, label="x", num_draws=999).p == pytest.approx(1 / 1000)


def _right(both: int, first_only: int, second_only: int) -> tuple[np.ndarray, np.ndarray]:
    first = np.array([True] * (both + first_only) + [False] * second_only)
    second = np.array([True] * both + [False] * first_only + [True] * second_only)
    return first, second


@pytest.mark.parametrize(
    ("first_only", "second_only", "exact", "mid"),
    [
        (12, 2, 0.0129395, 0.0073853), (2, 12, 0.0129395, 0.0073853), (5, 5, 1.0, 1.0), (0, 6, 0.03125, 0.015625),
        (1, 0, 1.0, 0.5), (15, 5, 0.0413895, 0.0266039),
    ],
)  # fmt: skip
def test_mcnemar_has_its_binomial_values(first_only: int, second_only: int, exact: float, mid: float) -> None:
    found = mcnemar(*_right(7, first_only, second_only))
    assert (found.first_only, found.second_only) == (first_only, second_only)
    assert found.exact_p == pytest.approx(exact, abs=1e-6)
    assert found.mid_p == pytest.approx(mid, abs=1e-6)


def test_mcnemar_of_equal_answers_is_one() -> None:
    found = mcnemar(*_right(5, 0, 0))
    assert (found.exact_p, found.mid_p) == (1.0, 1.0)


def test_swaps_of_single_questions_are_mcnemars_exact_test() -> None:
    first, second = _right(5, 9, 2)
    ones = np.ones(len(first))
    assert swap_test(_ratios(first, ones), _ratios(second, ones), label="x").p == pytest.approx(
        mcnemar(first, second).exact_p
    )
