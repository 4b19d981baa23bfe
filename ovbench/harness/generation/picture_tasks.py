"""Features and pairs → the scores of a picture task, in the words of a record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import cache_dir, feature_cache_bytes
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.against import Against
from ovbench.harness.metrics.base import Interval, MetricSpec, ScoredMetric
from ovbench.harness.metrics.conventions import check_network, mode_of
from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo
from ovbench.harness.metrics.feature_sets import FeatureSet
from ovbench.harness.metrics.fid_request import FidRequest, open_reference
from ovbench.harness.metrics.interval import wilson_interval
from ovbench.harness.metrics.jackknife import image_mean_interval
from ovbench.harness.metrics.manifold import tile_size
from ovbench.harness.metrics.picture_scores import Settings, score_sets, spec_of
from ovbench.harness.metrics.reference_cache import reference_of
from ovbench.harness.metrics.reference_checks import check_match, check_purpose
from ovbench.harness.metrics.references import Reference
from ovbench.tasks.pictures import READ_BACK, PictureTask

PAIR_NAMES: Mapping[str, str] = {
    "psnr": "per picture in dB, then the mean; an identical pair counts 100 dB",
    "ssim": "11x11 Gaussian window, float64, mean over pictures",
    "lpips": "VGG16, 2018 heads, mean over pictures",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskScore:
    """A score of a task, and how it was made."""

    metric: str  # name as in `ovbench fid --metrics`
    score: ScoredMetric
    how: str

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values; `from_dict` reads them."""
        return {"metric": self.metric, "how": self.how, "score": asdict(self.score)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> TaskScore:
        """Reads what `to_dict` gave.

        Raises:
            DataError: It is something else.
        """
        try:
            score = dict(document["score"])
            score["spec"] = MetricSpec(**score["spec"])
            score["interval"] = Interval(**score["interval"])
            return cls(metric=document["metric"], how=document["how"], score=ScoredMetric(**score))
        except (KeyError, TypeError) as error:
            raise DataError(f"stored scores cannot be read: {error}", where="scores") from error


def check_task(task: PictureTask, info: ExtractorInfo) -> None:
    """Refuses metrics that a task's network cannot give, before anything is trained.

    Raises:
        ConfigError: One of them cannot.
    """
    check_network(task.set_metrics, info.name, spatial=info.spatial is not None, logits=info.logits is not None)
    if READ_BACK in task.metrics and "logits" not in info.layers:
        raise ConfigError(
            f"'{info.name}' does not know the classes of the samples", where=f"task '{task.name}', metrics"
        )


def layers_of(task: PictureTask, info: ExtractorInfo) -> tuple[str, ...]:
    """Returns the layers of features that a task's metrics need."""
    layers = {info.pool: None}
    if "sfid" in task.metrics and info.spatial is not None:
        layers[info.spatial] = None
    if "is" in task.metrics and info.logits is not None:
        layers[info.logits] = None
    if READ_BACK in task.metrics:
        layers["logits"] = None
    return tuple(layers)


def few_pictures(
    task: PictureTask, info: ExtractorInfo, count: int, *, expected: int | None = None, num_compared: int | None = None
) -> list[str]:
    """Returns what has to be said where a task's distances are of too few pictures.

    Args:
        task: What is scored.
        info: Of its network.
        count: Pictures that are scored.
        expected: As many as the protocol asks for; None: all that there are.
        num_compared: Pictures that they are compared with; None: as many, or statistics.
    """
    found: list[str] = []
    if expected is not None and count < expected:
        found.append(
            f"{task.name}: {count:,} samples, and the protocol asks for {expected:,}: distances of few samples are "
            "larger, so compare them with those of as many alone"
        )
    frechet = any(name in ("fid", "sfid", "fid-infinity") for name in task.set_metrics)
    fewest = count if num_compared is None else min(count, num_compared)
    if frechet and fewest <= info.dim:
        found.append(
            f"{task.name}: {fewest:,} pictures are no more than the {info.dim:,} dimensions of the features: their "
            "covariance has no full rank, and a Fréchet distance says little"
        )
    return found


def headline_of(task: PictureTask, info: ExtractorInfo) -> str:
    """Returns the name under which the headline stands in records, e.g. `FD-wardrobe`."""
    return spec_of(task.headline, None if task.headline in task.pair_metrics else info).name


def against_pictures(name: str, features: FeatureSet, *, purpose: str, extractor: Extractor) -> Against:
    """Returns pictures whose features are at hand as what others are compared with."""
    info = features.info
    spatial = info.spatial if info.spatial in features.rows else None
    stats = Reference(
        name=name,
        pool=features.gaussian(info.pool),
        spatial=None if spatial is None else features.gaussian(spatial),
        n=features.count,
        purpose=cast(Any, purpose),
        network=info.network,
        weights_sha256=info.weights_sha256,
        resize=info.resize,
        features=features.rows[info.pool],
    )
    return Against.of(stats, features.rows[info.pool], extractor.device)


def open_adm(path: Path) -> Reference:
    """Returns the statistics of ADM's reference file, read and checked.

    Raises:
        DataError: It is missing, damaged, or holds no statistics.
        ConfigError: It was made for reconstructions.
    """
    request = FidRequest(real=path, fake=path, metrics="fid")
    try:
        statistics, _ = open_reference(request, path)
    except (ConfigError, DataError) as error:
        raise type(error)(error.what, where=f"--reference {path}", fix=error.fix) from error
    if statistics is None:
        raise DataError(
            f"'{path.name}' holds pictures and no statistics (mu, sigma)",
            where="--reference",
            fix="name ADM's VIRTUAL_imagenet256_labeled.npz, or a file of `ovbench fid --save-reference`",
        )
    try:
        check_purpose(statistics, "generation")
    except ConfigError as error:
        raise ConfigError(error.what, where=f"--reference {path}", fix=error.fix) from error
    return statistics


def check_adm(statistics: Reference, info: ExtractorInfo, path: Path) -> None:
    """Refuses a reference of another network than the one whose features are compared with it.

    Raises:
        ConfigError: It is.
    """
    try:
        check_match(statistics, info)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"--reference {path}", fix=error.fix) from error


