"""What a comparison says, as data: every number that `ovbench compare` prints, and its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ovbench.harness.metrics.base import Interval
from ovbench.harness.metrics.interval import no_interval
from ovbench.harness.metrics.multiplicity import LEVEL, holm
from ovbench.harness.metrics.seeds import OverSeeds
from ovbench.results.record import MetricValue, TaskRecord

Verdict = Literal["better", "worse", "differs", "not separated", "not tested"]
FORMAT = "ovbench-comparison-1"
HEADLINES = "headlines"  # family of Holm's correction: one score per task


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two that are compared."""

    asked: str  # what the user wrote
    label: str  # encoder, with its number format where that is not float32
    run_ids: tuple[str, ...]  # by seed
    seeds: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One thing that the two runs have, or were made with, in different ways."""

    name: str
    first: str
    second: str
    breaks: bool  # it makes scores incomparable, so that --force was needed


@dataclass(frozen=True, kw_only=True, slots=True)
class Flips:
    """Questions that one of the two has right and the other wrong; over all common seeds."""

    first_only: int
    second_only: int
    changed: int  # another answer, right or wrong alike in both


@dataclass(frozen=True, kw_only=True, slots=True)
class Power:
    """How many images would tell the two apart, were the difference in truth what was seen."""

    correlation: float | None  # of two differences about one image; None: a ratio, whose questions do not add up
    per_image: float | None  # questions an image
    images: Mapping[str, int | None]  # power, e.g. `80%` → images; None: more than 10^9, or there is no difference


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricDifference:
    """One score of the first minus the same score of the second."""

    task: str
    metric: str
    group: str | None
    headline: bool
    unit: str
    higher_is_better: bool | None
    first: float | None  # over the common seeds
    second: float | None
    difference: float | None
    interval: Interval  # 95%, over questions; over questions and seeds where there are several seeds
    other_interval: Interval | None  # made in another way: bootstrap beside clustered, or the other way round
    p: float | None
    p_method: str
    exact_p: float | None  # McNemar's exact one beside its mid-p, where each image has one question, right or wrong
    family: str  # of Holm's correction
    p_holm: float | None
    verdict: Verdict
    n: int  # common questions, or pictures
    num_images: int | None  # None: pictures are the items
    num_differing: int | None  # images on which answers count differently
    seeds: OverSeeds | None  # two or more common seeds
    power: Power | None
    notes: tuple[str, ...]
    reason: str | None  # why there is no test


def untested(metric: MetricValue, task: TaskRecord) -> MetricDifference:
    """Returns a score's comparison before anything is known of it."""
    headline = metric.name == task.headline and metric.group is None
    return MetricDifference(
        task=task.name,
        metric=metric.name,
        group=metric.group,
        headline=headline,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        first=None,
        second=None,
        difference=None,
        interval=no_interval("not tested"),
        other_interval=None,
        p=None,
        p_method="",
        exact_p=None,
        family=HEADLINES if headline else f"{task.name}: other scores",
        p_holm=None,
        verdict="not tested",
        n=0,
        num_images=None,
        num_differing=None,
        seeds=None,
        power=None,
        notes=(),
        reason=None,
    )


def bounded(interval: Interval, unit: str) -> Interval:
    """Returns an interval of a difference; two fractions are at most 1 apart."""
    if unit != "fraction" or interval.low is None or interval.high is None:
        return interval
    return replace(interval, low=max(-1.0, interval.low), high=min(1.0, interval.high))


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskComparison:
    """Everything about one task."""

    task: str
    kind: str
    n_common: int
    n_distinct: int  # different (image, question) pairs among them
    num_images: int
    only_first: tuple[str, ...]  # items that only the first has, by id
    only_second: tuple[str, ...]
    changed: tuple[str, ...]  # items of one id whose question, image or right answer differs; left out
    flips: Flips | None
    differences: tuple[MetricDifference, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class FlippedAnswer:
    """A question that the two answered differently, one right and one wrong."""

    task: str
    seed: str
    item_id: str
    image_id: str
    group: str
    question: str
    answer: str  # the right one
    first: str  # what was written
    second: str
    right: Literal["first", "second"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """Two sets of runs under one suite and protocol."""

    suite: str
    protocol: str
    first: Side
    second: Side
    forced: bool
    settings: tuple[Setting, ...]
    tasks: tuple[TaskComparison, ...]
    flipped: tuple[FlippedAnswer, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain JSON values."""
        return {"format": FORMAT, "level": LEVEL, **asdict(self)}


def judged(differences: Sequence[MetricDifference]) -> tuple[MetricDifference, ...]:
    """Returns the differences with Holm's p and the verdict, each family by itself."""
    families: dict[str, list[int]] = {}
    for place, entry in enumerate(differences):
        if entry.p is not None:
            families.setdefault(entry.family, []).append(place)
    found = list(differences)
    for places in families.values():
        for place, p in zip(places, holm([differences[i].p or 0.0 for i in places]), strict=True):
            found[place] = replace(found[place], p_holm=p, verdict=_verdict(found[place], p))
    return tuple(found)


def _verdict(entry: MetricDifference, p: float) -> Verdict:
    if p >= LEVEL or not entry.difference:
        return "not separated"
    if entry.higher_is_better is None:
        return "differs"
    return "better" if (entry.difference > 0) == entry.higher_is_better else "worse"
