"""From features to scores: every metric of a set of generated pictures, with its interval and whose way it was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ovbench.harness.metrics.against import Against, Statistics, of_generated
from ovbench.harness.metrics.base import Interval, MetricSpec, ScoredMetric, undefined
from ovbench.harness.metrics.cmmd import SCALE, SIGMA, embeddings
from ovbench.harness.metrics.conventions import METRICS, Mode
from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.feature_sets import FeatureSet
from ovbench.harness.metrics.fid_infinity import FrechetCurve, curve_against
from ovbench.harness.metrics.frechet import frechet_between
from ovbench.harness.metrics.inception_score import adm_splits, is_adm, is_tf, score_without_blocks, tf_splits
from ovbench.harness.metrics.interval import no_interval, wilson_interval
from ovbench.harness.metrics.jackknife import (
    NUM_BLOCKS,
    PairedDifference,
    block_rows,
    jackknife_against,
    jackknife_interval,
)
from ovbench.harness.metrics.kid import (
    Kernel,
    gaussian_kernel,
    kid_full,
    kid_subsets,
    mmd2_without_blocks,
    polynomial_kernel,
)
from ovbench.harness.metrics.manifold import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
    tile_size,
)
from ovbench.harness.metrics.moments import Features
from ovbench.results.quantile import t_quantile

PRECISION_K, DENSITY_K = 3, 5
_SWITCHED_OFF = "switched off"


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureScore:
    """A score of a set of pictures."""

    metric: str  # key of METRICS
    score: ScoredMetric
    num_reference: int | None  # pictures of the reference that it was computed from; None: not known, or none
    how: str  # whose convention, and with which settings
    details: Mapping[str, float | int | str] = field(default_factory=dict)  # of the computation: bias, spread, method …
    warnings: tuple[str, ...] = ()
    without_block: np.ndarray | None = field(default=None, repr=False)  # the values of its jackknife, [blocks]


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How scores are computed, beside the features."""

    mode: Mode
    intervals: bool = True
    seed: int = 0  # of blocks, subsets and draws that no convention fixes
    labels: np.ndarray | None = None  # of the generated pictures, in order
    kid_subset_size: int = 1000
    crop_px: int | None = None  # ADM's centre square that was cut from the pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Scored:
    """All scores of a set, and the curve behind FID-infinity where it was asked for."""

    scores: tuple[PictureScore, ...]
    curve: FrechetCurve | None


def spec_of(metric: str, info: ExtractorInfo | None) -> MetricSpec:
    """Returns name, unit and direction of a metric under an extractor: `FID`, or `FD-<network>`.

    Args:
        metric: Key of METRICS.
        info: Of the extractor; None for scores of pairs of pictures.
    """
    about = METRICS[metric]
    name = about.title if info is None else info.metric_name(about.title)
    return MetricSpec(
        name=name, title=name, unit=about.unit, higher_is_better=about.higher_is_better, citation=about.citation
    )


def paired_score_difference(first: PictureScore, second: PictureScore) -> PairedDifference | None:
    """Returns the first generator's score minus the second's; None where one of them is missing.

    Where both have a jackknife, the same blocks of seeds are left out of both, so that what they share cancels. Other
    scores have a difference and no interval.
    """
    if first.score.value is None or second.score.value is None:
        return None
    gap = first.score.value - second.score.value
    if first.without_block is None or second.without_block is None:
        return PairedDifference(value=gap, error=None, interval=no_interval("this score has no paired jackknife"))
    interval = jackknife_interval(gap, first.without_block - second.without_block, "the paired difference")
    return PairedDifference(value=gap, error=None, interval=interval)


