"""Which ranks an encoder may have, given which pairs a test tells apart.

The rank is at least 1 + the number of those that are surely better, and at most the number of all minus those that are
surely worse (Mogstad, Romano, Shaikh & Wilhelm, doi 10.1093/restud/rdad006). Where the tests of all pairs keep a
family-wise level, as with Holm's correction, all these intervals hold together at that level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovbench.harness.metrics.multiplicity import Pair


@dataclass(frozen=True, kw_only=True, slots=True)
class RankInterval:
    """Ranks that the data allow; 1 is best."""

    low: int
    high: int


def rank_intervals(names: Sequence[str], better: Mapping[Pair, bool]) -> dict[str, RankInterval]:
    """Returns the ranks that each name may have.

    Args:
        names: All that are ranked.
        better: (a, b) → whether a is better than b beyond doubt; a pair that is not there is in doubt.
    """
    found: dict[str, RankInterval] = {}
    for name in names:
        above = sum(better.get((rival, name), False) for rival in names)
        below = sum(better.get((name, rival), False) for rival in names)
        assert above + below < len(names), "nobody is better and worse at once"
        found[name] = RankInterval(low=1 + above, high=len(names) - below)
    return found
