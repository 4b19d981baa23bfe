from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ovbench.harness.understanding.grouping import GroupedOrder, deal, row_lengths
from tests.harness.understanding.llava_training import dialogue_row, write_tree

WORDS = np.arange(70) % 13 + 1
PICTURED = np.arange(70) % 4 != 0  # 52 with an image, 18 without


def order(seed: int = 0) -> GroupedOrder:
    return GroupedOrder(seed, 2, WORDS, PICTURED, batch_size=8, num_parts=2)


def test_batches_are_of_one_kind_but_for_what_is_left_over() -> None:
    kinds = [{bool(PICTURED[row]) for row, _ in order()(step, 8)} for step in range(9)]
    assert sum(kind == {True} for kind in kinds) == 6
    assert sum(kind == {False} for kind in kinds) == 2
    assert kinds[-1] == {True, False}


def test_every_row_is_taken_in_every_epoch_and_the_last_batch_is_filled_up() -> None:
    running = order()
    assert running.steps_per_epoch == 9
    for epoch in range(3):
        seen = Counter(row for step in range(9) for row, _ in running(9 * epoch + step, 8))
        assert set(seen) == set(range(70))
        assert sum(seen.values()) == 72


def test_a_step_depends_on_seed_and_step_alone() -> None:
    running = order()
    steps = [running(step, 8) for step in range(20)]
    assert order()(13, 8) == steps[13]
    assert order()(2, 8) == steps[2]
    assert [row for row, _ in steps[9]] != [row for row, _ in steps[0]]
    assert {epoch for _, epoch in steps[9]} == {1}
    assert order(seed=1)(13, 8) != steps[13]


def test_kinds_are_mixed_over_the_epoch() -> None:
    rng_words = np.ones(800, np.int64)
    pictured = np.arange(800) < 600
    running = GroupedOrder(0, 2, rng_words, pictured, batch_size=8, num_parts=1)
    kinds = [bool(pictured[running(step, 8)[0][0]]) for step in range(100)]
    assert 5 < sum(not kind for kind in kinds[:50]) < 20  # 25 of 100 are text


def test_parts_of_a_batch_have_about_as_many_words() -> None:
    words = np.array([9, 1, 8, 2, 7, 3, 6, 4])
    dealt = deal(np.arange(100, 108), words, 2)
    assert sorted(dealt.tolist()) == list(range(100, 108))
    sums = [int(words[part - 100].sum()) for part in (dealt[:4], dealt[4:])]
    assert sums == [20, 20]


def test_fewer_rows_than_a_batch_are_filled_up() -> None:
    running = GroupedOrder(0, 2, np.array([3, 1]), np.array([True, False]), batch_size=5, num_parts=1)
    assert Counter(row for row, _ in running(0, 5)).keys() == {0, 1}


def test_lengths_are_counted_in_words(tmp_path: Path) -> None:
    words, pictured = row_lengths(write_tree(tmp_path), 2, [0, 1, 5])
    rows = [dialogue_row(number) for number in (0, 1, 5)]
    assert words.tolist() == [sum(len(item["value"].split()) for item in row["conversations"]) for row in rows]
    assert pictured.tolist() == [False, True, True]
