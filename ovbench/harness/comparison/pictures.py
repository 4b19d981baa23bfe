"""Compares pictures that two encoders' generators made, picture by picture: samples of one seed, or reconstructions.

The features that the scores were computed from lie in the cache, under the keys of the records' steps. Sample i of
both runs has the same noise and class where the seed is the same, so what they share cancels in a paired jackknife.
Where the cache no longer holds them, the recorded values stand side by side and no test is made, with the reason.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from ovbench._base.errors import DataError, OvbenchError
from ovbench._base.files import read_json
from ovbench.harness.comparison.answers import MID_P, Options, single_questions
from ovbench.harness.comparison.result import MetricDifference, TaskComparison, bounded, untested
from ovbench.harness.comparison.runs import Run
from ovbench.harness.generation.picture_parts import Content, read_parts
from ovbench.harness.generation.picture_tasks import against_pictures, layers_of
from ovbench.harness.metrics.base import Interval
from ovbench.harness.metrics.conventions import METRICS, mode_of
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.interval import no_interval
from ovbench.harness.metrics.paired import compare_scores, mean_of
from ovbench.harness.metrics.picture_scores import PictureScore, Settings, paired_score_difference, score_sets
from ovbench.harness.metrics.ratios import Ratios
from ovbench.harness.metrics.seeds import over_seeds
from ovbench.harness.metrics.student import t_two_sided
from ovbench.harness.steps import MANIFEST, verify_entry
from ovbench.results.record import MAIN, MetricValue, RunRecord, TaskRecord
from ovbench.tasks.pictures import READ_BACK, PictureTask, load_picture_task

_SAME = 1e-6  # relative: a recomputed score is the recorded one, up to another machine's rounding
_PASSES = "passes-"


class _Missing(Exception):
    """Something that a paired test needs is not there; the text says what."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Tested:
    """One score of two sets of pictures of one seed."""

    first: float
    second: float
    error: float | None  # standard error of the difference; None: there is no paired error
    interval: Interval
    p: float | None
    p_method: str
    exact_p: float | None = None


def compare_picture_task(
    task: TaskRecord, first: Sequence[Run], second: Sequence[Run], cache: Path, options: Options
) -> TaskComparison:
    """Compares two encoders on one task of pictures, seed by seed.

    Args:
        task: As the first run records it.
        first: Runs of one encoder, one per seed.
        second: Of the other.
        cache: Folder of finished steps.
        options: How.
    """
    tested: list[dict[str, _Tested]] = []
    reason: str | None = None
    try:
        for one, two in zip(first, second, strict=True):
            tested.append(_test(task, one.record, two.record, cache, options))
    except (_Missing, OvbenchError) as error:
        reason = error.what if isinstance(error, OvbenchError) else str(error)
    records = [(one.record, two.record) for one, two in zip(first, second, strict=True)]
    metrics = [
        metric
        for metric in records[0][0].metrics
        if metric.task == task.name and metric.control == MAIN and metric.group is None
    ]
    metrics.sort(key=lambda metric: metric.name != task.headline)
    found = [
        _difference(metric, task, records, None if reason else [entry.get(metric.name) for entry in tested], reason)
        for metric in metrics
        if all(_value(record, metric) is not None for pair in records for record in pair)
    ]
    return TaskComparison(
        task=task.name,
        kind=task.kind,
        n_common=task.n,
        n_distinct=task.n,
        num_images=task.n,
        only_first=(),
        only_second=(),
        changed=(),
        flips=None,
        differences=tuple(found),
    )


def _value(record: RunRecord, like: MetricValue) -> float | None:
    for metric in record.metrics:
        if (metric.task, metric.name, metric.group, metric.control) == (like.task, like.name, None, MAIN):
            return metric.value
    return None


