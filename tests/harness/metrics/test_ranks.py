from __future__ import annotations

from ovbench.harness.metrics.ranks import RankInterval, rank_intervals


def test_ranks_follow_from_who_is_surely_better() -> None:
    found = rank_intervals(["a", "b", "c"], {("a", "b"): True, ("a", "c"): True, ("b", "c"): False})
    assert found == {
        "a": RankInterval(low=1, high=1),
        "b": RankInterval(low=2, high=3),
        "c": RankInterval(low=2, high=3),
    }


def test_without_tests_every_rank_is_possible() -> None:
    assert rank_intervals(["a", "b"], {}) == {"a": RankInterval(low=1, high=2), "b": RankInterval(low=1, high=2)}
