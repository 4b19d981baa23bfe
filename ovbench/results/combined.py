"""One row per encoder over all suites: the headlines of understanding, reconstruction and generation beside the cost.

The columns are those of the comparison tables, so none mixes protocols, scorers or counts. What was not run is missing
and says so.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovbench.results.cells import Cell
from ovbench.results.printed import Footnotes, Line, Printed, Section, Shown, number, scale
from ovbench.results.record import MAIN, EncoderRecord, RunRecord
from ovbench.results.table import Column, ComparisonTable, Row

_SUITES = ("understanding", "reconstruction", "generation")
_SPEEDS = ("encode", "speed: encode")  # the encoder alone, as records of the suites name it
_PAPER = ("llava15-", "rae-imagenet256")  # protocols of different suites that together are the papers' set-up
_DIGITS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Headline:
    """One column: a headline of a comparison table."""

    table: ComparisonTable
    column: Column
    telling: str  # what tells it from another column of the same task; empty: nothing has to

    @property
    def header(self) -> tuple[str, ...]:
        """The lines above the column."""
        unit = "%" if self.column.unit == "fraction" else self.column.unit
        arrow = f" {self.column.direction}" if self.column.direction else ""
        lines = (self.table.suite, self.column.task, f"{self.column.metric} {unit}{arrow}", f"n={self.column.n}")
        return (*lines, self.telling) if self.telling else lines


@dataclass(frozen=True, kw_only=True, slots=True)
class CombinedRow:
    """An encoder, or an encoder that is a control, with one set of weights."""

    label: str
    kind: str
    encoder: EncoderRecord
    dtype: str | None
    rows: Mapping[int, Row]  # position of a headline → the row of its table
    speed: Cell  # images/s of the encoder alone

    def cell(self, position: int, headline: Headline) -> Cell:
        """Returns the cell of a headline; one that is missing says why."""
        row = self.rows.get(position)
        if row is not None:
            return row.cell(headline.column)
        return Cell(value=None, reason=f"{headline.table.suite} was not run with this encoder and this protocol")

    @property
    def tokens(self) -> tuple[int, ...]:
        """Numbers of tokens at which the suites read it, the first suite's first."""
        counts = [row.encoder.num_tokens for row in self.rows.values() if row.encoder is not None]
        return tuple(dict.fromkeys(counts))

    @property
    def run_ids(self) -> tuple[str, ...]:
        """Every run behind the row."""
        return tuple(sorted({run_id for row in self.rows.values() for run_id in row.run_ids}))


