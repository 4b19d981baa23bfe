"""Compares the stored answers of two encoders, task by task: every score on the questions that both were asked."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean

import numpy as np

from ovbench._base.errors import DataError
from ovbench.harness.comparison.questions import Common, align, read_answers
from ovbench.harness.comparison.result import (
    FlippedAnswer,
    Flips,
    MetricDifference,
    Power,
    TaskComparison,
    bounded,
    untested,
)
from ovbench.harness.comparison.runs import Run
from ovbench.harness.metrics.answer_ratios import Answers, NotCompared, ratios_of
from ovbench.harness.metrics.paired import PairedScores, compare_scores, mean_of
from ovbench.harness.metrics.permutation import NUM_DRAWS, McNemar, mcnemar
from ovbench.harness.metrics.power import POWERS, images_needed, spread_of
from ovbench.harness.metrics.ratios import Ratios
from ovbench.harness.metrics.seeds import OverSeeds, over_seeds
from ovbench.results.record import MAIN, MetricValue, RunRecord, TaskRecord

MID_P = "McNemar's mid-p, one question an image"
_SAME = 1e-9  # relative: a recomputed score is the recorded one


@dataclass(frozen=True, kw_only=True, slots=True)
class Options:
    """How a comparison is made."""

    seed: int = 0  # of bootstrap and swaps
    num_draws: int = NUM_DRAWS
    everything: bool = False  # groups of all scores, not of the headline alone
    power: bool = False
    num_flips: int = 0  # flipped answers to list, per task


def compare_task(
    task: TaskRecord, first: Sequence[Run], second: Sequence[Run], options: Options
) -> tuple[TaskComparison, tuple[FlippedAnswer, ...]]:
    """Compares two encoders on one task.

    Args:
        task: As the first run records it.
        first: Runs of one encoder, one per seed.
        second: Of the other, with the same seeds in the same order.
        options: How.

    Returns:
        The comparison, p-values not yet corrected, and the flipped answers that were asked for.

    Raises:
        DataError: There is no common question.
        RecordError: A file of answers is missing or damaged.
    """
    runs = list(zip(first, second, strict=True))
    read = [(read_answers(one, task.name), read_answers(two, task.name)) for one, two in runs]
    common = align(read)
    if not len(common.pairs[0][0]):
        raise DataError(
            f"the runs have no question of '{task.name}' in common",
            where=f"{first[0].record.run_id}, {second[0].record.run_id}",
            fix="compare runs of one set of questions",
        )
    records = [(one.record, two.record) for one, two in runs]
    differences = [
        compare_metric(metric, task, records, common, options) for metric in chosen_metrics(task, records, options)
    ]
    one = common.pairs[0][0]
    done = TaskComparison(
        task=task.name,
        kind=task.kind,
        n_common=len(one),
        n_distinct=len(set(zip(one.images, one.questions, strict=True))),
        num_images=len(set(one.images)),
        only_first=common.only_first,
        only_second=common.only_second,
        changed=common.changed,
        flips=_flips(common),
        differences=tuple(differences),
    )
    return done, _flipped(task.name, records, common, options.num_flips)


def chosen_metrics(
    task: TaskRecord, records: Sequence[tuple[RunRecord, RunRecord]], options: Options
) -> list[MetricValue]:
    """Returns the scores to compare, as the first run has them: the headline, its groups, then the others."""
    own = [metric for metric in records[0][0].metrics if metric.task == task.name and metric.control == MAIN]
    others = {(metric.name, metric.group) for metric in records[0][1].metrics if metric.task == task.name}
    wanted = [
        metric
        for metric in own
        if (metric.name, metric.group) in others
        and (options.everything or metric.group is None or metric.name == task.headline)
    ]
    return sorted(wanted, key=lambda metric: (metric.name != task.headline, metric.group is not None))


def _recorded(record: RunRecord, like: MetricValue) -> MetricValue:
    return next(
        metric
        for metric in record.metrics
        if (metric.task, metric.name, metric.group, metric.control) == (like.task, like.name, like.group, MAIN)
    )


def compare_metric(
    metric: MetricValue,
    task: TaskRecord,
    records: Sequence[tuple[RunRecord, RunRecord]],
    common: Common,
    options: Options,
) -> MetricDifference:
    """Compares one score; where it cannot be, the recorded values stand with the reason."""
    blank = untested(metric, task)
    try:
        pairs = [
            _ratios(metric, pair, whole, record)
            for pair, whole, record in zip(common.pairs, common.whole, records, strict=True)
        ]
    except NotCompared as error:
        return _as_recorded(blank, records, metric, str(error))
    label = f"{task.name}/{metric.name}/{metric.group or ''}"
    found = [
        compare_scores(one, two, label=label, seed=options.seed, num_draws=options.num_draws) for one, two in pairs
    ]
    return _filled(blank, metric, pairs, found, common, options)


def _ratios(
    metric: MetricValue,
    pair: tuple[Answers, Answers],
    whole: tuple[Answers, Answers],
    records: tuple[RunRecord, RunRecord],
) -> tuple[Ratios, Ratios]:
    found: list[Ratios] = []
    for answers, everything, record in zip(pair, whole, records, strict=True):
        stored = _recorded(record, metric)
        if stored.value is None:
            raise NotCompared(f"no value in {record.run_id}: {stored.reason}")
        again = ratios_of(metric.name, metric.group, everything).value
        if math.isnan(again):
            raise NotCompared(f"it is 0 / 0 in {record.run_id}")
        if not math.isclose(again, stored.value, rel_tol=_SAME, abs_tol=_SAME):
            raise NotCompared(f"the stored answers of {record.run_id} give {again:.6g}, its record {stored.value:.6g}")
        ratios = ratios_of(metric.name, metric.group, answers)
        if math.isnan(ratios.value):
            raise NotCompared(f"no value in {record.run_id} on the common questions")
        found.append(ratios)
    return found[0], found[1]


def _as_recorded(
    blank: MetricDifference, records: Sequence[tuple[RunRecord, RunRecord]], metric: MetricValue, reason: str
) -> MetricDifference:
    values = [[_recorded(record, metric).value for record in side] for side in zip(*records, strict=True)]
    first, second = (
        fmean(value for value in side if value is not None) if None not in side else None for side in values
    )
    gap = None if first is None or second is None else first - second
    return replace(blank, first=first, second=second, difference=gap, reason=reason)


def _filled(
    blank: MetricDifference,
    metric: MetricValue,
    pairs: Sequence[tuple[Ratios, Ratios]],
    found: Sequence[PairedScores],
    common: Common,
    options: Options,
) -> MetricDifference:
    value, error = mean_of(found)
    one = found[0]
    filled = replace(
        blank,
        first=fmean(first.value for first, _ in pairs),
        second=fmean(second.value for _, second in pairs),
        difference=value,
        n=_num_questions(metric, common),
        num_images=one.num_images,
        num_differing=max(entry.num_differing for entry in found),
        notes=tuple(dict.fromkeys(note for entry in found for note in entry.notes)),
        power=_power(metric, value, error, one.num_images, common) if options.power else None,
    )
    if len(found) > 1:
        seeds = over_seeds([entry.value for entry in found], error, max(1, one.num_images - 1))
        return _over_seeds(filled, seeds)
    single = single_questions(*pairs[0])
    return replace(
        filled,
        interval=bounded(one.interval, metric.unit),
        other_interval=one.bootstrap if one.interval is one.clustered else one.clustered,
        p=one.test.p if single is None else single.mid_p,
        p_method=one.test.method if single is None else MID_P,
        exact_p=None if single is None else single.exact_p,
    )


def _over_seeds(filled: MetricDifference, seeds: OverSeeds) -> MetricDifference:
    how = f"t of {seeds.interval_both.method}"
    return replace(
        filled, interval=bounded(seeds.interval_both, filled.unit), p=seeds.p_both, p_method=how, seeds=seeds
    )


def _num_questions(metric: MetricValue, common: Common) -> int:
    groups = common.pairs[0][0].groups
    return len(groups) if metric.group is None else sum(name == metric.group for name in groups)


def single_questions(first: Ratios, second: Ratios) -> McNemar | None:
    """Returns McNemar's test where each image has one question, and each answer is right or wrong; else None.

    Swapping images is then McNemar's exact test, which rejects too rarely; its mid-p is close to its size.
    """
    single = first.is_mean and first.num.shape[1] == 1 and bool(np.all(first.den == 1))
    if not single or not np.isin(np.concatenate([first.num, second.num]), (0.0, 1.0)).all():
        return None
    return mcnemar(first.num[:, 0] == 1, second.num[:, 0] == 1)


def _power(metric: MetricValue, value: float, error: float, num_images: int, common: Common) -> Power:
    variance = num_images * error**2
    images = {f"{power:.0%}": images_needed(value, variance, power) if error > 0 else None for power in POWERS}
    correlation, per_image = _intra_image(metric, common)
    return Power(correlation=correlation, per_image=per_image, images=images)


def _intra_image(metric: MetricValue, common: Common) -> tuple[float | None, float | None]:
    """Returns the correlation of differences about one image and the questions an image; None for sums of ratios."""
    names = [f"{place:09d}" for place in range(len(common.pairs[0][0]))]
    gaps: list[np.ndarray] = []
    for pair in common.pairs:
        try:
            one, two = (ratios_of(metric.name, metric.group, replace(side, images=tuple(names))) for side in pair)
        except NotCompared:
            return None, None
        if not one.is_mean or one.num.shape[1] != 1 or not np.all(one.den == 1):
            return None, None
        gaps.append(one.num[:, 0] - two.num[:, 0])
    answers = common.pairs[0][0]
    of_group = [metric.group in (None, name) for name in answers.groups]
    images = [image for image, wanted in zip(answers.images, of_group, strict=True) if wanted]
    _, codes = np.unique(np.asarray(images), return_inverse=True)
    count = int(codes.max()) + 1
    if len(codes) != len(gaps[0]) or count < 2:
        return None, None
    spread = spread_of(np.mean(gaps, axis=0), codes, count)
    return spread.correlation, spread.per_image


def _flips(common: Common) -> Flips:
    first_only = second_only = changed = 0
    for one, two in common.pairs:
        first_only += int(np.sum(one.correct & ~two.correct))
        second_only += int(np.sum(~one.correct & two.correct))
        other = np.array([a != b for a, b in zip(one.chosen, two.chosen, strict=True)], dtype=bool)
        changed += int(np.sum(other & (one.correct == two.correct)))
    return Flips(first_only=first_only, second_only=second_only, changed=changed)


def _flipped(
    task: str, records: Sequence[tuple[RunRecord, RunRecord]], common: Common, limit: int
) -> tuple[FlippedAnswer, ...]:
    found: list[FlippedAnswer] = []
    for (first, second), (one, two) in zip(records, common.pairs, strict=True):
        seed = str(first.seed) if first.seed == second.seed else f"{first.seed}, {second.seed}"
        for place in np.flatnonzero(one.correct != two.correct).tolist():
            if len(found) >= limit:
                return tuple(found)
            found.append(
                FlippedAnswer(
                    task=task,
                    seed=seed,
                    item_id=one.item_ids[place],
                    image_id=one.images[place],
                    group=one.groups[place],
                    question=one.questions[place],
                    answer=one.answers[place],
                    first=_said(one, place),
                    second=_said(two, place),
                    right="first" if one.correct[place] else "second",
                )
            )
    return tuple(found)


def _said(answers: Answers, place: int) -> str:
    """Returns the answer that counts, and what was written where nothing could be read."""
    return answers.chosen[place] or answers.raw[place]
