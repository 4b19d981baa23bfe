"""Runs a comparison whose inputs were opened: features, scores, differences, report."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ovbench import __version__
from ovbench._base.errors import DataError
from ovbench._base.paths import cache_dir, feature_cache_bytes
from ovbench.harness.events import Listener, Reporter, ignore
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.collect import Collected, collect
from ovbench.harness.metrics.conventions import METRICS
from ovbench.harness.metrics.extractors import Extractor
from ovbench.harness.metrics.fid_report import Difference, FidReport
from ovbench.harness.metrics.fid_request import FidInputs, FidRequest, open_inputs
from ovbench.harness.metrics.frechet import FrechetCurve
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.jackknife import NUM_BLOCKS, paired_frechet_difference, paired_mean_difference
from ovbench.harness.metrics.manifold import tile_size
from ovbench.harness.metrics.pair_scores import PairScores, score_pairs
from ovbench.harness.metrics.picture_scores import Against, PictureScore, Settings, score_sets, spec_of
from ovbench.harness.metrics.reference_cache import reference_of
from ovbench.harness.metrics.references import Gaussian, Reference, check_match, write_reference
from ovbench.results.provenance import cpu_model, git_state, package_versions, peak_rss_bytes, utc

JOB = "fid"
_PACKAGES = ("torch", "torchvision", "torchmetrics", "torch-fidelity", "transformers", "numpy", "pillow", "safetensors")


def run_fid(request: FidRequest, listener: Listener = ignore) -> FidReport:
    """Scores the pictures of one source against those, or the statistics, of another.

    Args:
        request: What to score, and how.
        listener: Hears how far the work is.

    Raises:
        OvbenchError: Anything that a user can mend; what had been computed until then is in the feature cache.
    """
    return FidRun(open_inputs(request), listener).report()


class FidRun:
    """One comparison. Features are computed when they are first asked for, and kept for what else is computed of them.

    Args:
        inputs: The opened sources and the network.
        listener: Hears how far the work is.
    """

    def __init__(self, inputs: FidInputs, listener: Listener = ignore) -> None:
        self.inputs, self.request = inputs, inputs.request
        self.reporter = Reporter(JOB, listener)
        self.timings_s: dict[str, float] = {}
        self.num_computed: dict[str, int] = {}
        self.warnings = list(inputs.warnings)
        self.folder = cache_dir()
        bound = feature_cache_bytes() if self.request.cache else 0
        self.cache = FeatureCache(self.folder / FOLDER, max_bytes=bound) if bound else None

    def report(self) -> FidReport:
        """Returns all scores."""
        began, started = time.perf_counter(), utc()
        scores: list[PictureScore] = []
        differences: list[Difference] = []
        curve: FrechetCurve | None = None
        if self.inputs.extractor is not None:
            scores, differences, curve = self._sets(self.inputs.extractor)
        if self.inputs.measures:
            found, gaps = self._pairs()
            scores += found.scores
            differences += gaps
            self.warnings += found.warnings
        order = {name: place for place, name in enumerate(self.inputs.asked)}
        scores.sort(key=lambda entry: order.get(entry.metric, len(order)))
        for entry in scores:
            self.warnings += entry.warnings
        self.timings_s["total"] = time.perf_counter() - began
        return FidReport(
            scores=tuple(scores),
            differences=tuple(differences),
            curve=curve,
            warnings=tuple(dict.fromkeys(self.warnings)),
            mode=self.request.mode,
            real=self._about_real,
            fake=self._about(self.inputs.fake),
            versus=None if self.inputs.versus is None else self._about(self.inputs.versus),
            extractor=self._about_extractor(),
            settings={
                "purpose": self.request.purpose,
                "intervals": self.request.intervals,
                "num_blocks": NUM_BLOCKS,
                "seed": self.request.seed,
                "kid_subset_size": self.request.kid_subset_size,
                "quantise": "stored: the pictures are 8-bit files",
                "measures": {name: dict(measure.about) for name, measure in self.inputs.measures.items()},
            },
            timings_s={name: round(value, 3) for name, value in self.timings_s.items()},
            provenance=self._provenance(started),
        )

    # --- sets ------------------------------------------------------------------------------------------------------

    def _sets(self, extractor: Extractor) -> tuple[list[PictureScore], list[Difference], FrechetCurve | None]:
        against = self.against(extractor)
        generated = self.collected("fake", self.inputs.fake, extractor)
        features = generated.features
        self.warnings += self._size_warnings(against, features.count, extractor.info.dim)
        settings = Settings(
            mode=self.inputs.mode,
            mode_name=self.request.mode,
            intervals=self.request.intervals,
            seed=self.request.seed,
            labels=self._labels(generated),
            kid_subset_size=self.request.kid_subset_size,
        )
        began = time.perf_counter()
        progress = self.reporter.step("scores")
        scored = score_sets(self.inputs.metrics, against, features, settings, progress)
        differences = self._set_differences(extractor, against, generated)
        self._ended("scores", began)
        return list(scored.scores), differences, scored.curve

    def against(self, extractor: Extractor) -> Against:
        """Returns the reference: statistics from their file, else of the pictures; rows where a metric needs them."""
        statistics, source = self.inputs.statistics, self.inputs.real
        needed = any(METRICS[name].needs == "reference pictures" for name in self.inputs.metrics)
        if statistics is not None and (source is None or not needed):
            self._about_real = self._about_statistics(statistics)
            return Against(stats=statistics, rows=statistics.features)
        assert source is not None
        wants_radii = {"precision", "recall"} & set(self.inputs.metrics)
        began = time.perf_counter()
        found = reference_of(
            source,
            extractor,
            purpose=self.request.purpose,
            cache_folder=self.folder,
            cache=self.cache,
            tile=(lambda count: tile_size(count, len(self.inputs.fake))) if wants_radii else None,
            split=self.request.split,
            batch_size=self.request.batch_size,
            progress=self.reporter.step("real"),
        )
        self._ended("real", began, cached=found.cached)
        self.num_computed["real"] = found.num_computed
        reference = found.reference
        if statistics is not None:
            # ADM's file: mu and sigma are of the whole training set, its pictures serve precision, recall and KID.
            self._about_real = {**self._about_statistics(statistics), "pictures": reference.n}
            radii = {"radii_k3": reference.radii_k3, "radii_tile": reference.radii_tile}
            return Against(stats=replace(statistics, **radii), rows=reference.features)
        self.warnings += [f"reference: {note}" for note in reference.notes]
        self.warnings += check_match(reference, extractor.info)
        self._about_real = {
            **self._about(source), "n": reference.n, "split": reference.split, "pixels_sha256": reference.source_sha256,
        }  # fmt: skip
        if self.request.save_reference is not None:
            write_reference(self.request.save_reference, reference)
        return Against(stats=reference, rows=reference.features)

    def collected(self, step: str, source: ImageSource, extractor: Extractor) -> Collected:
        """Returns the features of a set of generated pictures."""
        info, metrics, request = extractor.info, set(self.inputs.metrics), self.request
        rows_wanted = request.intervals or self.inputs.versus is not None
        keep = {info.pool} if rows_wanted or metrics - {"fid", "sfid", "is"} else set()
        stream = {info.pool}
        if "sfid" in metrics and info.spatial is not None:
            (keep if rows_wanted else stream).add(info.spatial)
        if "is" in metrics and info.logits is not None:
            keep.add(info.logits)
        began = time.perf_counter()
        found = collect(
            source,
            extractor,
            keep=keep,
            stream=stream,
            folder=self.folder / "scratch",
            cache=self.cache,
            batch_size=request.batch_size,
            progress=self.reporter.step(step),
        )
        self._ended(step, began)
        self.num_computed[step] = found.num_computed
        if step == "fake" and request.expect is not None:
            source.report.check_count(request.expect)
        self.warnings += [f"{step}: {warning}" for warning in source.report.warnings()]
        if found.features.count < 2 and metrics & {"fid", "sfid", "fid-infinity"}:
            raise DataError(
                "a covariance needs at least 2 pictures, got 1", where=str(source.path), fix="name a source with more"
            )
        return found

    def _labels(self, generated: Collected) -> np.ndarray | None:
        labels = self.inputs.fake.labels
        return labels if labels is not None and len(labels) == generated.features.count else None

    def _size_warnings(self, against: Against, count: int, dim: int) -> list[str]:
        found: list[str] = []
        if count <= dim:
            found.append(
                f"{count} generated pictures at {dim} dimensions: the covariance is singular and the distance far too "
                "large; compare it with nothing but sets of the same number"
            )
        if self.inputs.statistics is None and against.stats.n != count:
            found.append(
                f"{against.stats.n} reference pictures and {count} generated ones: distances fall with either number, "
                "so compare only scores of the same numbers"
            )
        return found

    def _set_differences(self, extractor: Extractor, against: Against, generated: Collected) -> list[Difference]:
        source = self.inputs.versus
        if source is None:
            return []
        other = self.collected("versus", source, extractor)
        info, stats = extractor.info, against.stats
        layers: list[tuple[str, str, Gaussian]] = []
        if "fid" in self.inputs.metrics:
            layers.append(("fid", info.pool, stats.pool))
        if "sfid" in self.inputs.metrics and info.spatial is not None and stats.spatial is not None:
            layers.append(("sfid", info.spatial, stats.spatial))
        found: list[Difference] = []
        for metric, layer, gaussian in layers:
            first, second = generated.features.rows[layer], other.features.rows[layer]
            gap = paired_frechet_difference(
                first,
                second,
                gaussian.mu,
                gaussian.sigma,
                stats.n,
                num_blocks=max(2, min(NUM_BLOCKS, len(first) // 2)),
                seed=self.request.seed,
                device=extractor.device,
            )
            found.append(Difference(metric=metric, name=spec_of(metric, info).name, found=gap))
        return found

    # --- pairs -----------------------------------------------------------------------------------------------------

    def _pairs(self) -> tuple[PairScores, list[Difference]]:
        inputs, request = self.inputs, self.request
        assert inputs.real is not None
        began = time.perf_counter()
        found = self._score_pairs("pairs", inputs.fake)
        self._about_real = self._about(inputs.real)
        gaps: list[Difference] = []
        if inputs.versus is not None:
            other = self._score_pairs("pairs of versus", inputs.versus)
            for metric, values in found.values.items():
                gap = paired_mean_difference(values, other.values[metric], label=metric, seed=request.seed)
                gaps.append(Difference(metric=metric, name=inputs.measures[metric].name, found=gap))
        self.timings_s["pairs"] = time.perf_counter() - began
        return found, gaps

    def _score_pairs(self, step: str, source: ImageSource) -> PairScores:
        assert self.inputs.real is not None
        began = time.perf_counter()
        found = score_pairs(
            self.inputs.real,
            source,
            self.inputs.measures,
            intervals=self.request.intervals,
            seed=self.request.seed,
            progress=self.reporter.step(step),
        )
        self.reporter.ended(step, cached=False, seconds=time.perf_counter() - began)
        return found

    # --- about -----------------------------------------------------------------------------------------------------

    def _ended(self, step: str, began: float, *, cached: bool = False) -> None:
        self.timings_s[step] = time.perf_counter() - began
        self.reporter.ended(step, cached=cached, seconds=self.timings_s[step])

    def _about(self, source: ImageSource) -> dict[str, Any]:
        report = source.report
        about: dict[str, Any] = {
            "path": str(source.path),
            "kind": source.kind,
            "n": report.count or len(source),
            "crop": None if source.crop_px is None else f"ADM centre {source.crop_px}",
        }
        if report.count:
            about |= {
                "size_px": None if report.size is None else list(report.size),
                "num_distinct": report.num_distinct,
                "pixels_sha256": report.pixels_sha256,
                "left_out": [str(entry) for entry in report.bad],
            }
        return about

    def _about_statistics(self, statistics: Reference) -> dict[str, Any]:
        return {"path": str(self.request.real), "kind": "statistics", **statistics.describe}

    def _about_extractor(self) -> dict[str, Any] | None:
        extractor = self.inputs.extractor
        if extractor is None:
            return None
        info = extractor.info
        names = (
            "name", "network", "trained", "weights_sha256", "resize", "quantisation", "normalisation", "size_px",
            "pool", "spatial", "logits", "precision", "value_change",
        )  # fmt: skip
        return {name: getattr(info, name) for name in names} | {"layers": dict(info.layers)}

    def _provenance(self, started: str) -> dict[str, Any]:
        state = git_state()
        computed = sum(self.num_computed.values())
        seconds = sum(self.timings_s.get(step, 0.0) for step, count in self.num_computed.items() if count)
        return {
            "ovbench": __version__,
            "git_commit": state.commit,
            "git_dirty": state.dirty,
            "packages": package_versions(_PACKAGES),
            "started": started,
            "device": self.request.device,
            "cpu": cpu_model(),
            "threads": torch.get_num_threads(),
            "num_computed": dict(self.num_computed),
            "images_per_s": round(computed / seconds, 2) if computed and seconds else None,
            "peak_rss_bytes": peak_rss_bytes(),
        }