def score_sets(
    metrics: Sequence[str],
    against: Against,
    generated: FeatureSet,
    settings: Settings,
    progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Scores generated pictures against a reference.

    Args:
        metrics: Keys of METRICS, none of pairs.
        against: The reference; its rows must be there for the metrics that need pictures.
        generated: Features of the generated pictures.
        settings: Conventions, intervals and seed.
        progress: Called with scores done and scores in all.

    Raises:
        DataError: Features that cannot be scored, e.g. of fewer than two pictures.
    """
    work = _Work(against, generated, settings)
    scores: list[PictureScore] = []
    for done, metric in enumerate(metrics):
        scores.append(work.score(metric))
        if progress is not None:
            progress(done + 1, len(metrics))
    return Scored(scores=tuple(scores), curve=work.curve)


class _Work:
    """What several metrics of one comparison share."""

    def __init__(self, against: Against, generated: FeatureSet, settings: Settings) -> None:
        self.against, self.generated, self.settings = against, generated, settings
        self.info, self.device = generated.info, str(generated.device)
        self.curve: FrechetCurve | None = None
        self._manifold: PrecisionRecall | None = None
        self._balls: DensityCoverage | None = None

    def score(self, metric: str) -> PictureScore:
        match metric:
            case "fid":
                return self._distance(metric, self.info.pool, self.against.pool)
            case "sfid":
                layer = self.info.spatial
                assert layer is not None, "check_network refuses sFID here"
                if self.against.spatial is None:
                    return self._undefined(metric, "the reference holds no spatial statistics (mu_s, sigma_s)")
                return self._distance(metric, layer, self.against.spatial)
            case "fid-infinity":
                return self._infinity()
            case "is":
                return self._inception_score()
            case "kid" | "cmmd" | "precision" | "recall" | "density" | "coverage" if self.against.rows is None:
                return self._undefined(metric, "the reference holds statistics and no pictures")
            case "kid":
                return self._kid()
            case "cmmd":
                return self._cmmd()
            case "precision" | "recall":
                return self._fraction(metric)
            case "density" | "coverage":
                return self._prdc(metric)
            case _:
                raise AssertionError(f"{metric} is no score of two sets")

    def _made(
        self,
        metric: str,
        value: float,
        interval: Interval,
        how: str,
        *,
        num_reference: int | None,
        details: Mapping[str, float | int | str] | None = None,
        warnings: Sequence[str] = (),
        without_block: np.ndarray | None = None,
    ) -> PictureScore:
        score = ScoredMetric(
            spec=spec_of(metric, self.info), group=None, value=value, n=self.generated.count, interval=interval
        )
        network = "" if self.settings.crop_px is None else f"crop {self.settings.crop_px}, "
        network += f"resize {self.info.resize}" + ("" if self.info.trained else ", UNTRAINED network")
        return PictureScore(
            metric=metric,
            score=score,
            num_reference=num_reference,
            how=f"{network}; {how}",
            details=details or {},
            warnings=tuple(warnings),
            without_block=without_block,
        )

    def _undefined(self, metric: str, reason: str) -> PictureScore:
        score = undefined(spec_of(metric, self.info), None, self.generated.count, reason)
        return PictureScore(metric=metric, score=score, num_reference=None, how="not scored")

    def _blocks(self) -> int:
        return min(NUM_BLOCKS, self.generated.count // 2)

    def _no_interval(self) -> Interval | None:
        """Returns the missing interval of a jackknife that cannot be made, with the reason."""
        if not self.settings.intervals:
            return no_interval(_SWITCHED_OFF)
        if self._blocks() < 2:
            return no_interval(f"a jackknife needs at least 4 pictures, got {self.generated.count}")
        return None

    def _distance(self, metric: str, layer: str, reference: Statistics) -> PictureScore:
        rows = self.generated.rows.get(layer)
        own = of_generated(self.generated, layer)
        found = frechet_between(reference, own)
        interval, note, without = self._no_interval(), "", None
        details: dict[str, float | int | str] = {"mean_term": found.mean_term, "solver": found.solver}
        if interval is None and rows is None:
            interval = no_interval("the rows of this layer were not kept")
        if interval is None:
            assert rows is not None
            knife = jackknife_against(
                rows, reference, own=own, num_blocks=self._blocks(), seed=self.settings.seed, device=self.device
            )
            without = np.array(knife.without_block)
            interval = jackknife_interval(found.value, without, "the distance")
            details |= {
                "bias": knife.bias,
                "corrected": found.value - knife.bias,
                "num_blocks": knife.num_blocks,
                "jackknife": knife.method,
            }
            note = f"; about {knife.bias:.3g} of it comes from the {self.generated.count} pictures being so few"
        warnings = [f"{metric}: the distance is {found.value:.3g}, below 0"] if "negative" in found.flags else []
        how = f"layer {layer}, solver {found.solver}{note}"
        return self._made(
            metric, found.value, interval, how, num_reference=found.n1, details=details, warnings=warnings,
            without_block=without,
        )  # fmt: skip

    def _infinity(self) -> PictureScore:
        count = self.generated.count
        if count < 4:
            return self._undefined("fid-infinity", f"a line through sizes needs at least 4 pictures, got {count}")
        rows = self.generated.rows[self.info.pool]
        self.curve = curve = curve_against(self.against.pool, rows, seed=self.settings.seed, device=self.device)
        sizes = curve.sizes
        how = f"line in 1/n through {len(sizes)} sizes from {sizes[0]} to {sizes[-1]}, seed {curve.seed}"
        interval = no_interval("the scatter about the line is not the error of its end")
        return self._made(
            "fid-infinity", curve.infinity, interval, how, num_reference=self.against.stats.n,
            details={"slope": curve.slope, "num_sizes": len(sizes)},
        )  # fmt: skip

    def _inception_score(self) -> PictureScore:
        layer = self.info.logits
        assert layer is not None, "check_network refuses the inception score here"
        logits, count = self.generated.rows[layer], self.generated.count
        if self.settings.mode.inception_score == "adm":
            found = is_adm(logits, labels=self.settings.labels, device=self.device)
            splits, how = adm_splits(count), f"ADM: {found.num_splits} blocks of up to 5000 in file order"
        elif count < 10:
            return self._undefined("is", f"ten splits need at least 10 pictures, got {count}")
        else:
            found = is_tf(logits, device=self.device)
            splits, how = tf_splits(count), f"torch-fidelity: 10 shuffled splits, their spread {found.std:.3g}"
        interval, without = self._no_interval(), None
        if interval is None:
            blocks = block_rows(count, self._blocks(), self.settings.seed)
            without = score_without_blocks(logits, splits, blocks, device=self.device)
            interval = jackknife_interval(found.mean, without, "the score")
        details: dict[str, float | int | str] = {"num_splits": found.num_splits}
        if found.std is not None:
            details["std_over_splits"] = found.std
        return self._made(
            "is", found.mean, interval, how, num_reference=None, details=details, warnings=found.warnings,
            without_block=without,
        )  # fmt: skip

    def _mmd(
        self, kernel: Kernel, reference: Features, own: Features, *, scale: float = 1.0, biased: bool = False
    ) -> tuple[float, np.ndarray | None]:
        """Returns the estimate over all pictures, and its values without each block where an interval is wanted."""
        if self._no_interval() is not None:
            return scale * kid_full(reference, own, kernel=kernel, biased=biased, device=self.device), None
        blocks = block_rows(len(own), self._blocks(), self.settings.seed)
        value, without = mmd2_without_blocks(reference, own, blocks, kernel=kernel, biased=biased, device=self.device)
        return scale * value, scale * without

    def _mmd_interval(self, value: float, without: np.ndarray | None, *, spread: float = 0.0) -> Interval:
        """Returns the interval of an estimate; `spread` is the standard error that drawing subsets adds."""
        if without is None:
            interval = self._no_interval()
            assert interval is not None, "values without blocks are missing for a reason"
            return interval
        what = "the estimate over all pictures, the reference as it is"
        return jackknife_interval(value, without, what, extra=spread, of="the draw of subsets")

    def _kid(self) -> PictureScore:
        reference, own = self.against.rows, self.generated.rows[self.info.pool]
        assert reference is not None
        smallest, size = min(len(reference), len(own)), self.settings.kid_subset_size
        if smallest < 2:
            return self._undefined("kid", "an unbiased estimate needs at least 2 pictures on each side")
        convention = self.settings.mode.kid
        if convention == "torch-fidelity" and smallest < size:
            return self._undefined("kid", f"a subset of {size} is larger than a set of {smallest}: --kid-subset-size")
        value, without = self._mmd(polynomial_kernel, reference, own)
        if convention == "full":
            interval = self._mmd_interval(value, without)
            how = "all pictures, unbiased, cubic kernel in float64"
            return self._made("kid", value, interval, how, num_reference=len(reference), without_block=without)
        # torch-fidelity calls the generated pictures its first input, clean-fid its second.
        pair = (own, reference) if convention == "torch-fidelity" else (reference, own)
        found = kid_subsets(*pair, convention=convention, subset_size=size, device=self.device)
        interval = self._mmd_interval(found.mean, without, spread=found.std / found.num_subsets**0.5)
        how = f"{convention}: mean of {found.num_subsets} subsets of {found.subset_size}, seed {found.seed}"
        details = {"std_over_subsets": found.std, "all_pictures": value}
        return self._made("kid", found.mean, interval, how, num_reference=len(reference), details=details)

    def _cmmd(self) -> PictureScore:
        assert self.against.rows is not None
        reference = embeddings(self.against.rows, "reference", self.device)
        own = embeddings(self.generated.rows[self.info.pool], "generated", self.device)
        value, without = self._mmd(gaussian_kernel(SIGMA), reference, own, scale=SCALE, biased=True)
        how = "biased, Gaussian kernel of width 10 on rows of length 1, times 1000"
        interval = self._mmd_interval(value, without)
        return self._made("cmmd", value, interval, how, num_reference=len(reference), without_block=without)

    def _few_for(self, metric: str, k: int) -> PictureScore | None:
        assert self.against.rows is not None
        smallest = min(len(self.against.rows), self.generated.count)
        if smallest <= k:
            return self._undefined(
                metric, f"{k} neighbours need at least {k + 1} pictures on each side, got {smallest}"
            )
        return None

    def _fraction(self, metric: str) -> PictureScore:
        if (few := self._few_for(metric, PRECISION_K)) is not None:
            return few
        reference, own = self.against.rows, self.generated.rows[self.info.pool]
        assert reference is not None
        if self._manifold is None:
            stats = self.against.stats
            reusable = stats.radii_k3 is not None and stats.radii_tile == tile_size(len(reference), len(own))
            self._manifold = precision_recall(
                reference,
                own,
                k=PRECISION_K,
                device=self.device,
                reference_radii=stats.radii_k3 if reusable else None,
            )
        found = self._manifold
        if metric == "precision":
            value, interval = found.precision, self._wilson(found.precision, len(own), "the reference")
        else:
            value, interval = found.recall, self._wilson(found.recall, len(reference), "the generated set")
        how = f"k = {found.k}, a point on the surface is inside, distances in {found.distance_dtype}"
        return self._made(metric, value, interval, how, num_reference=len(reference))

    def _prdc(self, metric: str) -> PictureScore:
        if (few := self._few_for(metric, DENSITY_K)) is not None:
            return few
        reference, own = self.against.rows, self.generated.rows[self.info.pool]
        assert reference is not None
        if self._balls is None:
            self._balls = density_coverage(reference, own, k=DENSITY_K, device=self.device)
        found = self._balls
        how = f"k = {found.k}, prdc: a point on the surface is outside"
        if metric == "coverage":
            value, interval = found.coverage, self._wilson(found.coverage, len(reference), "the generated set")
        else:
            half = t_quantile(len(own) - 1) * found.density_error
            value, method = found.density, f"t with {len(own) - 1} degrees of freedom, given the reference"
            interval = Interval(low=max(0.0, value - half), high=value + half, method=method)
            if not self.settings.intervals:
                interval = no_interval(_SWITCHED_OFF)
        return self._made(metric, value, interval, how, num_reference=len(reference))

    def _wilson(self, fraction: float, n: int, given: str) -> Interval:
        return wilson_interval(fraction, n, given=given) if self.settings.intervals else no_interval(_SWITCHED_OFF)