def _difference(
    metric: MetricValue,
    task: TaskRecord,
    records: Sequence[tuple[RunRecord, RunRecord]],
    tested: Sequence[_Tested | None] | None,
    reason: str | None,
) -> MetricDifference:
    sides = [[_value(record, metric) or 0.0 for record in side] for side in zip(*records, strict=True)]
    first, second = fmean(sides[0]), fmean(sides[1])
    blank = replace(
        untested(metric, task), first=first, second=second, difference=first - second, n=metric.n, reason=reason
    )
    if tested is None:
        return blank
    found = [entry for entry in tested if entry is not None]
    if len(found) < len(tested):
        return replace(blank, reason="this score has no paired form")
    for entry, (one, two) in zip(found, records, strict=True):
        for again, record in ((entry.first, one), (entry.second, two)):
            stored = _value(record, metric)
            if stored is None or not math.isclose(again, stored, rel_tol=_SAME, abs_tol=_SAME):
                why = f"the stored pictures of {record.run_id} give {again:.6g}, its record {stored}"
                return replace(blank, reason=why)
    errors = [entry.error for entry in found]
    if any(error is None for error in errors):
        return replace(blank, interval=found[0].interval, reason=found[0].interval.method.removeprefix("none: "))
    one = found[0]
    if len(found) == 1:
        return replace(blank, interval=one.interval, p=one.p, p_method=one.p_method, exact_p=one.exact_p)
    # The mean of the errors treats the seeds' samples as one: on the safe side, since each seed has its own.
    seeds = over_seeds([entry.first - entry.second for entry in found], fmean(error or 0.0 for error in errors))
    how = f"t of {seeds.interval_both.method.replace('questions', 'pictures')}"
    return replace(blank, interval=bounded(seeds.interval_both, metric.unit), p=seeds.p_both, p_method=how, seeds=seeds)


def _test(task: TaskRecord, one: RunRecord, two: RunRecord, cache: Path, options: Options) -> dict[str, _Tested]:
    """Returns the paired tests of two runs of one seed by the name of the score."""
    about = load_picture_task(task.name)
    if about.kind == "generation" and one.seed != two.seed:
        raise _Missing(f"the samples have the seeds {one.seed} and {two.seed}: no noise in common")
    extractor = load_extractor(about.extractor)
    layers = layers_of(about, extractor.info)
    contents = [_content(record, about, extractor, layers, cache, task.n) for record in (one, two)]
    labels = [content.values.get("labels") for content in contents]
    if about.kind == "generation" and not np.array_equal(np.asarray(labels[0]), np.asarray(labels[1])):
        raise _Missing("the samples of one number have other classes")
    found = _pairs(about, contents, options)
    if READ_BACK in about.metrics:
        right = [content.features.rows["logits"].argmax(axis=1) == content.values["labels"] for content in contents]
        first, second = (flags.astype(np.float64) for flags in right)
        found["class read-back"] = _by_picture(first, second, READ_BACK, options)
    reference = _reference(one, two, about, extractor, layers, cache)
    seed = one.seed if about.kind == "generation" else 0
    settings = Settings(mode=mode_of(about.mode), seed=seed)
    scored = [score_sets(about.set_metrics, reference, content.features, settings).scores for content in contents]
    for first, second in zip(*scored, strict=True):
        if (entry := _by_jackknife(first, second)) is not None:
            found[first.score.spec.name] = entry
    return found


def _entry(cache: Path, name: str, keys: Sequence[str], wanted: Callable[[Mapping[str, Any]], bool], none: str) -> Path:
    """Returns the first entry of a step whose inputs are wanted; those that cannot be read may be other ones."""
    gone: list[str] = []
    for key in keys:
        path = cache / name / key
        try:
            inputs = read_json(path / MANIFEST)["inputs"]
        except (DataError, KeyError, TypeError):
            gone.append(key)
            continue
        if wanted(inputs):
            return path
    if gone:
        raise _Missing(f"step '{name}' {' or '.join(key[:12] for key in gone)} is no longer in the cache {cache}")
    raise _Missing(none)


def _content(
    record: RunRecord, task: PictureTask, extractor: Extractor, layers: Sequence[str], cache: Path, count: int
) -> Content:
    """Returns the features of the pictures that a run's scores are of."""
    of = "samples" if task.kind == "generation" else "reconstructions"
    keys = [step.key for step in record.steps if step.name == "samples"]

    def wanted(inputs: Mapping[str, Any]) -> bool:
        same = inputs.get("extractor") == extractor.info.fingerprint()
        return same and inputs.get("of") == of and inputs.get("moment") is None

    none = f"{record.run_id} keeps no {of} under the network '{extractor.info.name}'"
    return _read(_entry(cache, "samples", keys, wanted, none), extractor, layers, cache, count)


