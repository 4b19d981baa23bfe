"""Records → comparison tables. A column never mixes protocols, task versions, scorers, data, limits or counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ovbench._base.fingerprint import fingerprint
from ovbench.results.cells import Cell, Mark, make_cell
from ovbench.results.marks import mark_best
from ovbench.results.picture_settings import (
    PICTURE_KINDS,
    chance_of,
    decoder_of,
    details_of,
    guidance_of,
    without_guidance,
)
from ovbench.results.record import CONTROLS, MAIN, EncoderRecord, MetricValue, RunRecord, TaskRecord
from ovbench.results.store import newest
from ovbench.results.table_notes import notes_of
from ovbench.results.titles import told_apart

__all__ = ["COSTS", "PICTURE_KINDS", "Cell", "Column", "ComparisonTable", "Mark", "Row", "build_tables"]
COSTS = ("NFE", "network passes")  # per sample: velocities that the solver asked for, and runs; columns of sweeps


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """One metric of one task under one control. Equal columns are comparable."""

    task: str
    task_version: int
    scorer: str
    metric: str
    control: str  # none, shuffled or blind
    group: str | None  # dimension or split; None: all questions
    unit: str
    higher_is_better: bool | None
    n: int  # questions behind every value

    @property
    def direction(self) -> str:
        """An arrow to the better side, or nothing."""
        return {True: "↑", False: "↓", None: ""}[self.higher_is_better]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """An encoder, an encoder that is a control, or chance."""

    label: str
    kind: Literal["encoder", "control", "untrained", "chance"]
    encoder: EncoderRecord | None  # None: chance
    dtype: str | None
    seeds: tuple[int, ...]
    run_ids: tuple[str, ...]
    cells: Mapping[Column, Cell]
    decoder: str = ""  # which one made the pictures, see `decoder_of`; empty: not of pictures
    guidance: str = ""  # of the samples, as `--guidance` reads it; empty: not a row of a sweep

    def cell(self, column: Column) -> Cell:
        """Returns the cell of a column; one that is missing says why."""
        return self.cells.get(column) or Cell(value=None, reason=f"{column.task} was not run with this encoder")


@dataclass(frozen=True, kw_only=True, slots=True)
class ComparisonTable:
    """Rows that may be compared, with all their columns. Formats choose which of the columns they show."""

    suite: str
    protocol: str
    protocol_version: int
    limit: int | None
    tasks: tuple[TaskRecord, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())
    details: tuple[str, ...] = ()  # what the title says beside the protocol's name
    recipe: str = ""  # fingerprint of the protocol's content

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that occurs."""
        return tuple(sorted({seed for row in self.rows for seed in row.seeds}))

    @property
    def title(self) -> str:
        """Suite, protocol with version, what departs from it, task versions where they are not 1, limit and seeds."""
        parts = [self.suite, f"protocol {self.protocol} v{self.protocol_version}", *self.details]
        parts += [f"{task.name} v{task.version}" for task in self.tasks if task.version != 1]
        parts += [f"limit {self.limit} questions per task"] if self.limit is not None else []
        few = {1: "one seed", 2: "two seeds"}.get(len(self.seeds), f"{len(self.seeds)} seeds")
        return " · ".join([*parts, f"{few} ({', '.join(map(str, self.seeds))})"])

    def headline(self, task: str) -> str:
        """Returns the metric of a task that stands for it."""
        return next(entry.headline for entry in self.tasks if entry.name == task)


def build_tables(records: Iterable[RunRecord]) -> list[ComparisonTable]:
    """Returns one table per set of comparable records, in a fixed order.

    Of each (encoder, task, seed) the newest complete record counts. Records that ran a task in another version, with
    another scorer, on other data or with another number of questions go into another table.

    Runs that differ in guidance alone are a sweep: one table, a row per encoder and guidance. An encoder that was run
    with one guidance stays out of it, and what is all in a sweep gets no other table.
    """
    kept = newest(records)
    sweeps, swept = _sweeps(kept)
    tables = [
        _table(bucket.records)
        for bucket in _buckets(kept)
        if any(record.run_id not in swept for record in bucket.records)
    ]
    numbered = sorted(enumerate([*tables, *sweeps]), key=lambda item: (*_order(item[1]), item[0]))
    return told_apart([table for _, table in numbered])


def _buckets(records: Sequence[RunRecord]) -> list[_Bucket]:
    """Returns comparable records together; the records are given oldest first."""
    buckets: list[_Bucket] = []
    for record in reversed(records):
        home = next((bucket for bucket in buckets if bucket.takes(record)), None)
        if home is None:
            home = _Bucket(base=_base(record))
            buckets.append(home)
        home.add(record)
    return buckets


