from __future__ import annotations

import random

import pytest

from ovbench.harness.metrics.multiplicity import holm, letters, tied_groups


@pytest.mark.parametrize(
    ("raw", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the example of R's p.adjust manual
        ([0.2], [0.2]),
        ([0.6, 0.9], [1.0, 1.0]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([], []),
    ],
)
def test_holm_has_its_known_values(raw: list[float], adjusted: list[float]) -> None:
    assert holm(raw) == pytest.approx(adjusted)


def test_holm_keeps_the_order_and_never_helps() -> None:
    generator = random.Random(0)
    raw = [generator.random() for _ in range(50)]
    adjusted = holm(raw)
    assert all(new >= old for old, new in zip(raw, adjusted, strict=True))
    order = sorted(range(50), key=lambda place: raw[place])
    assert [adjusted[place] for place in order] == sorted(adjusted)


def test_being_tied_is_not_passed_on() -> None:
    """a = b and b = c, but a and c are told apart: two groups, b in both."""
    groups = tied_groups(["a", "b", "c"], {("a", "c"): True, ("a", "b"): False})
    assert groups == (("a", "b"), ("b", "c"))
    assert letters(["a", "b", "c"], groups) == {"a": "a", "b": "ab", "c": "b"}


def test_groups_are_all_together_or_all_alone() -> None:
    names = ["a", "b", "c"]
    assert tied_groups(names, {}) == (("a", "b", "c"),)
    apart = {("a", "b"): True, ("b", "c"): True, ("a", "c"): True}
    assert tied_groups(names, apart) == (("a",), ("b",), ("c",))


def test_two_names_share_a_letter_exactly_where_they_are_not_separated() -> None:
    generator = random.Random(1)
    names = [f"n{index}" for index in range(9)]
    pairs = {(one, two): generator.random() < 0.4 for one in names for two in names if one < two}
    shown = letters(names, tied_groups(names, pairs))
    for (one, two), apart in pairs.items():
        assert bool(set(shown[one]) & set(shown[two])) != apart


def test_no_group_lies_in_another() -> None:
    groups = [set(group) for group in tied_groups(list("abcd"), {("a", "b"): True, ("c", "d"): True})]
    assert not any(one < two for one in groups for two in groups)
