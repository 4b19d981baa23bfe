"""Passes of a fixed shape, in which every item has its place."""

from __future__ import annotations

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.slots import default_group_size, groups, share_of_rank


def test_an_item_has_the_same_slot_whatever_else_is_wanted() -> None:
    for wanted in (range(20), [3, 9, 17], [9]):
        slots: dict[int, int] = {}
        for group in groups(wanted, 8):
            slots |= dict(zip(group.indices, group.slots, strict=True))
        assert slots == {index: index % 8 for index in wanted}


def test_each_needed_pass_comes_once() -> None:
    assert [group.indices for group in groups([0, 1, 7, 8, 30], 8)] == [(0, 1, 7), (8,), (30,)]


def test_rows_go_into_their_slots_and_come_back() -> None:
    (group,) = groups([9, 12], 8)
    filled = group.fill(torch.tensor([[1.0], [2.0]]))
    assert filled.flatten().tolist() == [0, 1, 0, 0, 2, 0, 0, 0]
    assert group.take(filled).flatten().tolist() == [1, 2]


@pytest.mark.parametrize("wrong", [[1, 1], [2, 1], [-1, 0]])
def test_numbers_that_do_not_rise_are_refused(wrong: list[int]) -> None:
    with pytest.raises(ConfigError, match="image numbers must rise from 0 or more"):
        list(groups(wrong, 4))


def test_processes_share_whole_passes() -> None:
    shares = [share_of_rank(27, 4, rank, 3) for rank in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(27))
    passes = [{index // 4 for index in share} for share in shares]
    assert not passes[0] & passes[1]
    assert not passes[1] & passes[2]
    assert max(map(len, shares)) - min(map(len, shares)) <= 4


def test_group_size_follows_the_number_of_tokens() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [default_group_size(tokens, cpu) for tokens in (16, 256, 1024)] == [32, 2, 1]
    assert default_group_size(256, gpu) == 128
