"""Two encoders or runs beside each other: what was set differently, every score's difference, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.paths import cache_dir, runs_dir
from ovbench.harness.comparison.answers import Options, compare_task
from ovbench.harness.comparison.pictures import compare_picture_task
from ovbench.harness.comparison.result import Comparison, FlippedAnswer, Side, TaskComparison, judged
from ovbench.harness.comparison.runs import Matched, Run, Wanted, find_runs
from ovbench.harness.comparison.settings import differing
from ovbench.results.record import TaskRecord
from ovbench.results.store import RunStore

_PICTURES = ("generation", "reconstruction")
_SHOWN = 3  # settings that an error lists


def compare_runs(
    first: str,
    second: str,
    *,
    out: Path | None = None,
    wanted: Wanted | None = None,
    options: Options | None = None,
    force: bool = False,
    cache: Path | None = None,
) -> list[Comparison]:
    """Compares two encoders or runs on everything that both were run on.

    Args:
        first: Run id, path of a run folder, or encoder spec.
        second: Likewise.
        out: Folder of run records; None: `$OVBENCH_RUNS` or `./runs`.
        wanted: Which suite, protocol, seeds and limit, where encoders were run in several ways.
        options: How it is done.
        force: Compare what two runs have in common though their protocols, tasks or data differ.
        cache: Folder of finished steps, where pictures' features are; None: the cache.

    Returns:
        One comparison per suite, in the order of the first's runs. Holm's correction covers the headlines of all of
        them, and apart from these the other scores of each task.

    Raises:
        RecordError: An unknown run or encoder, nothing in common, or a damaged file.
        ConfigError: More than one pair of runs could be meant, or what they share is not comparable.
        DataError: There is no common question.
    """
    matched = find_runs(first, second, RunStore(out or runs_dir()), wanted or Wanted())
    found = [
        _compared(entry, (first, second), options or Options(), force=force, cache=cache or cache_dir())
        for entry in matched
    ]
    return _corrected(found)


def _compared(matched: Matched, asked: tuple[str, str], options: Options, *, force: bool, cache: Path) -> Comparison:
    one, two = matched.first[0].record, matched.second[0].record
    warnings = list(matched.warnings)
    settings = differing(one, two)
    for first, second in zip(matched.first[1:], matched.second[1:], strict=True):
        settings += tuple(
            entry for entry in differing(first.record, second.record) if entry.breaks and entry not in settings
        )
    broken = [entry for entry in settings if entry.breaks]
    if broken and not force:
        listed = "; ".join(f"{entry.name}: {entry.first} and {entry.second}" for entry in broken[:_SHOWN])
        more = f"; and {len(broken) - _SHOWN} more" if len(broken) > _SHOWN else ""
        raise ConfigError(
            f"scores of the two cannot be compared: they differ in {listed}{more}",
            where=f"{one.run_id}, {two.run_id}",
            fix="compare runs of one protocol and data, or compare what they have in common all the same: --force",
        )
    if broken:
        warnings.append(
            f"forced: the two differ in {len(broken)} settings that change scores; what they have in common is compared"
        )
    tasks: list[TaskComparison] = []
    flipped: list[FlippedAnswer] = []
    common = [
        task for task in one.tasks if all(run.record.task(task.name) for run in (*matched.first, *matched.second))
    ]
    if not common:
        raise RecordError(
            f"the runs have no task in common: {_names(one.tasks)}; {_names(two.tasks)}",
            where=f"{one.run_id}, {two.run_id}",
        )
    for task in common:
        if task.kind in _PICTURES:
            tasks.append(compare_picture_task(task, matched.first, matched.second, cache, options))
            continue
        done, shown = compare_task(task, matched.first, matched.second, options)
        tasks.append(done)
        flipped += shown
    for record, side in ((one, two), (two, one)):
        if left := [task.name for task in record.tasks if side.task(task.name) is None]:
            warnings.append(f"only {record.run_id} has the tasks {', '.join(left)}")
    return Comparison(
        suite=one.suite,
        protocol=one.protocol.label,
        first=_side(asked[0], matched.first),
        second=_side(asked[1], matched.second),
        forced=bool(broken),
        settings=settings,
        tasks=tuple(tasks),
        flipped=tuple(flipped),
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _names(tasks: Sequence[TaskRecord]) -> str:
    return ", ".join(task.name for task in tasks) or "none"


def _side(asked: str, runs: Sequence[Run]) -> Side:
    record = runs[0].record
    dtype = record.environment.dtype
    return Side(
        asked=asked,
        label=record.encoder.spec if dtype == "float32" else f"{record.encoder.spec} ({dtype})",
        run_ids=tuple(run.record.run_id for run in runs),
        seeds=tuple(run.record.seed for run in runs),
    )


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Returns the comparisons with p-values corrected over all of them."""
    flat = [entry for comparison in comparisons for task in comparison.tasks for entry in task.differences]
    rest = iter(judged(flat))
    return [
        replace(
            comparison,
            tasks=tuple(
                replace(task, differences=tuple(next(rest) for _ in task.differences)) for task in comparison.tasks
            ),
        )
        for comparison in comparisons
    ]