def _read(path: Path, extractor: Extractor, layers: Sequence[str], cache: Path, count: int) -> Content:
    if (fault := verify_entry(path)) is not None:
        raise _Missing(f"the cache entry {path.parent.name}/{path.name[:12]} is damaged: {fault}")
    (passes,) = path.glob(f"{_PASSES}*")
    size = int(passes.name.removeprefix(_PASSES))
    return read_parts(passes, count, size, extractor.info, layers=layers, scratch=cache / "scratch", num_shown=0)


def _reference(
    one: RunRecord, two: RunRecord, task: PictureTask, extractor: Extractor, layers: Sequence[str], cache: Path
) -> Any:
    """Returns what both sets were compared with."""
    if task.reference != "test":
        raise _Missing(
            "the records do not say where the reference file is: ovbench fid REFERENCE A --versus B has this test"
        )
    keys = [[step.key for step in record.steps if step.name == "features"] for record in (one, two)]
    common = [key for key in keys[0] if key in keys[1]]

    def wanted(inputs: Mapping[str, Any]) -> bool:
        return inputs.get("extractor") == extractor.info.fingerprint()

    none = "the two runs were not compared with the same reference pictures"
    path = _entry(cache, "features", common, wanted, none)
    (passes,) = path.glob(f"{_PASSES}*")
    features = _read(path, extractor, layers, cache, _num_items(passes)).features
    return against_pictures("test", features, purpose=task.kind, extractor=extractor)


def _num_items(passes: Path) -> int:
    """Returns how many pictures the passes of a step hold."""
    last = max(passes.glob("pass-*.npz"))
    with np.load(last, allow_pickle=False) as archive:
        return int(archive["indices"].max()) + 1


def _pairs(task: PictureTask, contents: Sequence[Content], options: Options) -> dict[str, _Tested]:
    found: dict[str, _Tested] = {}
    for name in task.pair_metrics:
        values = [np.asarray(content.values[name], dtype=np.float64) for content in contents]
        found[METRICS[name].title] = _by_picture(values[0], values[1], name, options)
    return found


def _by_picture(first: np.ndarray, second: np.ndarray, name: str, options: Options) -> _Tested:
    """Compares means over pictures, [N] each."""
    ones = np.ones((len(first), 1))
    pair = [Ratios(num=values[:, None], den=ones, weights=np.ones(1), is_mean=True) for values in (first, second)]
    found = compare_scores(*pair, label=f"pictures/{name}", seed=options.seed, num_draws=options.num_draws)
    single = single_questions(*pair)
    return _Tested(
        first=pair[0].value,
        second=pair[1].value,
        error=mean_of([found])[1],
        interval=found.interval,
        p=found.test.p if single is None else single.mid_p,
        p_method=found.test.method if single is None else MID_P,
        exact_p=None if single is None else single.exact_p,
    )


def _by_jackknife(first: PictureScore, second: PictureScore) -> _Tested | None:
    gap = paired_score_difference(first, second)
    if gap is None or first.score.value is None or second.score.value is None:
        return None
    blank = _Tested(
        first=first.score.value, second=second.score.value, error=None, interval=gap.interval, p=None, p_method=""
    )
    if first.without_block is None or second.without_block is None:
        return blank
    gaps = first.without_block - second.without_block
    count = len(gaps)
    error = math.sqrt((count - 1) / count * float(np.sum((gaps - gaps.mean()) ** 2)))
    if error == 0.0:
        same = no_interval("every block gives the same difference, which says nothing about its error")
        return replace(blank, error=0.0, interval=same, p=1.0, p_method="no difference between the pictures")
    p = t_two_sided(gap.value / error, count - 1)
    return replace(blank, error=error, p=p, p_method=f"t of the paired jackknife, {count} blocks")
