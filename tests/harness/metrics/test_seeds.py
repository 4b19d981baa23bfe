from __future__ import annotations

import pytest

from ovbench.harness.metrics.seeds import over_seeds


def test_the_seeds_alone_are_a_paired_t_test() -> None:
    """Differences 1, 2, 3: mean 2, error 0.57735, t 3.4641 with 2 degrees of freedom."""
    found = over_seeds([1.0, 2.0, 3.0], 0.0)
    assert found.p_seeds == pytest.approx(0.0741799, abs=1e-6)
    assert found.interval_seeds.low == pytest.approx(2 - 4.3026527 * 0.5773503)
    assert found.spread == 1.0


def test_both_errors_add_up() -> None:
    seeds, both = over_seeds([1.0, 2.0, 3.0], 0.0), over_seeds([1.0, 2.0, 3.0], 5.0)
    assert seeds.interval_seeds == both.interval_seeds
    assert (both.interval_both.high or 0) - (both.interval_both.low or 0) > 2 * 1.96 * 5
    assert both.p_both > seeds.p_both


def test_equal_seeds_leave_the_questions_alone() -> None:
    found = over_seeds([0.5, 0.5], 0.25)
    assert found.interval_seeds.low is None
    assert found.p_both == pytest.approx(0.0455003, abs=1e-6)
    assert found.interval_both.high == pytest.approx(0.5 + 1.959964 * 0.25)


def test_two_seeds_that_differ_say_little() -> None:
    found = over_seeds([0.02, 0.04], 0.001)
    assert found.p_seeds > 0.2
    assert found.interval_seeds.low is not None
    assert found.interval_seeds.low < 0


def test_no_difference_at_all_has_no_interval_and_p_one() -> None:
    found = over_seeds([0.0, 0.0], 0.0)
    assert (found.p_seeds, found.p_both, found.interval_both.low) == (1.0, 1.0, None)


def test_the_questions_alone_have_their_own_interval() -> None:
    found = over_seeds([1.0, 3.0], 0.5, 9)
    assert found.interval_questions.low == pytest.approx(2 - 2.2621572 * 0.5)
    assert found.interval_questions.method == "over the questions, these trainings as they are"
    assert found.interval_seeds.method == "paired t over 2 seeds, the questions as they are"
