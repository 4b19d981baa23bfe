"""Measured minus published: for the same encoder, framework and score, within one source, with all that differs named.

The two numbers never share a column. A published number has no interval, so a difference here is a hint, not a test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ovbench.results.picture_settings import guidance_of
from ovbench.results.printed import AS_PUBLISHED, Line, Printed, Section, Shown
from ovbench.results.published.names import ENCODERS, SCORES, Score, frameworks_of
from ovbench.results.published.rows import PublishedRow
from ovbench.results.published.sources import source_of
from ovbench.results.record import MAIN, RunRecord
from ovbench.results.table import Cell, Column, ComparisonTable, Row

UNSTATED = "not stated"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """One measured score beside one published number."""

    row: Row
    column: Column
    cell: Cell  # with a value
    published: PublishedRow
    score: Score
    differences: tuple[tuple[str, str], ...]  # (what, here and there), for people

    @property
    def measured(self) -> float:
        """At the printed scale."""
        assert self.cell.value is not None, "only cells with a value are joined"
        return self.score.factor * self.cell.value

    @property
    def difference(self) -> float:
        """Measured minus published, at the printed scale."""
        return self.measured - self.published.value


@dataclass(frozen=True, kw_only=True, slots=True)
class JoinedSheet:
    """One measured table beside one published table."""

    table: ComparisonTable
    source: str
    source_table: str
    pairs: tuple[Pair, ...]

    @property
    def title(self) -> str:
        """Both sides."""
        return f"MEASURED − PUBLISHED · {self.table.title} · {self.source} · {self.source_table}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What each difference of the set-up is, once for all rows where it is the same."""
        source = source_of(self.source)
        lines = [
            "[low, high]: 95% interval of the measured value; published numbers have none, so no difference is tested",
            f"published: {source.citation}, {source.version}, {self.source_table}",
        ]
        found: dict[tuple[str, str], list[str]] = {}
        for pair in self.pairs:
            for entry in pair.differences:
                found.setdefault(entry, []).append(f"{pair.row.label} {pair.published.metric}")
        for (what, text), names in found.items():
            whose = "" if len(names) == len(self.pairs) else f" ({', '.join(names)})"
            lines.append(f"{what}{whose}: {text}")
        return tuple(lines)

    def lay_out(self) -> Printed:
        """Returns one line per pair."""
        headers = (
            ("encoder",), ("score",), ("differs in",), ("measured", "here"), ("published",),
            ("measured", "− published"),
        )  # fmt: skip
        section = Section(title="", headers=headers, rows=tuple(map(_line, self.pairs)), left=3)
        return Printed(title=self.title, sections=(section,), legend=self.notes)

    def long_rows(self) -> list[dict[str, Any]]:
        """Returns one row per pair, at the printed scale."""
        source = source_of(self.source)
        return [
            {
                "suite": self.table.suite,
                "protocol": self.table.protocol,
                "protocol_version": self.table.protocol_version,
                "limit": self.table.limit,
                "row": pair.row.label,
                "kind": "measured − published",
                "encoder": pair.row.encoder.spec if pair.row.encoder else None,
                "num_tokens": pair.row.encoder.num_tokens if pair.row.encoder else None,
                "task": pair.column.task,
                "task_version": pair.column.task_version,
                "scorer": pair.column.scorer,
                "metric": pair.published.metric,
                "higher_is_better": pair.published.higher_is_better,
                "n": pair.column.n,
                "value": pair.measured,
                "low": None if pair.cell.low is None else pair.score.factor * pair.cell.low,
                "high": None if pair.cell.high is None else pair.score.factor * pair.cell.high,
                "unit": AS_PUBLISHED,
                "interval": pair.cell.interval,
                "run_ids": list(pair.row.run_ids),
                "table": self.title,
                "source": self.source,
                "source_version": source.version,
                "source_table": self.source_table,
                "citation": source.citation,
                "framework": pair.published.framework or None,
                "llm": pair.published.llm or None,
                "resolution": pair.published.resolution or None,
                "params": pair.published.params or None,
                "reported": pair.published.value,
                "difference": pair.difference,
                "protocol_differences": "; ".join(f"{what}: {text}" for what, text in pair.differences),
            }
            for pair in self.pairs
        ]