def against_adm(path: Path, task: PictureTask, extractor: Extractor, num_generated: int) -> Against:
    """Returns ADM's reference file as what samples are compared with; its pictures serve precision and recall."""
    request = FidRequest(real=path, fake=path, metrics="fid")
    statistics, source = open_reference(request, path)
    assert statistics is not None, "open_adm came first"
    check_match(statistics, extractor.info)
    wanted = {"precision", "recall"} & set(task.metrics)
    if source is None or not wanted:
        return Against.of(statistics, statistics.features, extractor.device)
    bound = feature_cache_bytes()
    found = reference_of(
        source,
        extractor,
        purpose="generation",
        cache_folder=cache_dir(),
        cache=FeatureCache(cache_dir() / FOLDER, max_bytes=bound) if bound else None,
        tile=lambda count: tile_size(count, num_generated),
    ).reference
    radii: dict[str, Any] = {"radii_k3": found.radii_k3, "radii_tile": found.radii_tile}
    return Against.of(replace(statistics, **radii), found.features, extractor.device)


def score_pictures(
    task: PictureTask,
    against: Against,
    features: FeatureSet,
    *,
    labels: NDArray[np.int64] | None = None,
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> list[TaskScore]:
    """Returns the scores of a set of pictures by its features.

    Args:
        task: What is scored.
        against: The reference.
        features: Of the pictures.
        labels: Classes that they were made of, int64 [N]; the inception score's blocks do not need them.
        metrics: Only these of the task's; None: all that need no pairs.
        seed: Of jackknife blocks.
    """
    wanted = [name for name in metrics or task.metrics if name not in task.pair_metrics]
    sets = [name for name in wanted if name != READ_BACK]
    scored = score_sets(sets, against, features, Settings(mode=mode_of(task.mode), seed=seed))
    found = [TaskScore(metric=entry.metric, score=entry.score, how=entry.how) for entry in scored.scores]
    if READ_BACK in wanted:
        assert labels is not None, "samples have classes"
        found.append(_read_back(features, labels))
    return found


def _read_back(features: FeatureSet, labels: NDArray[np.int64]) -> TaskScore:
    right = int((features.rows["logits"].argmax(axis=1) == labels).sum())
    spec = MetricSpec(
        name="class read-back",
        title="class read-back",
        unit="fraction",
        higher_is_better=True,
        citation="share of samples in which the scoring classifier sees the class that was asked for",
    )
    share = right / len(labels)
    interval = wilson_interval(share, len(labels), given="the classifier")
    score = ScoredMetric(spec=spec, group=None, value=share, n=len(labels), interval=interval)
    return TaskScore(metric=READ_BACK, score=score, how=f"classifier of {features.info.title}")


def score_values(name: str, values: NDArray[np.float64], *, seed: int = 0, title: str | None = None) -> TaskScore:
    """Returns the mean of a comparison of pairs, values [N], with its bootstrap interval.

    Args:
        name: psnr, ssim or lpips.
        values: Per picture.
        seed: Of the bootstrap.
        title: What the score may be called, where its network is not the published one.
    """
    spec = spec_of(name, None)
    if title is not None:
        spec = replace(spec, name=title, title=title)
    interval = image_mean_interval(values, label=name, seed=seed)
    score = ScoredMetric(spec=spec, group=None, value=float(values.mean()), n=len(values), interval=interval)
    return TaskScore(metric=name, score=score, how=PAIR_NAMES[name])
