from __future__ import annotations

import pytest

from ovbench._base.errors import RecordError
from ovbench.harness.comparison.answers import Options
from ovbench.harness.comparison.standing import standing, standing_of
from ovbench.harness.metrics.ranks import RankInterval
from ovbench.results.store import RunStore
from tests.harness.comparison.made_runs import clustered, keep_run, questions

VALUES = {"a": 0.8, "b": 0.7, "c": 0.69, "d": 0.4}
SURE, UNSURE = 1e-6, 0.4


def test_the_best_is_told_apart_from_every_other() -> None:
    pairs = {
        ("a", "b"): SURE,
        ("c", "a"): SURE,
        ("a", "d"): SURE,
        ("b", "c"): UNSURE,
        ("b", "d"): SURE,
        ("d", "c"): SURE,
    }
    found = standing("task", "accuracy", VALUES, pairs, higher_is_better=True)
    assert found.names == ("a", "b", "c", "d")
    assert found.best == "a"
    assert found.groups == (("a",), ("b", "c"), ("d",))
    assert dict(found.letters) == {"a": "a", "b": "b", "c": "b", "d": "c"}
    assert found.ranks["b"] == RankInterval(low=2, high=3)
    assert found.tied_with_first == ("a",)


def test_without_a_sure_difference_nobody_is_best() -> None:
    pairs = {("a", "b"): UNSURE, ("a", "c"): SURE, ("a", "d"): SURE}
    found = standing("task", "accuracy", VALUES, pairs, higher_is_better=True)
    assert found.best is None
    assert found.tied_with_first == ("a", "b")


def test_a_pair_without_a_test_counts_as_tied() -> None:
    found = standing("task", "accuracy", {"a": 0.9, "b": 0.1}, {}, higher_is_better=True)
    assert found.best is None
    assert found.groups == (("a", "b"),)
    assert found.ranks["a"] == RankInterval(low=1, high=2)


def test_lower_is_better_turns_the_order() -> None:
    pairs = {("a", "d"): SURE, ("b", "d"): SURE, ("c", "d"): SURE}
    found = standing("task", "fid", VALUES, pairs, higher_is_better=False)
    assert found.names == ("d", "c", "b", "a")
    assert found.best == "d"


def test_p_values_are_corrected_over_all_pairs() -> None:
    pairs = {("a", "b"): 0.03, ("b", "c"): 0.03, ("a", "c"): 0.001}
    found = standing("task", "accuracy", {"a": 3.0, "b": 2.0, "c": 1.0}, pairs, higher_is_better=True)
    assert found.p_holm["a", "c"] == pytest.approx(0.003)
    assert found.p_holm["a", "b"] == pytest.approx(0.06)


def test_runs_stand_by_their_answers(store: RunStore) -> None:
    samples = questions(80, 4)
    rows = {}
    for name, seed, chance in (("clip/mini", 0, 0.9), ("siglip/mini", 0, 0.88), ("random/mini", 1, 0.3)):
        rows[name] = [keep_run(store, name, {"mini-seed": (samples, clustered(seed, 80, 4, chance))})]
    found = standing_of(store, rows, "mini-seed", options=Options(num_draws=999))
    assert found.names[-1] == "random/mini"
    assert found.tied_with_first == ("clip/mini", "siglip/mini")
    assert found.ranks["random/mini"] == RankInterval(low=3, high=3)


def test_rows_without_a_common_seed_are_not_tested_and_say_why(store: RunStore) -> None:
    samples = questions(10, 2)
    rows = {
        "clip/mini": [keep_run(store, "clip/mini", {"mini-seed": (samples, [True] * 20)}, seed=0)],
        "siglip/mini": [keep_run(store, "siglip/mini", {"mini-seed": (samples, [False] * 20)}, seed=1)],
    }
    found = standing_of(store, rows, "mini-seed")
    assert dict(found.untested) == {("clip/mini", "siglip/mini"): "no seed in common"}
    assert found.best is None


def test_a_task_that_no_run_has_is_an_error(store: RunStore) -> None:
    with pytest.raises(RecordError, match="no run has the task 'mini-seed'"):
        standing_of(store, {}, "mini-seed")