def _sweeps(records: Sequence[RunRecord]) -> tuple[list[ComparisonTable], set[str]]:
    """Returns a table per set of runs that differ in guidance alone, and the ids of the runs in them."""
    guidance = {record.run_id: found for record in records if (found := guidance_of(record))}
    plain = [without_guidance(record) for record in records if record.run_id in guidance]
    tables: list[ComparisonTable] = []
    swept: set[str] = set()
    for bucket in _buckets(plain):
        settings: dict[tuple[str, str], set[str]] = {}
        for record in bucket.records:
            settings.setdefault(_of_row(record), set()).add(guidance[record.run_id])
        own = [record for record in bucket.records if len(settings[_of_row(record)]) > 1]
        if own:
            tables.append(_table(own, guidance=lambda record: guidance[record.run_id]))
            swept |= {record.run_id for record in own}
    return tables, swept


def _of_row(record: RunRecord) -> tuple[str, str]:
    return record.encoder.spec, record.environment.dtype


def _order(table: ComparisonTable) -> tuple[str, str, int, bool, int]:
    limited = table.limit is not None
    return table.suite, table.protocol, -table.protocol_version, limited, -(table.limit or 0)


def _base(record: RunRecord) -> str:
    return fingerprint([record.suite, record.protocol, record.limit])


def _signature(task: TaskRecord) -> str:
    return fingerprint([task.version, task.scorer, task.data_digest, task.n, task.headline])


@dataclass(kw_only=True, slots=True)
class _Bucket:
    """Records that agree on the protocol's content, the limit, and on every task that two of them share."""

    base: str
    signatures: dict[str, str] = field(default_factory=dict)
    records: list[RunRecord] = field(default_factory=list)  # newest first

    def takes(self, record: RunRecord) -> bool:
        return self.base == _base(record) and all(
            self.signatures.get(task.name, _signature(task)) == _signature(task) for task in record.tasks
        )

    def add(self, record: RunRecord) -> None:
        self.signatures |= {task.name: _signature(task) for task in record.tasks}
        self.records.append(record)


def _column(metric: MetricValue, task: TaskRecord) -> Column:
    return Column(
        task=task.name,
        task_version=task.version,
        scorer=task.scorer,
        metric=metric.name,
        control=metric.control,
        group=metric.group,
        unit=metric.unit,
        higher_is_better=metric.higher_is_better,
        n=metric.n,
    )


def _table(records: Sequence[RunRecord], guidance: Callable[[RunRecord], str] | None = None) -> ComparisonTable:
    """Returns the table of comparable records, newest first.

    Args:
        records: One bucket's, or some of it.
        guidance: Of a sweep: what tells the runs of an encoder apart.
    """
    tasks: dict[str, TaskRecord] = {}
    for record in sorted(records, key=lambda item: -len(item.tasks)):  # a full run decides the order of the tasks
        for task in record.tasks:
            tasks.setdefault(task.name, task)
    kept, left_out = _same_weights(records)
    if guidance is None:
        rows = _labelled([_row(group) for group in kept])
    else:
        rows = [row for group in kept for row in _rows_of_sweep(group, guidance)]
    columns = sorted({column: None for row in rows for column in row.cells}, key=_column_order(tasks, records))
    if guidance is None:
        rows.sort(key=lambda row: _row_order(row, columns, tasks))
    marked = mark_best(rows, columns)
    first = records[0]
    used = {run_id for row in rows for run_id in row.run_ids}
    return ComparisonTable(
        suite=first.suite,
        protocol=first.protocol.name,
        protocol_version=first.protocol.version,
        limit=first.limit,
        tasks=tuple(tasks.values()),
        columns=tuple(columns),
        rows=(*marked, *_chance_rows(columns, tasks, first)),
        notes=(*left_out, *notes_of([record for record in records if record.run_id in used], rows)),
        details=(*details_of(first), *(("sweep of guidance",) if guidance is not None else ())),
        recipe=fingerprint(first.protocol.content),
    )


def _rows_of_sweep(records: Sequence[RunRecord], guidance: Callable[[RunRecord], str]) -> list[Row]:
    """Returns a row per guidance of one encoder, the weakest first, with how often the network ran."""
    groups: dict[str, list[RunRecord]] = {}
    for record in records:
        groups.setdefault(guidance(record), []).append(record)
    rows: list[Row] = []
    for text in sorted(groups, key=_strength):
        (row,) = _labelled([_row(groups[text], with_costs=True)])
        rows.append(replace(row, label=f"{row.label} {text}", guidance=text))
    return rows


def _strength(guidance: str) -> tuple[str, float, str]:
    """Orders guidances by kind and scale: none, auto, cfg."""
    kind, scale = re.match(r"(?P<kind>[a-z]*):?(?P<scale>[0-9.]*)", guidance).groups()  # pyright: ignore[reportOptionalMemberAccess]
    return "" if kind == "none" else kind, float(scale or 0), guidance


def _same_weights(records: Sequence[RunRecord]) -> tuple[list[list[RunRecord]], tuple[str, ...]]:
    """Groups records by row, newest first. Of an encoder whose weights changed only the newest weights stay.

    A control may draw its weights from the seed, so its identity may differ between seeds.
    """
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    left_out: dict[str, int] = {}
    for record in records:
        group = groups.setdefault((record.encoder.spec, record.environment.dtype), [])
        if group and not record.encoder.control and group[0].encoder.identity != record.encoder.identity:
            left_out[record.encoder.spec] = left_out.get(record.encoder.spec, 0) + 1
            continue
        group.append(record)
    notes = [f"{count} older run(s) of {spec} left out: other weights" for spec, count in sorted(left_out.items())]
    return list(groups.values()), tuple(notes)


