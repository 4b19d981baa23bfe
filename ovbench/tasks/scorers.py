"""The scorers that a task may name, and the metrics that each gives. What they compute is in harness/metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ovbench.tasks.answers import Kind


@dataclass(frozen=True, kw_only=True, slots=True)
class ScorerSpec:
    """What a task can ask of a scorer."""

    kind: Kind  # of the tasks it scores
    metrics: tuple[str, ...]  # that a task may list; the first is its usual headline
    points: Mapping[str, float] = field(default_factory=dict)  # metrics in points → the most that can be had
    counts: tuple[str, ...] = ()  # metrics that count answers
    parser: str = ""  # the one parser that fits; empty: any of the kind

    def unit(self, metric: str) -> str:
        """Returns the unit of a metric: fraction, points or count."""
        return "points" if metric in self.points else "count" if metric in self.counts else "fraction"

    def most(self, metric: str) -> float:
        """Returns the largest value of a metric that is no count."""
        return self.points.get(metric, 1.0)


_YES_NO = ("accuracy", "f1", "precision", "recall", "yes_rate")
_OPEN = ("accuracy", "unparsed_rate")

# The first three are those of a kind, for tasks that name no scorer.
SCORERS: Mapping[str, ScorerSpec] = {
    "choice": ScorerSpec(kind="choice", metrics=("accuracy",)),
    "yesno": ScorerSpec(kind="yesno", metrics=_YES_NO),
    "open": ScorerSpec(kind="open", metrics=_OPEN),
    "pope": ScorerSpec(
        kind="yesno",
        metrics=("pope_f1_mean", *_YES_NO, "accuracy_mean", "n_unparsed", "n_zero_divisions"),
        counts=("n_unparsed", "n_zero_divisions"),
    ),
    "seedbench": ScorerSpec(
        kind="choice",
        metrics=("seed_image", "seed_image_macro", "n_policy_disagreements", "n_unparsed"),
        counts=("n_unparsed", "n_policy_disagreements"),
    ),
    "mme": ScorerSpec(
        kind="yesno",
        metrics=("mme_perception", "mme_cognition", "accuracy", "accuracy_plus", "n_other", "n_unpaired"),
        points={"mme_perception": 2000.0, "mme_cognition": 800.0},
        counts=("n_other", "n_unpaired"),
    ),
    "gqa": ScorerSpec(kind="open", metrics=_OPEN, parser="gqa"),
    "scienceqa": ScorerSpec(kind="choice", metrics=("accuracy", "unparsed_rate")),
    "vqa": ScorerSpec(kind="open", metrics=_OPEN, parser="vqa"),
    "mmbench": ScorerSpec(
        kind="choice",
        metrics=("accuracy_circular", "accuracy", "unparsed_rate", "n_incomplete"),
        counts=("n_incomplete",),
    ),
    "chartqa": ScorerSpec(kind="open", metrics=_OPEN, parser="chartqa"),
    "ocrbench": ScorerSpec(kind="open", metrics=_OPEN, parser="ocrbench"),
}
