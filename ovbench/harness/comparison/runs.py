"""Which runs are meant: a run id, a run folder, or an encoder, and what the two sides have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from ovbench._base.errors import ConfigError, OvbenchError, RecordError
from ovbench._base.names import suggest
from ovbench.encoders.registry import parse_encoder
from ovbench.results.record import RunRecord
from ovbench.results.store import RECORD, RunStore, newest, read_record


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A record, and the folder of its run."""

    record: RunRecord
    folder: Path

    @property
    def store(self) -> RunStore:
        """Where its answers are."""
        return RunStore(self.folder.parent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """What narrows the choice of runs; None: anything."""

    suite: str | None = None
    protocol: str | None = None
    seeds: tuple[int, ...] = ()
    limit: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Two sides under one suite and protocol, seed by seed."""

    first: tuple[Run, ...]
    second: tuple[Run, ...]
    warnings: tuple[str, ...]


def find_runs(first: str, second: str, store: RunStore, wanted: Wanted) -> list[Matched]:
    """Returns what two names mean: one pair of sides for each suite that both were run on.

    Args:
        first: Run id, path of a run folder, or encoder spec.
        second: Likewise.
        store: Where run ids and encoders are looked up.
        wanted: What the user asked for besides.

    Raises:
        RecordError: An unknown run or encoder (with a suggestion), or nothing that both were run on.
        ConfigError: More than one protocol, limit or number format is possible; lists the choices.
    """
    records = store.records() if store.root.is_dir() else []
    one = _candidates(first, records, store, wanted)
    two = _candidates(second, records, store, wanted)
    if one.pinned and two.pinned:
        return [_pinned(one.runs[0], two.runs[0])]
    if one.pinned or two.pinned:
        fixed = (one if one.pinned else two).runs[0]
        one, two = (side if side.pinned else _like(side, fixed, store) for side in (one, two))
    return _meet(one, two, store)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Side:
    asked: str
    runs: tuple[Run, ...]
    pinned: bool  # exactly this run


def _candidates(text: str, records: Sequence[RunRecord], store: RunStore, wanted: Wanted) -> _Side:
    path = Path(text).expanduser()
    if (path / RECORD).is_file():
        run = Run(record=read_record(path / RECORD), folder=path.resolve())
        return _Side(asked=text, runs=(run,), pinned=True)
    by_id = {record.run_id: record for record in records}
    if text in by_id:
        return _Side(asked=text, runs=(_run(by_id[text], store),), pinned=True)
    specs = sorted({record.encoder.spec for record in records})
    meant = _specs_of(text, records, specs)
    if not meant:
        _unknown(text, [*by_id, *specs, *{record.encoder.family for record in records}], specs, store)
    found = [record for record in newest(records) if record.encoder.spec in meant]
    kept = [record for record in found if _fits(record, wanted)]
    if not kept:
        asked = [f"--suite {wanted.suite}"] if wanted.suite else []
        asked += [f"--protocol {wanted.protocol}"] if wanted.protocol else []
        asked += [f"--limit {wanted.limit}"] if wanted.limit is not None else []
        asked += [f"--seed {seed}" for seed in wanted.seeds]
        raise RecordError(
            f"no finished run of '{text}' has {' '.join(asked)}" if asked else f"no run of '{text}' is finished",
            where=str(store.root),
            fix=("there are: " + "; ".join(map(_described, found))) if found else "all runs: ovbench runs",
        )
    if len(meant := {record.encoder.spec for record in kept}) > 1:
        raise ConfigError(
            f"'{text}' may mean several encoders", where=text, fix=f"name one: {', '.join(sorted(meant))}"
        )
    return _Side(asked=text, runs=tuple(_run(record, store) for record in kept), pinned=False)


def _run(record: RunRecord, store: RunStore) -> Run:
    return Run(record=record, folder=store.root / record.run_id)


def _specs_of(text: str, records: Iterable[RunRecord], specs: Sequence[str]) -> set[str]:
    """Returns the encoders of the store that a text means; under a protocol, `ovis3` is its default variant."""
    if text in specs:
        return {text}
    found: set[str] = set()
    for variants in {str(known["variants"]) for record in records if "variants" in (known := record.protocol.content)}:
        try:
            spec = parse_encoder(text, protocol=variants).canonical
        except OvbenchError:
            continue
        if spec in specs:
            found.add(spec)
    return found


def _unknown(text: str, known: Sequence[str], specs: Sequence[str], store: RunStore) -> NoReturn:
    near = suggest(text, known)
    listed = f"encoders with runs: {', '.join(specs)}; all runs: ovbench runs" if specs else "there is no run"
    raise RecordError(
        f"'{text}' is no run, no run folder and no encoder that was run",
        where=str(store.root),
        fix=f"did you mean '{near}'? {listed[0].upper()}{listed[1:]}" if near else listed,
    )


def _fits(record: RunRecord, wanted: Wanted) -> bool:
    return (
        wanted.suite in (None, record.suite)
        and wanted.protocol in (None, record.protocol.name)
        and (not wanted.seeds or record.seed in wanted.seeds)
        and wanted.limit in (None, record.limit)
    )


def _described(record: RunRecord) -> str:
    limit = "" if record.limit is None else f" --limit {record.limit}"
    return f"--suite {record.suite} --protocol {record.protocol.name}{limit} --seed {record.seed} ({record.run_id})"


def _check_suites(first: RunRecord, second: RunRecord) -> None:
    if first.suite != second.suite:
        raise ConfigError(
            f"a run of the suite '{first.suite}' and one of '{second.suite}' have no score in common",
            where=f"{first.run_id}, {second.run_id}",
            fix="name two runs of one suite; all runs: ovbench runs",
        )


def _pinned(first: Run, second: Run) -> Matched:
    _check_suites(first.record, second.record)
    warnings: list[str] = []
    if first.record.run_id == second.record.run_id:
        warnings.append("both sides are the same run")
    return _matched((first,), (second,), warnings)


def _like(side: _Side, fixed: Run, store: RunStore) -> _Side:
    """Returns the runs of an encoder that were made like a given run, its seed first."""
    record = fixed.record
    suites = sorted({run.record.suite for run in side.runs})
    if record.suite not in suites:
        raise ConfigError(
            f"'{side.asked}' was run on {', '.join(suites)}, and {record.run_id} on {record.suite}",
            where=str(store.root),
            fix="name two runs of one suite; all runs: ovbench runs",
        )
    alike = [run for run in side.runs if run.record.suite == record.suite and _key(run.record) == _key(record)]
    alike = alike or [run for run in side.runs if run.record.suite == record.suite]
    same = [run for run in alike if run.record.seed == record.seed]
    chosen = same or alike
    if len({_key(run.record) for run in chosen}) > 1 or len(chosen) > 1:
        raise ConfigError(
            f"several runs of '{side.asked}' could be compared with {record.run_id}",
            where=side.asked,
            fix="name one: " + "; ".join(_described(run.record) for run in chosen),
        )
    return replace(side, runs=tuple(chosen))


Key = tuple[str, int | None, str]


def _key(record: RunRecord) -> Key:
    return record.protocol.label, record.limit, record.environment.dtype


def _meet(one: _Side, two: _Side, store: RunStore) -> list[Matched]:
    found: list[Matched] = []
    suites = [suite for suite in _suites(one) if suite in _suites(two)]
    if not suites:
        raise RecordError(
            f"'{one.asked}' was run on {', '.join(_suites(one))}, '{two.asked}' on {', '.join(_suites(two))}: "
            "no suite in common",
            where=str(store.root),
        )
    for suite in suites:
        first = [run for run in one.runs if run.record.suite == suite]
        second = [run for run in two.runs if run.record.suite == suite]
        keys = {_key(run.record) for run in first} & {_key(run.record) for run in second}
        if not keys and not (one.pinned or two.pinned):
            raise RecordError(
                f"'{one.asked}' and '{two.asked}' have no run of {suite} under one protocol, limit and number format",
                where=str(store.root),
                fix="there are: " + "; ".join(_described(run.record) for run in (*first, *second)),
            )
        if len(keys) > 1:
            choices = [
                f"--protocol {label.rpartition(' v')[0]}{_limit(limit)} ({dtype})"
                for label, limit, dtype in sorted(keys, key=str)
            ]
            raise ConfigError(
                f"'{one.asked}' and '{two.asked}' were both run on {suite} in {len(keys)} ways",
                where="compare",
                fix=f"choose one: {'; '.join(choices)}; or name two run ids",
            )
        if keys:
            (key,) = keys
            first = [run for run in first if _key(run.record) == key]
            second = [run for run in second if _key(run.record) == key]
        found.append(_by_seed(first, second, one, two))
    return found


def _limit(limit: int | None) -> str:
    return "" if limit is None else f" --limit {limit}"


def _suites(side: _Side) -> list[str]:
    return list(dict.fromkeys(run.record.suite for run in side.runs))


def _by_seed(first: Sequence[Run], second: Sequence[Run], one: _Side, two: _Side) -> Matched:
    by_seed = [_newest_by_seed(runs) for runs in (first, second)]
    common = sorted(by_seed[0].keys() & by_seed[1].keys())
    warnings: list[str] = []
    if not common:
        if len(first) == len(second) == 1:
            return _matched(first, second, warnings)
        raise ConfigError(
            f"'{one.asked}' has the seeds {sorted(by_seed[0])} and '{two.asked}' {sorted(by_seed[1])}: none in common",
            where="compare",
            fix="name two run ids, or run the missing seeds",
        )
    for side, seeds in zip((one, two), by_seed, strict=True):
        if left := sorted(seeds.keys() - set(common)):
            warnings.append(f"'{side.asked}' also has the seeds {', '.join(map(str, left))}: left out")
    return _matched([by_seed[0][seed] for seed in common], [by_seed[1][seed] for seed in common], warnings)


def _newest_by_seed(runs: Sequence[Run]) -> dict[int, Run]:
    return {run.record.seed: run for run in sorted(runs, key=lambda run: (run.record.finished_utc, run.record.run_id))}


def _matched(first: Sequence[Run], second: Sequence[Run], warnings: Sequence[str]) -> Matched:
    found = list(warnings)
    seeds = [(one.record.seed, two.record.seed) for one, two in zip(first, second, strict=True)]
    if any(one != two for one, two in seeds):
        found.append(
            f"the seeds differ ({seeds[0][0]} and {seeds[0][1]}): the difference holds what the seeds of training do"
        )
    elif len(seeds) == 1:
        found.append("one seed: no interval here covers what another training would give")
    for run in (*first, *second):
        if not run.record.complete:
            found.append(f"{run.record.run_id} did not score every task")
    return Matched(first=tuple(first), second=tuple(second), warnings=tuple(found))