def _kind(record: RunRecord) -> Literal["encoder", "control", "untrained"]:
    if record.encoder.untrained:
        return "untrained"
    return "control" if record.encoder.control else "encoder"


def _row(records: Sequence[RunRecord], *, with_costs: bool = False) -> Row:
    found: dict[Column, dict[int, MetricValue]] = {}
    used: dict[tuple[str, int], RunRecord] = {}
    for record in records:  # newest first: the first record of a (task, seed) is the one that counts
        for task in record.tasks:
            if (task.name, record.seed) in used:
                continue
            used[task.name, record.seed] = record
            for metric in (*record.metrics, *(_costs(record, task) if with_costs else [])):
                if metric.task == task.name:
                    found.setdefault(_column(metric, task), {})[record.seed] = metric
    newest_record = records[0]
    seeds = sorted({seed for _, seed in used})
    if _ignores_seed(newest_record, found):
        seeds = seeds[:1]
        found = {column: {seeds[0]: by_seed[seeds[0]]} for column, by_seed in found.items()}
    return Row(
        label=newest_record.encoder.spec,
        kind=_kind(newest_record),
        encoder=newest_record.encoder,
        dtype=newest_record.environment.dtype,
        seeds=tuple(seeds),
        run_ids=tuple(sorted({record.run_id for record in used.values()})),
        cells={column: make_cell(by_seed) for column, by_seed in found.items()},
        decoder=decoder_of(newest_record),
    )


def _ignores_seed(record: RunRecord, found: Mapping[Column, Mapping[int, MetricValue]]) -> bool:
    """Whether several seeds gave the same reconstructions to the last bit: nothing was drawn, so they are one."""
    if record.suite != "reconstruction" or not found:
        return False
    seeds = {tuple(sorted(by_seed)) for by_seed in found.values()}
    same = all(
        len({(metric.value, metric.low, metric.high, metric.n) for metric in by_seed.values()}) == 1
        for by_seed in found.values()
    )
    return same and len(seeds) == 1 and len(seeds.pop()) > 1


def _costs(record: RunRecord, task: TaskRecord) -> list[MetricValue]:
    """Returns what a sample cost, as columns of their own: neither way is better."""
    known = {entry.name: entry for entry in record.measurements}
    return [
        MetricValue(
            task=task.name,
            name=name,
            control=MAIN,
            group=None,
            value=known[name].value if name in known else None,
            unit="per sample",
            higher_is_better=None,
            n=task.n,
            low=None,
            high=None,
            interval="none: a count",
            reason=known[name].reason if name in known else "it was not recorded",
        )
        for name in COSTS
    ]


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Adds the number format to a label where it is not float32."""
    return [replace(row, label=f"{row.label} ({row.dtype})") if row.dtype != "float32" else row for row in rows]


def _column_order(
    tasks: Mapping[str, TaskRecord], records: Sequence[RunRecord]
) -> Callable[[Column], tuple[int, int, int, int, int, str]]:
    names: dict[str, int] = {}
    for name in (*COSTS, *(metric.name for record in records for metric in record.metrics)):
        names.setdefault(name, len(names))
    positions = {name: position for position, name in enumerate(tasks)}

    def order(column: Column) -> tuple[int, int, int, int, int, str]:
        task = tasks[column.task]
        controls = [*CONTROLS, column.control]
        groups = [None, *task.groups, column.group]
        return (
            positions[column.task],
            0 if column.metric == task.headline else 1 + names[column.metric],
            groups.index(column.group),
            controls.index(column.control),
            column.n,
            column.group or "",
        )

    return order


def _row_order(row: Row, columns: Sequence[Column], tasks: Mapping[str, TaskRecord]) -> tuple[bool, bool, float, str]:
    """Encoders before controls; by the first headline, best first, missing last; then by name."""
    for column in columns:
        if column.metric == tasks[column.task].headline and column.group is None and column.control == MAIN:
            value = row.cell(column).value
            signed = 0.0 if value is None else (-value if column.higher_is_better is not False else value)
            return row.kind != "encoder", value is None, signed, row.label
    return row.kind != "encoder", True, 0.0, row.label


def _chance_rows(columns: Sequence[Column], tasks: Mapping[str, TaskRecord], record: RunRecord) -> list[Row]:
    cells: dict[Column, Cell] = {}
    for column in columns:
        task = tasks[column.task]
        if task.kind in PICTURE_KINDS:
            if (level := chance_of(record, task, column.metric)) is not None:
                cells[column] = Cell(value=level, interval="none: a constant")
            continue
        if column.metric != task.headline or column.group is not None:
            continue
        reason = None if task.chance is not None else f"the chance level of {task.name} is not known"
        cells[column] = Cell(value=task.chance, reason=reason, interval="none: a constant")
    row = Row(label="chance", kind="chance", encoder=None, dtype=None, seeds=(), run_ids=(), cells=cells)
    return [row] if cells else []
