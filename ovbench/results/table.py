"""Records → comparison tables. A column never mixes protocols, task versions, scorers, data, limits or counts."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from ovbench._base.fingerprint import fingerprint
from ovbench.results.quantile import t_quantile
from ovbench.results.record import CONTROLS, MAIN, EncoderRecord, MetricValue, RunRecord, TaskRecord
from ovbench.results.store import newest

Mark = Literal["", "best", "tied"]
PICTURE_KINDS = ("generation", "reconstruction")  # kinds of tasks that score pictures: there is no chance level


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
class Cell:
    """One value, averaged over seeds."""

    value: float | None
    low: float | None = None  # 95% interval over the questions, and over the seeds where there are several
    high: float | None = None
    interval: str = ""  # how it was made
    by_seed: tuple[float, ...] = ()
    seeds: tuple[int, ...] = ()  # of `by_seed`
    mark: Mark = ""  # best: no other row's interval reaches it; tied: not separated from the best
    reason: str | None = None  # why there is no value

    @property
    def spread(self) -> float | None:
        """Sample standard deviation over seeds; None with one seed."""
        return statistics.stdev(self.by_seed) if len(self.by_seed) > 1 else None


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

    @property
    def seeds(self) -> tuple[int, ...]:
        """Every seed that occurs."""
        return tuple(sorted({seed for row in self.rows for seed in row.seeds}))

    @property
    def title(self) -> str:
        """Suite, protocol with version, task versions where they are not 1, limit and seeds."""
        parts = [self.suite, f"protocol {self.protocol} v{self.protocol_version}"]
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
    """
    buckets: list[_Bucket] = []
    for record in reversed(newest(records)):
        home = next((bucket for bucket in buckets if bucket.takes(record)), None)
        if home is None:
            home = _Bucket(base=_base(record))
            buckets.append(home)
        home.add(record)
    tables = [_table(bucket.records) for bucket in buckets]
    numbered = sorted(enumerate(tables), key=lambda item: (*_order(item[1]), item[0]))
    return [table for _, table in numbered]


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


def _table(records: Sequence[RunRecord]) -> ComparisonTable:
    tasks: dict[str, TaskRecord] = {}
    for record in sorted(records, key=lambda item: -len(item.tasks)):  # a full run decides the order of the tasks
        for task in record.tasks:
            tasks.setdefault(task.name, task)
    kept, notes = _same_weights(records)
    rows = [_row(group) for group in kept]
    columns = sorted(
        {column: None for row in rows for column in row.cells}, key=lambda column: _column_order(column, tasks, records)
    )
    rows = _labelled(rows)
    rows.sort(key=lambda row: _row_order(row, columns, tasks))
    marked = _mark(rows, columns)
    first = records[0]
    return ComparisonTable(
        suite=first.suite,
        protocol=first.protocol.name,
        protocol_version=first.protocol.version,
        limit=first.limit,
        tasks=tuple(tasks.values()),
        columns=tuple(columns),
        rows=(*marked, *_chance_rows(columns, tasks)),
        notes=notes,
    )


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


def _row(records: Sequence[RunRecord]) -> Row:
    found: dict[Column, dict[int, MetricValue]] = {}
    used: dict[tuple[str, int], RunRecord] = {}
    for record in records:  # newest first: the first record of a (task, seed) is the one that counts
        for task in record.tasks:
            if (task.name, record.seed) in used:
                continue
            used[task.name, record.seed] = record
            for metric in record.metrics:
                if metric.task == task.name:
                    found.setdefault(_column(metric, task), {})[record.seed] = metric
    newest_record = records[0]
    return Row(
        label=newest_record.encoder.spec,
        kind=_kind(newest_record),
        encoder=newest_record.encoder,
        dtype=newest_record.environment.dtype,
        seeds=tuple(sorted({seed for _, seed in used})),
        run_ids=tuple(sorted({record.run_id for record in used.values()})),
        cells={column: _cell(by_seed) for column, by_seed in found.items()},
    )


def _cell(by_seed: Mapping[int, MetricValue]) -> Cell:
    metrics = [by_seed[seed] for seed in sorted(by_seed)]
    for seed, metric in sorted(by_seed.items()):
        if metric.value is None:  # a mean over the other seeds would be another quantity
            prefix = f"seed {seed}: " if len(metrics) > 1 else ""
            return Cell(value=None, reason=f"{prefix}{metric.reason}", interval=metric.interval)
    values = tuple(metric.value for metric in metrics if metric.value is not None)
    lows = [metric.low for metric in metrics if metric.low is not None]
    highs = [metric.high for metric in metrics if metric.high is not None]
    whole = len(lows) == len(metrics)
    low = high = None
    if whole and len(metrics) == 1:
        low, high, how = lows[0], highs[0], metrics[0].interval
    elif whole:
        low, high, how = _over_seeds(values, lows, highs, metrics[0])
    else:
        how = next(metric.interval for metric in metrics if metric.low is None)
    return Cell(
        value=statistics.fmean(values),
        low=low,
        high=high,
        interval=how,
        by_seed=values,
        seeds=tuple(sorted(by_seed)),
    )