def joined_sheets(
    tables: Sequence[ComparisonTable], records: Sequence[RunRecord], published: Sequence[PublishedRow]
) -> list[JoinedSheet]:
    """Returns a sheet per measured table and published table that have something in common.

    Args:
        tables: From `build_tables`; those of a sweep of guidance are left out, since a best was chosen there.
        records: The runs behind them.
        published: Rows of any sources.
    """
    by_id = {record.run_id: record for record in records}
    sheets: list[JoinedSheet] = []
    for table in tables:
        frameworks = frameworks_of(table.suite, table.protocol.partition(", ")[0])
        if not frameworks or any(row.guidance for row in table.rows):
            continue
        found: dict[tuple[str, str], list[Pair]] = {}
        for entry in published:
            if entry.framework in frameworks and (spec := ENCODERS.get((entry.encoder, entry.resolution))):
                for pair in _pairs(table, by_id, entry, spec):
                    found.setdefault((entry.source, entry.table), []).append(pair)
        sheets += [
            JoinedSheet(table=table, source=source, source_table=name, pairs=tuple(pairs))
            for (source, name), pairs in found.items()
        ]
    return sheets


def _pairs(table: ComparisonTable, records: Mapping[str, RunRecord], entry: PublishedRow, spec: str) -> list[Pair]:
    pairs: list[Pair] = []
    for row in table.rows:
        if row.kind != "encoder" or row.encoder is None or f"{row.encoder.family}/{row.encoder.variant}" != spec:
            continue
        for column in table.columns:
            score = SCORES.get((column.task, column.metric))
            cell = row.cell(column)
            if (
                score is None or entry.metric not in score.metrics or cell.value is None
                or column.group is not None or column.control != MAIN
            ):  # fmt: skip
                continue
            differences = _differences(table, row, column, entry, score, records[row.run_ids[-1]])
            pairs.append(Pair(row=row, column=column, cell=cell, published=entry, score=score, differences=differences))
    return pairs


def _differences(
    table: ComparisonTable, row: Row, column: Column, entry: PublishedRow, score: Score, record: RunRecord
) -> tuple[tuple[str, str], ...]:
    """Returns in what the two set-ups differ, or may differ because the publication does not say."""
    encoder = row.encoder
    assert encoder is not None, "chance is never joined"
    found = [("framework", _both(f"{table.protocol} v{table.protocol_version}", entry.framework))]
    if table.suite == "understanding":
        found.append(("LLM", _both(_language_model(record), entry.llm if entry.llm != "unstated" else "")))
    elif guidance := guidance_of(record):
        found.append(("guidance", _both(guidance, "")))
    for what, here, there in (
        ("tokens", str(encoder.num_tokens), entry.tokens),
        ("resolution", "x".join(map(str, sorted(set(encoder.resolution_px)))), entry.resolution),
    ):
        if here != there:
            found.append((what, _both(here, there)))
    if table.limit is not None:
        found.append(("questions", _both(f"{column.n}, by --limit {table.limit}", "")))
    if row.decoder == "native":
        found.append(("decoder", _both("the encoder's own", "")))
    scorer = f"{column.scorer}; {column.n:,} {'questions' if table.suite == 'understanding' else 'pictures'}"
    found.append(("split and scorer", _both(scorer, "") + (f"; {score.caution}" if score.caution else "")))
    return tuple(found)


def _both(here: str, there: str) -> str:
    return f"here {here or UNSTATED}, published {there or UNSTATED}"


def _language_model(record: RunRecord) -> str:
    section = record.protocol.content.get("understanding")
    found = section.get("language_model") if isinstance(section, Mapping) else None
    return str(found) if found else ""


def _line(pair: Pair) -> Line:
    digits = pair.score.decimals
    interval = ""
    if pair.cell.low is not None and pair.cell.high is not None:
        low, high = (pair.score.factor * bound for bound in (pair.cell.low, pair.cell.high))
        interval = f"[{low:.{digits}f}, {high:.{digits}f}]"
    return Line(
        cells=(
            Shown(value=pair.row.label),
            Shown(value=pair.published.metric),
            Shown(value=", ".join(what for what, _ in pair.differences)),
            Shown(value=f"{pair.measured:.{digits}f}", interval=interval, key=pair.measured),
            Shown(value=pair.published.printed, key=pair.published.value),
            Shown(value=f"{pair.difference:+.{digits}f}", key=pair.difference),
        )
    )