@dataclass(frozen=True, kw_only=True, slots=True)
class CombinedSheet:
    """All suites under one protocol, or under the papers' protocols together."""

    family: str
    limit: int | None
    headlines: tuple[Headline, ...]
    rows: tuple[CombinedRow, ...]
    machines: tuple[str, ...]  # where speeds were measured

    @property
    def title(self) -> str:
        """What is combined."""
        limit = f" · limit {self.limit} questions per task" if self.limit is not None else ""
        return f"all suites · {self.family}{limit}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What the marks and the costs are."""
        lines = ["[low, high]: 95% interval, as in the table of the suite"]
        marks = {row.cell(at, head).mark for row in self.rows for at, head in enumerate(self.headlines)}
        lines += ["*: best, told apart from every other row of the suite's table"] if "best" in marks else []
        lines += ["=: not told apart from the first"] if "tied" in marks else []
        lines.append("front end: parameters of a VAE in front of the encoder, not among its own")
        if any(len(row.tokens) > 1 for row in self.rows):
            lines.append("several numbers of tokens: the suites read the encoder at several sizes, in their order")
        where = f"on {'; '.join(self.machines)}, at the first of its sizes"
        speeds = [f"images/s: the encoder alone, {where}"] if self.machines else []
        return (*lines, *speeds)

    def lay_out(self) -> Printed:
        """Returns one line per encoder."""
        notes = Footnotes()
        costs = (("cost", "params", "M"), ("cost", "front end", "M"), ("cost", "tokens"), ("cost", "images/s"))
        section = Section(
            title="",
            headers=(("encoder",), *(headline.header for headline in self.headlines), *costs),
            rows=tuple(self._line(row, notes) for row in self.rows),
        )
        return Printed(title=self.title, sections=(section,), footnotes=notes.lines, legend=self.notes)

    def _line(self, row: CombinedRow, notes: Footnotes) -> Line:
        cells = [
            _shown(row.cell(position, headline), headline.column.unit, notes)
            for position, headline in enumerate(self.headlines)
        ]
        encoder = row.encoder
        name = row.label + {"control": " (control)", "untrained": " (UNTRAINED)"}.get(row.kind, "")
        costs = [
            Shown(value=f"{encoder.num_params / 1e6:.2f}", key=encoder.num_params),
            Shown(value=f"{encoder.num_params_frontend / 1e6:.2f}", key=encoder.num_params_frontend),
            Shown(value=", ".join(map(str, row.tokens)), key=encoder.num_tokens),
            _shown(row.speed, "count", notes),
        ]
        return Line(cells=(Shown(value=name), *cells, *costs), muted=row.kind != "encoder")

    def long_rows(self) -> list[dict[str, Any]]:
        """Returns one row per headline, and the costs as scores of a task `cost`."""
        return [entry for row in self.rows for entry in (*self._scores(row), *self._costs(row))]

    def _about(self, row: CombinedRow) -> dict[str, Any]:
        encoder = row.encoder
        return {
            "limit": self.limit,
            "row": row.label,
            "kind": row.kind,
            "encoder": encoder.spec,
            "dtype": row.dtype,
            "weights_digest": encoder.weights_digest,
            "num_params": encoder.num_params,
            "num_params_frontend": encoder.num_params_frontend,
            "num_tokens": encoder.num_tokens,
            "dim": encoder.dim,
            "table": self.title,
            "control": MAIN,
        }

    def _scores(self, row: CombinedRow) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for position, headline in enumerate(self.headlines):
            cell, column, own = row.cell(position, headline), headline.column, row.rows.get(position)
            rank = cell.rank or (None, None)
            found.append(
                self._about(row)
                | {
                    "suite": headline.table.suite,
                    "protocol": headline.table.protocol,
                    "protocol_version": headline.table.protocol_version,
                    "num_seeds": len(cell.seeds),
                    "seeds": list(cell.seeds),
                    "task": column.task,
                    "task_version": column.task_version,
                    "scorer": column.scorer,
                    "metric": column.metric,
                    "headline": True,
                    "unit": column.unit,
                    "higher_is_better": column.higher_is_better,
                    "n": column.n,
                    "value": cell.value,
                    "low": cell.low,
                    "high": cell.high,
                    "interval": cell.interval,
                    "spread": cell.spread,
                    "mark": cell.mark,
                    "mark_basis": cell.basis or None,
                    "rank_low": rank[0],
                    "rank_high": rank[1],
                    "reason": cell.reason,
                    "run_ids": list(own.run_ids) if own else [],
                    "decoder": own.decoder if own else None,
                }
            )
        return found

    def _costs(self, row: CombinedRow) -> list[dict[str, Any]]:
        encoder = row.encoder
        costs = (
            ("parameters", "count", float(encoder.num_params), None, False),
            ("parameters of the front end", "count", float(encoder.num_params_frontend), None, False),
            ("tokens", "count", float(encoder.num_tokens), None, None),
            ("speed", "images/s", row.speed.value, row.speed.reason, True),
        )
        return [
            self._about(row)
            | {
                "task": "cost",
                "metric": name,
                "unit": unit,
                "higher_is_better": higher,
                "value": value,
                "reason": reason,
                "interval": "none: a count" if unit == "count" else row.speed.interval,
                "run_ids": list(row.run_ids),
            }
            for name, unit, value, reason, higher in costs
        ]


def combined_sheets(tables: Sequence[ComparisonTable], records: Sequence[RunRecord]) -> list[CombinedSheet]:
    """Returns a sheet per protocol, or for the papers' protocols together, and per limit.

    Args:
        tables: From `build_tables`; those of a sweep of guidance have several rows per encoder and are left out.
        records: The runs behind them.
    """
    families: dict[tuple[str, int | None], list[ComparisonTable]] = {}
    for table in tables:
        if not any(row.guidance for row in table.rows):
            families.setdefault((_family(table), table.limit), []).append(table)
    by_id = {record.run_id: record for record in records}
    return [_sheet(family, limit, own, by_id) for (family, limit), own in families.items()]


def _family(table: ComparisonTable) -> str:
    name = _bare(table)
    return "the papers' protocols" if name.startswith(_PAPER) else f"protocol {name} v{table.protocol_version}"


def _bare(table: ComparisonTable) -> str:
    """Returns the protocol's name without what departs from it."""
    return table.protocol.partition(", ")[0]


