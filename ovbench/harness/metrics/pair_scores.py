"""Scores of pairs, picture by picture: how close reconstructions are to the pictures that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from pathlib import PurePosixPath

import numpy as np

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.base import ScoredMetric
from ovbench.harness.metrics.conventions import METRICS
from ovbench.harness.metrics.image_readers import PICTURES
from ovbench.harness.metrics.image_sources import ImageSource, PictureBatch
from ovbench.harness.metrics.interval import no_interval
from ovbench.harness.metrics.jackknife import image_mean_interval
from ovbench.harness.metrics.lpips import load_lpips
from ovbench.harness.metrics.picture_scores import PictureScore, spec_of
from ovbench.harness.metrics.reconstruction import psnr, ssim

PAIR_BATCH = 16
BY_ORDER = "pairs are made by order: pictures of an npz, or of parquet rows without paths, have no names to compare"
_HOW = {
    "psnr": "per picture in dB, then the mean; an identical pair counts 100 dB",
    "ssim": "11x11 Gaussian window, float64, mean over pictures",
    "lpips": "VGG16, 2018 heads, mean over pictures",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What compares two batches of pictures."""

    name: str  # what the score may be called
    compare: Callable[[np.ndarray, np.ndarray], np.ndarray]  # uint8 [B, H, W, 3] twice → [B]
    about: Mapping[str, str] = field(default_factory=dict)  # weights, where there are some


def measures_of(metrics: Sequence[str], *, lpips_weights: str | None, device: str) -> dict[str, Measure]:
    """Returns what computes the metrics; the network of LPIPS is loaded only where it is asked for.

    Raises:
        OvbenchError: That network is not there.
    """
    found: dict[str, Measure] = {}
    for metric in metrics:
        if metric == "lpips":
            network = load_lpips(lpips_weights, device=device)
            about = {"weights_sha256": network.weights_sha256, "heads_sha256": network.heads_sha256}
            found[metric] = Measure(name=network.name, compare=network, about=about)
        else:
            found[metric] = Measure(name=METRICS[metric].title, compare={"psnr": psnr, "ssim": ssim}[metric])
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class PairScores:
    """Values per picture, and their means with intervals."""

    values: Mapping[str, np.ndarray]  # metric → float64 [N]
    scores: tuple[PictureScore, ...]
    warnings: tuple[str, ...]


def check_can_pair(first: ImageSource, second: ImageSource) -> None:
    """Refuses to leave pictures out where only their order says which two are a pair.

    Raises:
        ConfigError: Pictures may be left out of one of the sources, and one of them has no keys.
    """
    if not (first.skip_bad or second.skip_bad):
        return
    for source in (first, second):
        if not source.has_keys:
            raise ConfigError(
                f"the pictures of '{source.path.name}' have no names, so that leaving one out would shift all later "
                "pairs",
                where="--skip-bad",
                fix="leave the option out, or score pairs of named files",
            )


def check_sources(original: ImageSource, reconstruction: ImageSource) -> None:
    """Refuses sources that cannot be pairs, as far as that shows before a picture is read.

    Raises:
        DataError: They hold other numbers of pictures.
        ConfigError: See `check_can_pair`.
    """
    check_can_pair(original, reconstruction)
    if len(original) != len(reconstruction):
        raise DataError(
            f"{len(original)} originals and {len(reconstruction)} reconstructions are no pairs",
            where=f"{original.path}, {reconstruction.path}",
            fix="PSNR, SSIM and LPIPS compare each picture with the one it was made from",
        )


def check_pairing(first_keys: Sequence[str | None], second_keys: Sequence[str | None], where: str) -> list[str]:
    """Checks that two sets of pictures are pairs, one by one in order, and returns what a reader must know.

    Keys are equal up to the ending of a picture file. Where a side has none, nothing but the order is left.

    Args:
        first_keys: Keys of the pictures of one side, in order.
        second_keys: Keys of the other side.
        where: The two sources, for the message.

    Raises:
        DataError: One side has more pictures, or two that meet have different keys; names the first such two.
    """
    fix = "give both pictures of a pair the same name"
    by_order = None in first_keys or None in second_keys
    if not by_order:
        for one, other in zip(first_keys, second_keys, strict=False):
            if one is not None and other is not None and _stem(one) != _stem(other):
                raise DataError(f"'{one}' and '{other}' are no pair: their names differ", where=where, fix=fix)
    if len(first_keys) != len(second_keys):
        raise DataError("one side has more usable pictures than the other", where=where, fix=fix)
    return [BY_ORDER] if by_order else []


def score_pairs(
    original: ImageSource,
    reconstruction: ImageSource,
    measures: Mapping[str, Measure],
    *,
    intervals: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PairScores:
    """Compares pictures in order with the pictures they were made from.

    Args:
        original: The pictures that were encoded.
        reconstruction: What came back, as many, of the same size, under the same names.
        measures: Key of METRICS → what compares two batches.
        intervals: Whether means get bootstrap intervals.
        seed: Of the bootstrap.
        progress: Called with pairs done and pairs in all.

    Raises:
        DataError: The two are not pairs: another number, size or name.
        ConfigError: Pictures may be left out, and nothing tells which pair is then broken.
    """
    check_sources(original, reconstruction)
    found: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    warnings: dict[str, None] = {}  # each once, in order
    done = 0
    for first, second, heard in _pairs(original, reconstruction):
        warnings.update(dict.fromkeys(heard))
        for name, measure in measures.items():
            found[name].append(measure.compare(first.images_u8, second.images_u8))
        done += len(first.names)
        if progress is not None:
            progress(done, len(original))
    values = {name: np.concatenate(parts).astype(np.float64) for name, parts in found.items()}
    scores = tuple(
        _score(name, measures[name], array, intervals=intervals, seed=seed) for name, array in values.items()
    )
    return PairScores(values=values, scores=scores, warnings=tuple(warnings))


def _pairs(
    original: ImageSource, reconstruction: ImageSource
) -> Iterator[tuple[PictureBatch, PictureBatch, list[str]]]:
    where = f"{original.path}, {reconstruction.path}"
    for first, second in zip_longest(original.batches(PAIR_BATCH), reconstruction.batches(PAIR_BATCH)):
        warnings = check_pairing(first.keys if first else (), second.keys if second else (), where)
        if first.images_u8.shape != second.images_u8.shape:
            (height, width), (height2, width2) = first.images_u8.shape[1:3], second.images_u8.shape[1:3]
            raise DataError(
                f"the originals are {width}×{height} pixels and the reconstructions {width2}×{height2}",
                where=where,
                fix="cut the originals to that size: --crop SIZE",
            )
        yield first, second, warnings


def _stem(key: str) -> str:
    path = PurePosixPath(key)
    # Trap: a key need not end in the kind of a file, and what follows its last dot may be all that tells two apart.
    return (path.with_suffix("") if path.suffix.lower() in PICTURES else path).as_posix()


def _score(metric: str, measure: Measure, values: np.ndarray, *, intervals: bool, seed: int) -> PictureScore:
    if not intervals:
        interval = no_interval("switched off")
    elif len(values) < 2:
        interval = no_interval("one pair has no spread")
    else:
        interval = image_mean_interval(values, label=metric, seed=seed)
    spec = replace(spec_of(metric, None), name=measure.name, title=measure.name)
    score = ScoredMetric(spec=spec, group=None, value=float(values.mean()), n=len(values), interval=interval)
    return PictureScore(metric=metric, score=score, num_reference=len(values), how=_HOW[metric])
