"""Curves over training: distances by moment from the records, losses from the logs that the cache still holds."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ovbench.results.formats import layout
from ovbench.results.record import MAIN
from ovbench.results.report.charts import NUM_COLOURS, Axis, Line, lines
from ovbench.results.report.gather import Run
from ovbench.results.report.tradeoff import Chart
from ovbench.results.table import Column, ComparisonTable, Row

MAX_SERIES = 2 * NUM_COLOURS
_MOMENT = re.compile(r"(?P<count>[0-9]+(\.[0-9]+)?) epochs?")
_UNTRAINED = "untrained"
_MAX_POINTS = 200  # of a loss curve


def by_training(tables: Sequence[ComparisonTable], colours: Mapping[str, int]) -> list[Chart]:
    """Returns a chart per task of pictures whose headline was measured at several moments of training."""
    found: list[Chart] = []
    for table in tables:
        for task in table.tasks:
            columns = {
                moment: column
                for column in table.columns
                if column.task == task.name and column.metric == task.headline and column.control == MAIN
                if (moment := _epochs(column.group)) is not None
            }
            if len(columns) > 1:
                chart = _moments(table, task.name, dict(sorted(columns.items())), colours)
                found += [chart] if chart else []
    return found


def _epochs(group: str | None) -> float | None:
    """Returns the epochs of a moment of training; None: the group is not one."""
    if group == _UNTRAINED:
        return 0.0
    match = _MOMENT.fullmatch(group or "")
    return float(match["count"]) if match else None


def _moments(
    table: ComparisonTable, task: str, columns: Mapping[float, Column], colours: Mapping[str, int]
) -> Chart | None:
    series = [line for row in table.rows if (line := _line(row, columns, colours)) is not None]
    if not series:
        return None
    kept = series[:MAX_SERIES]
    column = next(iter(columns.values()))
    better = {True: 1, False: -1, None: 0}[column.higher_is_better]
    unit = layout.shown_unit(column.unit)
    title = f"{task}: {column.metric} by training · {table.title}"
    counts = sorted({entry.n for entry in columns.values()})
    note = f"each moment from {', '.join(f'{count:,}' for count in counts)} samples; bars: 95% intervals"
    return Chart(
        title=title,
        svg=lines(kept, Axis(title="epochs"), Axis(title=f"{column.metric}, {unit}", better=better), title=title),
        note=_capped(note, len(series)),
        legend=tuple((line.series, line.label) for line in kept),
        data=tuple(
            f"{line.label}: " + ", ".join(f"{x:g}: {y:.2f}" for x, y in zip(line.xs, line.ys, strict=True))
            for line in kept
        ),
    )


def _line(row: Row, columns: Mapping[float, Column], colours: Mapping[str, int]) -> Line | None:
    xs: list[float] = []
    ys: list[float] = []
    ends: list[tuple[float, float] | None] = []
    for moment, column in columns.items():
        cell = row.cell(column)
        if cell.value is None:
            continue
        xs.append(moment)
        ys.append(layout.scale(cell.value, column.unit))
        low, high = cell.low, cell.high
        whole = low is not None and high is not None
        ends.append((layout.scale(low, column.unit), layout.scale(high, column.unit)) if whole else None)  # pyright: ignore[reportArgumentType]
    if len(xs) < 2:
        return None
    return Line(label=row.label, xs=tuple(xs), ys=tuple(ys), ends=tuple(ends), series=colours.get(row.label, 0))


def losses(runs: Sequence[Run], cache: Path | None, colours: Mapping[str, int]) -> tuple[list[Chart], tuple[str, ...]]:
    """Returns a chart per kind of training whose logs are in the cache, and what is missing.

    Args:
        runs: In the order in which they get their colours.
        cache: Folder of finished steps; None: no logs.
        colours: Encoder → number of its colour.
    """
    found: dict[str, list[Line]] = {}
    seen: set[tuple[str, str]] = set()
    faults: list[str] = []
    for run in runs if cache is not None else ():
        record = run.record
        for step in record.steps:
            folder = cache / step.name / step.key if cache is not None else None
            if folder is None or not folder.is_dir():
                continue
            for path in sorted(folder.glob("*.log.jsonl")):
                name = path.name.removesuffix(".log.jsonl")
                if (name, step.key) in seen:  # several runs may share a step
                    continue
                seen.add((name, step.key))
                label = f"{record.encoder.spec} · {record.protocol.name} · seed {record.seed}"
                try:
                    line = _log(path, label, colours.get(record.encoder.spec, 0))
                except (OSError, ValueError, KeyError, TypeError) as error:
                    faults.append(f"{step.name} {step.key[:12]}: its log cannot be read: {type(error).__name__}")
                    continue
                if line is not None:
                    found.setdefault(name, []).append(line)
    return [_loss_chart(name, series) for name, series in sorted(found.items())], tuple(faults)


def _log(path: Path, label: str, series: int) -> Line | None:
    rows = [json.loads(text) for text in path.read_text(encoding="utf-8").splitlines() if text.strip()]
    pairs = [(float(row["step"]), float(row["loss"])) for row in rows]
    pairs = [pair for pair in pairs if all(map(math.isfinite, pair))]
    step = -(-len(pairs) // _MAX_POINTS) or 1
    kept = [*pairs[:-1:step], *pairs[-1:]]
    if len(kept) < 2:
        return None
    xs, ys = zip(*kept, strict=True)
    return Line(label=label, xs=xs, ys=ys, series=series)


def _loss_chart(name: str, series: Sequence[Line]) -> Chart:
    kept = series[:MAX_SERIES]
    title = f"loss of {name} by step"
    return Chart(
        title=title,
        svg=lines(kept, Axis(title="steps"), Axis(title="loss"), title=title),
        note=_capped("each point is the mean since the row before in the log", len(series)),
        legend=tuple((line.series, line.label) for line in kept),
        data=tuple(f"{line.label}: {line.ys[0]:.4g} to {line.ys[-1]:.4g} in {line.xs[-1]:g} steps" for line in kept),
    )


def _capped(note: str, count: int) -> str:
    return note + (f"; the first {MAX_SERIES} of {count}" if count > MAX_SERIES else "")