def _sheet(
    family: str, limit: int | None, tables: Sequence[ComparisonTable], records: Mapping[str, RunRecord]
) -> CombinedSheet:
    ordered = sorted(tables, key=lambda table: _SUITES.index(table.suite) if table.suite in _SUITES else len(_SUITES))
    headlines = _headlines(ordered)
    found: list[dict[int, Row]] = []  # one entry per encoder: position of a headline → row
    for position, headline in enumerate(headlines):
        for row in headline.table.rows:
            if row.encoder is not None and headline.column in row.cells:
                home = next((own for own in found if all(_same(row, other) for other in own.values())), None)
                if home is None:
                    found.append(home := {})
                home[position] = row
    firsts = [next(iter(by_headline.values())) for by_headline in found]
    labels = [first.label for first in firsts]
    rows: list[CombinedRow] = []
    machines: dict[str, None] = {}
    for first, by_headline in zip(firsts, found, strict=True):
        assert first.encoder is not None, "chance has no weights and was left out"
        label = first.label
        if labels.count(label) > 1:
            label += f" weights {first.encoder.weights_digest[:_DIGITS]}"
        speed, machine = _speed(first.encoder, by_headline.values(), records)
        machines |= {machine: None} if machine else {}
        rows.append(
            CombinedRow(
                label=label, kind=first.kind, encoder=first.encoder, dtype=first.dtype, rows=by_headline, speed=speed
            )
        )
    rows.sort(key=_order(headlines))
    return CombinedSheet(
        family=family, limit=limit, headlines=tuple(headlines), rows=tuple(rows), machines=tuple(sorted(machines))
    )


def _headlines(tables: Sequence[ComparisonTable]) -> list[Headline]:
    chosen = [
        (table, column)
        for table in tables
        for column in table.columns
        if column.control == MAIN and column.group is None and column.metric == table.headline(column.task)
    ]
    tasks = [(table.suite, column.task) for table, column in chosen]
    several = len({_bare(table) for table in tables}) > 1
    found: list[Headline] = []
    for table, column in chosen:
        words = [table.protocol] if several else []
        if tasks.count((table.suite, column.task)) > 1:
            # A departure stands behind the protocol's name; what the titles of the tables say beside it tells the rest.
            words += [] if several else [table.protocol] if ", " in table.protocol else []
            words += list(table.details)
        found.append(Headline(table=table, column=column, telling=", ".join(words)))
    return found


def _same(one: Row, two: Row) -> bool:
    """Whether rows of two suites are of one encoder.

    Suites may read it at different sizes, which resizes its positions and so changes the digest of its weights: digests
    are compared at equal grids alone. A control may draw other weights for every seed.
    """
    first, second = one.encoder, two.encoder
    assert first is not None, "chance has no weights"
    assert second is not None, "chance has no weights"
    if (first.spec, one.dtype, first.weights) != (second.spec, two.dtype, second.weights):
        return False
    return first.control or first.grid != second.grid or first.weights_digest == second.weights_digest


def _order(headlines: Sequence[Headline]) -> Callable[[CombinedRow], tuple[Any, ...]]:
    """Encoders before controls; by the first headline, best first, missing last; then by name."""

    def of(row: CombinedRow) -> tuple[Any, ...]:
        signed: list[tuple[bool, float]] = []
        for position, headline in enumerate(headlines):
            value = row.cell(position, headline).value
            better = -1.0 if headline.column.higher_is_better is not False else 1.0
            signed.append((value is None, 0.0 if value is None else better * value))
        return row.kind != "encoder", signed, row.label

    return of


def _speed(encoder: EncoderRecord, rows: Iterable[Row], records: Mapping[str, RunRecord]) -> tuple[Cell, str]:
    """Returns images/s of the encoder over its runs on one machine, and the machine; speeds of two are not averaged.

    Runs that read it at another size are left out.
    """
    found: dict[str, list[float]] = {}
    for run_id in sorted({run_id for row in rows for run_id in row.run_ids}):
        record = records.get(run_id)
        if record is None or record.encoder.grid != encoder.grid:
            continue
        for entry in record.measurements:
            if entry.name in _SPEEDS and entry.value is not None and entry.unit == "images/s":
                found.setdefault(_machine(record), []).append(entry.value)
    if not found:
        return Cell(value=None, reason="no run measured its speed: its features were in the cache"), ""
    if len(found) > 1:
        return Cell(value=None, reason=f"its speed was measured on {len(found)} kinds of machine"), ""
    ((machine, values),) = found.items()
    how = f"none: median of {len(values)} run(s)"
    return Cell(value=statistics.median(values), interval=how), machine


def _machine(record: RunRecord) -> str:
    about = record.environment
    name = about.device_name or about.cpu
    threads = f", {about.num_threads} thread(s)" if about.device == "cpu" else ""
    return f"{about.device} ({name}{threads})"


def _shown(cell: Cell, unit: str, notes: Footnotes) -> Shown:
    if cell.value is None:
        assert cell.reason is not None, "a missing value has a reason"
        return notes.missing(cell.reason)
    interval = ""
    if cell.low is not None and cell.high is not None:
        interval = f"[{number(cell.low, unit)}, {number(cell.high, unit)}]"
    return Shown(value=number(cell.value, unit), interval=interval, mark=cell.mark, key=scale(cell.value, unit))