def _over_seeds(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], first: MetricValue
) -> tuple[float, float, str]:
    """Returns the interval of a mean over seeds, for questions and seeds together, and how it was made.

    All seeds answer the same questions, so the errors of the questions are taken as fully correlated: averaging does
    not shrink them. With sd_q the mean standard error over questions and s the standard deviation over k seeds, the
    variance is sd_q² + s² / k, with Student's t at Satterthwaite's degrees of freedom (doi 10.2307/3002019); the part
    of the questions counts as known.
    """
    count, mean = len(values), statistics.fmean(values)
    half_widths = [(high - low) / 2 for low, high in zip(lows, highs, strict=True)]
    questions = (statistics.fmean(half_widths) / t_quantile(math.inf)) ** 2
    seeds = statistics.variance(values) / count
    total = questions + seeds
    half = t_quantile((count - 1) * (total / seeds) ** 2 if seeds > 0 else math.inf) * math.sqrt(total)
    low, high = mean - half, mean + half
    if first.unit == "fraction":
        low, high = max(0.0, low), min(1.0, high)
    return low, high, f"{count} seeds and their questions (Satterthwaite t); one seed: {first.interval}"


def _labelled(rows: Sequence[Row]) -> list[Row]:
    """Adds the number format to a label where it is not float32."""
    return [replace(row, label=f"{row.label} ({row.dtype})") if row.dtype != "float32" else row for row in rows]


def _column_order(
    column: Column, tasks: Mapping[str, TaskRecord], records: Sequence[RunRecord]
) -> tuple[int, int, int, int, int, str]:
    task = tasks[column.task]
    names = list(dict.fromkeys(metric.name for record in records for metric in record.metrics))
    controls = [*CONTROLS, column.control]
    groups = [None, *task.groups, column.group]
    return (
        list(tasks).index(column.task),
        0 if column.metric == task.headline else 1 + names.index(column.metric),
        groups.index(column.group),
        controls.index(column.control),
        column.n,
        column.group or "",
    )


def _row_order(row: Row, columns: Sequence[Column], tasks: Mapping[str, TaskRecord]) -> tuple[bool, bool, float, str]:
    """Encoders before controls; by the first headline, best first, missing last; then by name."""
    for column in columns:
        if column.metric == tasks[column.task].headline and column.group is None and column.control == MAIN:
            value = row.cell(column).value
            signed = 0.0 if value is None else (-value if column.higher_is_better is not False else value)
            return row.kind != "encoder", value is None, signed, row.label
    return row.kind != "encoder", True, 0.0, row.label


def _mark(rows: Sequence[Row], columns: Sequence[Column]) -> list[Row]:
    """Marks the best row of each column where the difference is supported, and those that cannot be told from it.

    Supported means: no other row's 95% interval overlaps the best one's, and with several seeds no seed of another row
    reaches the worst seed of the best. A control competes and is never marked.
    """
    marks: dict[tuple[str, Column], Mark] = {}
    for column in columns:
        if column.control != MAIN or column.higher_is_better is None:
            continue
        sign = 1.0 if column.higher_is_better else -1.0
        ranked = sorted(
            ((sign * cell.value, row, cell) for row in rows if (cell := row.cell(column)).value is not None),
            key=lambda item: (-item[0], item[1].label),
        )
        if len(ranked) < 2:
            continue
        _, top_row, top = ranked[0]
        rivals = [row for _, row, cell in ranked[1:] if not _separated(top, cell, sign)]
        if not rivals and top_row.kind == "encoder":
            marks[top_row.label, column] = "best"
        for row in [top_row, *rivals] if rivals else []:
            if row.kind == "encoder":
                marks[row.label, column] = "tied"
    return [
        replace(
            row,
            cells={
                column: replace(cell, mark=marks.get((row.label, column), "")) for column, cell in row.cells.items()
            },
        )
        for row in rows
    ]


def _separated(top: Cell, other: Cell, sign: float) -> bool:
    if top.low is None or top.high is None or other.low is None or other.high is None:
        return False
    near, far = (top.low, other.high) if sign > 0 else (-top.high, -other.low)
    worst, reached = min(sign * value for value in top.by_seed), max(sign * value for value in other.by_seed)
    return near > far and worst > reached


def _chance_rows(columns: Sequence[Column], tasks: Mapping[str, TaskRecord]) -> list[Row]:
    cells: dict[Column, Cell] = {}
    for column in columns:
        task = tasks[column.task]
        if column.metric != task.headline or column.group is not None or task.kind in PICTURE_KINDS:
            continue
        reason = None if task.chance is not None else f"the chance level of {task.name} is not known"
        cells[column] = Cell(value=task.chance, reason=reason, interval="none: a constant")
    row = Row(label="chance", kind="chance", encoder=None, dtype=None, seeds=(), run_ids=(), cells=cells)
    return [row] if cells else []
