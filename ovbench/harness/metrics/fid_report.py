"""What a comparison of two sets of pictures found, as it is printed and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ovbench import __version__
from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.fid_audit import Audit
from ovbench.harness.metrics.fid_infinity import FrechetCurve
from ovbench.harness.metrics.jackknife import PairedDifference
from ovbench.harness.metrics.picture_scores import PictureScore
from ovbench.results.provenance import cpu_model, git_state, package_versions, peak_rss_bytes


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
    audit: Audit | None
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
                    "label": entry.name,
                    "value": entry.found.value,
                    "low": entry.found.interval.low,
                    "high": entry.found.interval.high,
                    "interval": entry.found.interval.method,
                }
                for entry in self.differences
            ],
            "curve": None if self.curve is None else asdict(self.curve),
            "audit": None if self.audit is None else self.audit.to_dict(),
            "warnings": list(self.warnings),
            "real": dict(self.real),
            "fake": dict(self.fake),
            "versus": None if self.versus is None else dict(self.versus),
            "extractor": None if self.extractor is None else dict(self.extractor),
            "settings": dict(self.settings),
            "timings_s": dict(self.timings_s),
            "provenance": dict(self.provenance),
        }


def _label(entry: PictureScore) -> str:
    """Returns the name as tables print it: the number of pictures is a part of a distance's name, as in FID-50k."""
    name, n = entry.score.spec.name, entry.score.n
    if entry.metric not in ("fid", "sfid"):
        return name
    return f"{name}-{n // 1000}k" if n and n % 1000 == 0 else f"{name}-{n}"


def _score_row(entry: PictureScore) -> dict[str, Any]:
    score = entry.score
    return {
        "metric": entry.metric,
        "name": score.spec.name,
        "label": _label(entry),
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
        "details": dict(entry.details),
        "citation": score.spec.citation,
    }


_PACKAGES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "transformers", "numpy", "pillow", "safetensors")


def about_extractor(info: ExtractorInfo) -> dict[str, Any]:
    """Returns all that decides a feature, as a report says it."""
    names = (
        "name", "network", "trained", "weights_sha256", "resize", "quantisation", "normalisation", "size_px", "pool",
        "spatial", "logits", "precision", "value_change",
    )  # fmt: skip
    return {name: getattr(info, name) for name in names} | {"layers": dict(info.layers)}


def provenance(
    device: str, started: str, num_computed: Mapping[str, int], timings_s: Mapping[str, float]
) -> dict[str, Any]:
    """Returns versions, machine and cost of a comparison.

    Args:
        device: That the network ran on.
        started: When, as `provenance.utc` gives it.
        num_computed: Step → pictures that went through the network.
        timings_s: Step → seconds.
    """
    state, computed = git_state(), sum(num_computed.values())
    seconds = sum(timings_s.get(step, 0.0) for step, count in num_computed.items() if count)
    gpu = device.startswith("cuda")
    return {
        "ovbench": __version__,
        "git_commit": state.commit,
        "git_dirty": state.dirty,
        "packages": package_versions(_PACKAGES),
        "started": started,
        "device": device,
        "device_name": torch.cuda.get_device_name(torch.device(device)) if gpu else None,
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "num_computed": dict(num_computed),
        "images_per_s": round(computed / seconds, 2) if computed and seconds else None,
        "peak_rss_bytes": peak_rss_bytes(),
    }
