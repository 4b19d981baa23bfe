"""What a comparison of two sets of pictures found, as it is printed and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ovbench.harness.metrics.frechet import FrechetCurve
from ovbench.harness.metrics.jackknife import PairedDifference
from ovbench.harness.metrics.picture_scores import PictureScore


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A score of FAKE minus that of the other generator."""

    metric: str
    name: str
    found: PairedDifference


@dataclass(frozen=True, kw_only=True, slots=True)
class FidReport:
    """The scores of one comparison, and where they come from."""

    scores: tuple[PictureScore, ...]
    differences: tuple[Difference, ...]
    curve: FrechetCurve | None
    warnings: tuple[str, ...]
    mode: str
    real: Mapping[str, Any]
    fake: Mapping[str, Any]
    versus: Mapping[str, Any] | None  # the other generator
    extractor: Mapping[str, Any] | None  # None: no network was needed
    settings: Mapping[str, Any]
    timings_s: Mapping[str, float]
    provenance: Mapping[str, Any]

    def __getitem__(self, metric: str) -> float | None:
        """Returns the value of a metric by its name for `--metrics`; None where it was not scored."""
        for entry in self.scores:
            if entry.metric == metric:
                return entry.score.value
        raise KeyError(metric)

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as it is written as JSON (docs/fid.md)."""
        return {
            "format": "ovbench-fid-1",
            "mode": self.mode,
            "scores": [_score_row(entry) for entry in self.scores],
            "differences": [
                {
                    "metric": entry.metric,
                    "name": entry.name,
                    "value": entry.found.value,
                    "low": entry.found.interval.low,
                    "high": entry.found.interval.high,
                    "interval": entry.found.interval.method,
                }
                for entry in self.differences
            ],
            "curve": None if self.curve is None else asdict(self.curve),
            "warnings": list(self.warnings),
            "real": dict(self.real),
            "fake": dict(self.fake),
            "versus": None if self.versus is None else dict(self.versus),
            "extractor": None if self.extractor is None else dict(self.extractor),
            "settings": dict(self.settings),
            "timings_s": dict(self.timings_s),
            "provenance": dict(self.provenance),
        }


def _score_row(entry: PictureScore) -> dict[str, Any]:
    score = entry.score
    return {
        "metric": entry.metric,
        "name": score.spec.name,
        "value": score.value,
        "reason": score.reason,
        "unit": score.spec.unit,
        "higher_is_better": score.spec.higher_is_better,
        "n": score.n,
        "num_reference": entry.num_reference,
        "low": score.interval.low,
        "high": score.interval.high,
        "interval": score.interval.method,
        "how": entry.how,
        "citation": score.spec.citation,
    }
