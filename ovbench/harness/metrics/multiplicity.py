"""Many comparisons at once: Holm's correction, and groups of encoders that cannot be told apart.

Holm, A Simple Sequentially Rejective Multiple Test Procedure, Scand. J. Stat. 6 (1979): the chance of even one false
claim in the family stays below the level, whatever the comparisons have to do with each other. Groups: the compact
letter display of Piepho (doi 10.1198/1061860043515).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

LEVEL = 0.05


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns Holm's adjusted p-values, in the given order: at most 1, never below the raw ones.

    The i-th smallest of m is multiplied by m - i + 1, and none is smaller than one before it.
    """
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, highest = [0.0] * len(p_values), 0.0
    for position, place in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - position) * p_values[place]))
        adjusted[place] = highest
    return adjusted


Pair = tuple[str, str]


def tied_groups(names: Sequence[str], separated: Mapping[Pair, bool]) -> tuple[tuple[str, ...], ...]:
    """Returns the groups of names no two of which are separated, none of them inside another.

    A name may be in several groups: being tied is not transitive, and a rule that joins all that hang together would
    call the first and the last of a chain tied though a test tells them apart.

    Args:
        names: Best first; decides the order of groups and of names within.
        separated: For each pair, in either order: whether a test tells the two apart.

    Returns:
        Groups in the order of their first names; each name is in one of them, alone if need be.
    """
    groups: list[frozenset[str]] = [frozenset(names)] if names else []
    for (one, other), apart in separated.items():
        if not apart:
            continue
        split: list[frozenset[str]] = []
        for group in groups:
            split += [group - {one}, group - {other}] if {one, other} <= group else [group]
        distinct = list(dict.fromkeys(split))
        groups = [group for group in distinct if not any(group < rival for rival in distinct)]
    place = {name: position for position, name in enumerate(names)}
    ordered = [tuple(sorted(group, key=place.__getitem__)) for group in groups]
    return tuple(sorted(ordered, key=lambda group: [place[name] for name in group]))


def letters(names: Sequence[str], groups: Sequence[Sequence[str]]) -> dict[str, str]:
    """Returns the letters of each name's groups (`a`, `ab`): two names that share none are told apart by a test."""
    marks = [_letter(number) for number in range(len(groups))]
    return {name: "".join(mark for mark, group in zip(marks, groups, strict=True) if name in group) for name in names}


def _letter(number: int) -> str:
    rounds, place = divmod(number, 26)
    return chr(ord("a") + place) + (str(rounds) if rounds else "")
