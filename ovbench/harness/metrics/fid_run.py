"""Runs a comparison whose inputs were opened: features, scores, differences, report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import cache_dir, feature_cache_bytes
from ovbench.harness.events import Listener, Reporter, ignore
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.against import Against
from ovbench.harness.metrics.collect import Collected, Progress, collect
from ovbench.harness.metrics.conventions import METRICS
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.fid_audit import Audit, AuditData, OtherReference, run_audit
from ovbench.harness.metrics.fid_infinity import FrechetCurve
from ovbench.harness.metrics.fid_report import Difference, FidReport, about_extractor, provenance
from ovbench.harness.metrics.fid_request import FidInputs, FidRequest, open_inputs, open_reference, open_source
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.jackknife import paired_mean_difference
from ovbench.harness.metrics.manifold import tile_size
from ovbench.harness.metrics.pair_scores import PairScores, check_pairing, score_pairs
from ovbench.harness.metrics.picture_scores import PictureScore, Settings, paired_score_difference, score_sets
from ovbench.harness.metrics.reference_cache import FoundReference, reference_of
from ovbench.harness.metrics.reference_checks import check_match
from ovbench.harness.metrics.references import Purpose, Reference, write_reference
from ovbench.results.provenance import utc

JOB = "fid"


def run_fid(request: FidRequest, listener: Listener = ignore) -> FidReport:
    """Scores the pictures of one source against those, or the statistics, of another.

    Args:
        request: What to score, and how.
        listener: Hears how far the work is.

    Raises:
        OvbenchError: Anything that a user can mend; what had been computed until then is in the feature cache.
    """
    return open_run(request, listener).report()


def open_run(request: FidRequest, listener: Listener = ignore) -> FidRun:
    """Opens and checks everything that a comparison needs.

    Raises:
        OvbenchError: Anything that a user can mend.
    """
    return FidRun(open_inputs(request), listener)


def headline(run: FidRun) -> str:
    """Returns the line that says which pictures, network and conventions are used."""
    inputs, request = run.inputs, run.request
    words = [f"fid · {request.fake.name} ({len(inputs.fake)}) against {request.real.name}"]
    if inputs.real is not None:
        words[0] += f" ({len(inputs.real)})"
    if inputs.extractor is not None:
        info = inputs.extractor.info
        crop = "" if request.crop_px is None else f"crop {request.crop_px}, "
        words += [
            f"mode {request.mode}",
            f"{info.network}, {crop}resize {info.resize}",
            f"weights {info.weights_sha256[:8]}",
        ]
    return " · ".join([*words, ", ".join(inputs.asked)])


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
        self._about_real: dict[str, Any] = {}
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
        audit = self._audit() if self.request.audit is not None else None
        order = {name: place for place, name in enumerate(self.inputs.asked)}
        scores.sort(key=lambda entry: order.get(entry.metric, len(order)))
        for entry in scores:
            self.warnings += entry.warnings
        self.timings_s["total"] = time.perf_counter() - began
        return FidReport(
            scores=tuple(scores),
            differences=tuple(differences),
            curve=curve,
            audit=audit,
            warnings=tuple(dict.fromkeys(self.warnings)),
            mode=self.request.mode,
            real=self._about_real,
            fake=self._about(self.inputs.fake),
            versus=None if self.inputs.versus is None else self._about(self.inputs.versus),
            extractor=None if self.inputs.extractor is None else about_extractor(self.inputs.extractor.info),
            settings={
                **{name: _plain(value) for name, value in asdict(self.request).items()},
                "quantise": "stored: the pictures are 8-bit files",
                "measures": {name: dict(measure.about) for name, measure in self.inputs.measures.items()},
            },
            timings_s={name: round(value, 3) for name, value in self.timings_s.items()},
            provenance=provenance(self.request.device, started, self.num_computed, self.timings_s),
        )

    # --- sets ------------------------------------------------------------------------------------------------------

    def _sets(self, extractor: Extractor) -> tuple[list[PictureScore], list[Difference], FrechetCurve | None]:
        against = self.against(extractor)
        generated = self.collected("fake", self.inputs.fake, extractor)
        features = generated.features
        self.warnings += self._size_warnings(against, features.count, extractor.info.dim)
        settings = Settings(
            mode=self.inputs.mode,
            intervals=self.request.intervals,
            seed=self.request.seed,
            labels=self._labels(generated),
            kid_subset_size=self.request.kid_subset_size,
            crop_px=self.request.crop_px,
        )
        began = time.perf_counter()
        progress = self.reporter.step("scores")
        scored = score_sets(self.inputs.metrics, against, features, settings, progress)
        self._ended("scores", began)
        differences = self._set_differences(extractor, against, generated, scored.scores, settings)
        return list(scored.scores), differences, scored.curve

    def against(self, extractor: Extractor) -> Against:
        """Returns the reference: statistics from their file, else of the pictures; rows where a metric needs them."""
        statistics, source = self.inputs.statistics, self.inputs.real
        needed = any(METRICS[name].needs == "reference pictures" for name in self.inputs.metrics)
        if statistics is not None and (source is None or not needed):
            self._about_real = self._about_statistics(statistics)
            return Against.of(statistics, statistics.features, extractor.device)
        assert source is not None
        wants_radii = {"precision", "recall"} & set(self.inputs.metrics)
        began = time.perf_counter()
        found = self._made_reference(source, extractor, radii=bool(wants_radii), progress=self.reporter.step("real"))
        self._ended("real", began, cached=found.cached)
        self.num_computed["real"] = found.num_computed
        reference = found.reference
        self.warnings += [f"reference: {note}" for note in reference.notes]
        if statistics is not None:
            # ADM's file: mu and sigma are of the whole training set, its pictures serve precision, recall and KID.
            self._about_real = {**self._about_statistics(statistics), "pictures": reference.n}
            radii = {"radii_k3": reference.radii_k3, "radii_tile": reference.radii_tile}
            return Against.of(replace(statistics, **radii), reference.features, extractor.device)
        self.warnings += check_match(reference, extractor.info)
        self._about_real = {
            **self._about(source), "n": reference.n, "split": reference.split, "pixels_sha256": reference.source_sha256,
            "size_px": None if reference.size_px is None else list(reference.size_px),
            "num_distinct": reference.num_distinct, "left_out": list(reference.left_out),
        }  # fmt: skip
        if self.request.save_reference is not None:
            write_reference(self.request.save_reference, reference)
        return Against.of(reference, reference.features, extractor.device)

    def _made_reference(
        self, source: ImageSource, extractor: Extractor, *, radii: bool = False, progress: Progress | None = None
    ) -> FoundReference:
        return reference_of(
            source,
            extractor,
            purpose=cast(Purpose, self.request.purpose),
            cache_folder=self.folder,
            cache=self.cache,
            tile=(lambda count: tile_size(count, len(self.inputs.fake))) if radii else None,
            split=self.request.split,
            batch_size=self.request.batch_size,
            progress=progress,
        )

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
        self._check_expected(source)
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
        if count <= dim and {"fid", "sfid", "fid-infinity"} & set(self.inputs.metrics):
            found.append(
                f"{count} generated pictures at {dim} dimensions: the covariance is singular and the distance far too "
                "large; compare it with nothing but sets of the same number"
            )
        # ADM's statistics are of the whole training set on purpose; that their number differs says nothing.
        if against.stats.n not in (None, count) and against.stats.layout != "adm":
            found.append(
                f"{against.stats.n} reference pictures and {count} generated ones: distances fall with either number, "
                "so compare only scores of the same numbers"
            )
        return found

    def _set_differences(
        self,
        extractor: Extractor,
        against: Against,
        generated: Collected,
        scores: Sequence[PictureScore],
        settings: Settings,
    ) -> list[Difference]:
        """Returns every score minus the other generator's; what both jackknives share cancels."""
        source = self.inputs.versus
        if source is None:
            return []
        other = self.collected("versus", source, extractor)
        self.warnings += check_pairing(generated.keys, other.keys, f"{self.inputs.fake.path}, {source.path}")
        began = time.perf_counter()
        rivals = score_sets(
            self.inputs.metrics, against, other.features, replace(settings, labels=None), self.reporter.step("rival")
        )
        self._ended("rival", began)
        found: list[Difference] = []
        for first, second in zip(scores, rivals.scores, strict=True):
            gap = paired_score_difference(first, second)
            if gap is not None:
                found.append(Difference(metric=first.metric, name=first.score.spec.name, found=gap))
        return found

    # --- pairs -----------------------------------------------------------------------------------------------------

    def _pairs(self) -> tuple[PairScores, list[Difference]]:
        inputs, request = self.inputs, self.request
        assert inputs.real is not None
        began = time.perf_counter()
        found = self._score_pairs("pairs", inputs.fake)
        self._about_real = self._about_real or self._about(inputs.real)
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
        if self.inputs.extractor is None:  # else the pass over its features has said it
            for name, read in (("reference", self.inputs.real), ("fake" if step == "pairs" else "versus", source)):
                self.warnings += [f"{name}: {warning}" for warning in read.report.warnings()]
            self._check_expected(source)
        return found

    def _check_expected(self, source: ImageSource) -> None:
        if source is self.inputs.fake and self.request.expect is not None:
            source.report.check_count(self.request.expect)

    # --- audit -----------------------------------------------------------------------------------------------------

    def _audit(self) -> Audit:
        inputs, asked = self.inputs, self.request.audit
        assert asked is not None
        assert inputs.extractor is not None, "open_inputs refuses an audit without a network"
        extractor = inputs.extractor
        fake, real = (
            None if source is None else self._few(source, asked.limit) for source in (inputs.fake, inputs.real)
        )
        assert fake is not None
        data = AuditData(
            extractor=extractor,
            weights=self.request.weights,
            fake=lambda other: self._pool_rows(fake, other),
            real=None if real is None or inputs.statistics is not None else lambda other: self._pool_rows(real, other),
            stats=inputs.statistics,
            others={
                str(path): lambda path=path: self._other_reference(path, extractor) for path in asked.references
            },
            seed=self.request.seed,
        )  # fmt: skip
        began = time.perf_counter()
        found = run_audit(data, self.reporter.step("audit"))
        self._ended("audit", began)
        return found

    def _few(self, source: ImageSource, limit: int | None) -> ImageSource:
        return source if limit is None or limit >= len(source) else open_source(self.request, source.path, limit=limit)

    def _pool_rows(self, source: ImageSource, extractor: Extractor) -> np.ndarray:
        info, scratch = extractor.info, self.folder / "scratch"
        found = collect(
            source, extractor, keep={info.pool}, folder=scratch, cache=self.cache, batch_size=self.request.batch_size
        )
        return found.features.rows[info.pool]

    def _other_reference(self, path: Path, extractor: Extractor) -> OtherReference:
        statistics, source = open_reference(self.request, path)
        if statistics is not None:
            try:
                notes = check_match(statistics, extractor.info)
            except ConfigError as error:  # said beside its number: what a wrong reference is worth is what is asked
                notes = [error.what]
            return OtherReference(stats=statistics.pool, n=statistics.n, note="; ".join(notes))
        assert source is not None
        found = self._made_reference(source, extractor)
        return OtherReference(stats=found.reference.pool, n=found.reference.n, note="")

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
            "crop": None if source.crop_px is None else source.crop,
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


def _plain(value: Any) -> Any:
    """Returns a setting as JSON takes it."""
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
