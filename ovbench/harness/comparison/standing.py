"""Several encoders on one score: every pair tested, Holm's correction over all pairs, tied groups, ranks, the best.

From Python; no table uses it. `best` only where a paired test tells an encoder from every other one, ties where not.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import RecordError
from ovbench._base.paths import cache_dir
from ovbench.harness.comparison.answers import Options, chosen_metrics, compare_metric
from ovbench.harness.comparison.pictures import compare_picture_task
from ovbench.harness.comparison.questions import align, read_answers
from ovbench.harness.comparison.result import MetricDifference
from ovbench.harness.comparison.runs import Run
from ovbench.harness.metrics.answer_ratios import Answers
from ovbench.harness.metrics.multiplicity import LEVEL, Pair, holm, letters, tied_groups
from ovbench.harness.metrics.ranks import RankInterval, rank_intervals
from ovbench.results.record import RunRecord, TaskRecord
from ovbench.results.store import RunStore

_PICTURES = ("generation", "reconstruction")


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How encoders stand on one score. Names are those that were given."""

    task: str
    metric: str
    names: tuple[str, ...]  # best first
    values: Mapping[str, float]  # over the seeds
    p_holm: Mapping[Pair, float]  # (a, b) with a before b in `names`; a pair without a test is not in it
    untested: Mapping[Pair, str]  # why
    groups: tuple[tuple[str, ...], ...]  # no two of a group are told apart
    letters: Mapping[str, str]  # compact letter display: two names without a common letter are told apart
    ranks: Mapping[str, RankInterval]  # all hold together at 95%
    best: str | None  # told apart from every other one; None: nobody is

    @property
    def tied_with_first(self) -> tuple[str, ...]:
        """Those that cannot be told from the first, itself among them; alone where it is the best."""
        first = self.names[0]
        return tuple(name for name in self.names if set(self.letters[name]) & set(self.letters[first]))


def standing(
    task: str,
    metric: str,
    values: Mapping[str, float],
    p_values: Mapping[Pair, float],
    *,
    higher_is_better: bool,
    untested: Mapping[Pair, str] | None = None,
) -> Standing:
    """Returns how names stand, from their values and the raw p-values of their pairs.

    Args:
        task: Of the score.
        metric: Its name.
        values: By name.
        p_values: By pair, in either order; a pair that is not there counts as not told apart.
        higher_is_better: Direction.
        untested: Pairs without a test, with the reason.
    """
    names = tuple(sorted(values, key=lambda name: (-values[name] if higher_is_better else values[name], name)))
    place = {name: position for position, name in enumerate(names)}
    ordered = {(min(pair, key=place.__getitem__), max(pair, key=place.__getitem__)): p for pair, p in p_values.items()}
    pairs = sorted(ordered, key=lambda pair: (place[pair[0]], place[pair[1]]))
    adjusted = dict(zip(pairs, holm([ordered[pair] for pair in pairs]), strict=True))
    # A pair of equal values is never told apart, whatever its p.
    better = {pair: p < LEVEL and values[pair[0]] != values[pair[1]] for pair, p in adjusted.items()}
    groups = tied_groups(names, better)
    ranks = rank_intervals(names, better)
    first = names[0] if names else None
    return Standing(
        task=task,
        metric=metric,
        names=names,
        values=dict(values),
        p_holm=adjusted,
        untested=dict(untested or {}),
        groups=groups,
        letters=letters(names, groups),
        ranks=ranks,
        best=first if first is not None and len(names) > 1 and ranks[first].high == 1 else None,
    )


def standing_of(
    store: RunStore,
    rows: Mapping[str, Sequence[RunRecord]],
    task: str,
    *,
    options: Options | None = None,
    cache: Path | None = None,
) -> Standing:
    """Returns how encoders stand on a task's headline, by the answers or pictures that their runs left.

    Args:
        store: Where the runs are.
        rows: Name, as a table has it → the runs behind it, one per seed, comparable with each other.
        task: Name of the task; a row that did not run it is left out.
        options: How pairs are compared.
        cache: Folder of finished steps; None: the cache.

    Raises:
        RecordError: No row ran the task, or a file of answers is missing or damaged.
    """
    options = options or Options()
    runs = {name: _by_seed(records, store, task) for name, records in rows.items()}
    runs = {name: found for name, found in runs.items() if found}
    if not runs:
        raise RecordError(f"no run has the task '{task}'", where=str(store.root))
    answers: dict[str, Answers] = {}
    p_values: dict[Pair, float] = {}
    untested: dict[Pair, str] = {}
    about = _task(next(iter(next(iter(runs.values())).values())).record, task)
    for one, two in itertools.combinations(runs, 2):
        seeds = sorted(runs[one].keys() & runs[two].keys())
        if not seeds:
            untested[one, two] = "no seed in common"
            continue
        first, second = [runs[one][seed] for seed in seeds], [runs[two][seed] for seed in seeds]
        if about.kind in _PICTURES:
            tested = compare_picture_task(about, first, second, cache or cache_dir(), options).differences
            found = next((entry for entry in tested if entry.headline), None)
        else:
            found = _headline(about, first, second, answers, options)
        if found is None or found.p is None:
            untested[one, two] = "the headline has no value" if found is None else found.reason or "not tested"
        else:
            p_values[one, two] = found.p
    higher, values = True, {}
    for name, by_seed in runs.items():
        metrics = [_headline_metric(run.record, about) for run in by_seed.values()]
        if any(value is None for value, _ in metrics):
            continue
        values[name] = sum(value or 0.0 for value, _ in metrics) / len(metrics)
        higher = metrics[0][1] is not False
    kept = {pair: p for pair, p in p_values.items() if set(pair) <= values.keys()}
    return standing(task, about.headline, values, kept, higher_is_better=higher, untested=untested)


def _by_seed(records: Sequence[RunRecord], store: RunStore, task: str) -> dict[int, Run]:
    return {
        record.seed: Run(record=record, folder=store.root / record.run_id)
        for record in records
        if record.task(task) is not None
    }


def _task(record: RunRecord, name: str) -> TaskRecord:
    task = record.task(name)
    assert task is not None, "_by_seed kept runs of the task alone"
    return task


def _headline_metric(record: RunRecord, task: TaskRecord) -> tuple[float | None, bool | None]:
    for metric in record.metrics:
        if (metric.task, metric.name, metric.group, metric.control) == (task.name, task.headline, None, "none"):
            return metric.value, metric.higher_is_better
    return None, None


def _headline(
    task: TaskRecord, first: Sequence[Run], second: Sequence[Run], answers: dict[str, Answers], options: Options
) -> MetricDifference | None:
    def of(run: Run) -> Answers:
        if run.record.run_id not in answers:
            answers[run.record.run_id] = read_answers(run, task.name)
        return answers[run.record.run_id]

    common = align([(of(one), of(two)) for one, two in zip(first, second, strict=True)])
    records = [(one.record, two.record) for one, two in zip(first, second, strict=True)]
    for metric in chosen_metrics(task, records, options):
        if metric.name == task.headline and metric.group is None:
            return compare_metric(metric, task, records, common, options)
    return None
