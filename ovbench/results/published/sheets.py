"""Published tables as they were printed: rows are encoders, columns are metrics, one sheet per table of one source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ovbench.results.printed import AS_PUBLISHED, MISSING, Footnotes, Line, Printed, Section, Shown
from ovbench.results.published.rows import PublishedRow
from ovbench.results.published.sources import source_of

# Attribute → header. What is the same for all rows of a section stands in its title instead of in a column.
_SETTINGS = {"framework": "framework", "llm": "LLM", "params": "params", "tokens": "tokens", "resolution": "px"}
_TEXT = ("framework", "llm")  # set flush left
_NOT_PRINTED = "the publication prints no value"


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedSheet:
    """One table of one publication."""

    source: str
    table: str
    rows: tuple[PublishedRow, ...]

    @property
    def title(self) -> str:
        """That it is published, by whom, in which version and table."""
        return f"PUBLISHED · {self.source} · {self.table}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Citation and version, and how it was read."""
        source = source_of(self.source)
        lines = [f"published, not measured here: {source.citation}, {source.version}, {self.table}"]
        lines += [source.how] if source.how else []
        return (*lines, "no value is marked as best: the publication gives no intervals")

    def lay_out(self) -> Printed:
        """Returns the table with the numbers as printed, groups of framework, LLM and tokens between rules."""
        notes = Footnotes()
        sections = tuple(_section(rows, notes) for rows in _alike(self.rows))
        return Printed(title=self.title, sections=sections, footnotes=notes.lines, legend=self.notes)

    def long_rows(self) -> list[dict[str, Any]]:
        """Returns one row per number, in the unit that was printed."""
        source = source_of(self.source)
        return [
            {
                "row": row.encoder,
                "kind": "published",
                "metric": row.metric,
                "higher_is_better": row.higher_is_better,
                "value": row.value,
                "unit": AS_PUBLISHED,
                "interval": "none: published without one",
                "table": self.title,
                "source": row.source,
                "source_version": source.version,
                "source_table": row.table,
                "citation": source.citation,
                "framework": row.framework or None,
                "llm": row.llm or None,
                "resolution": row.resolution or None,
                "params": row.params or None,
                "num_tokens": int(row.tokens) if row.tokens else None,
            }
            for row in self.rows
        ]


def published_sheets(rows: Sequence[PublishedRow]) -> list[PublishedSheet]:
    """Returns one sheet per source and table, in the order of the rows."""
    found: dict[tuple[str, str], list[PublishedRow]] = {}
    for row in rows:
        found.setdefault((row.source, row.table), []).append(row)
    return [PublishedSheet(source=source, table=table, rows=tuple(kept)) for (source, table), kept in found.items()]


def _alike(rows: Sequence[PublishedRow]) -> list[list[PublishedRow]]:
    """Splits a table into parts whose frameworks share metrics: a part is a rectangle without needless holes."""
    metrics: dict[str, set[str]] = {}
    for row in rows:
        metrics.setdefault(row.framework, set()).add(row.metric)
    parts: list[set[str]] = []  # of metrics; those of one framework are in one part
    for own in metrics.values():
        touched = [part for part in parts if part & own]
        parts = [part for part in parts if part not in touched] + [own.union(*touched)]
    parts.sort(key=lambda part: min(index for index, row in enumerate(rows) if row.metric in part))
    return [[row for row in rows if row.metric in part] for part in parts]


def _key(row: PublishedRow) -> tuple[str, ...]:
    return (row.encoder, *(getattr(row, name) for name in _SETTINGS))


def _group(row: PublishedRow) -> tuple[str, ...]:
    """Returns what the paper sets between rules: where no LLM is, every row has a generator of its own."""
    return (row.framework, row.llm, row.tokens) if row.llm else ()


def _section(rows: Sequence[PublishedRow], notes: Footnotes) -> Section:
    metrics = list(dict.fromkeys(row.metric for row in rows))
    higher = {row.metric: row.higher_is_better for row in rows}
    lines: dict[tuple[str, ...], dict[str, PublishedRow]] = {}
    for row in rows:
        lines.setdefault(_key(row), {})[row.metric] = row
    values = {name: {getattr(row, name) for row in rows} for name in _SETTINGS}
    shown = [name for name in _SETTINGS if len(values[name]) > 1]
    shown.sort(key=lambda name: name not in _TEXT)
    same = [f"{_SETTINGS[name]} {text}" for name, (text, *more) in values.items() if not more and text]
    printed: list[Line] = []
    group: tuple[str, ...] | None = None
    for cells in lines.values():
        first = next(iter(cells.values()))
        heads = [Shown(value=first.encoder), *(_setting(getattr(first, name)) for name in shown)]
        body = [
            Shown(value=cells[metric].printed, key=cells[metric].value)
            if metric in cells
            else notes.missing(_NOT_PRINTED)
            for metric in metrics
        ]
        printed.append(Line(cells=(*heads, *body), rule=group is not None and _group(first) != group))
        group = _group(first)
    return Section(
        title=", ".join(same),
        headers=(("encoder",), *((_SETTINGS[name],) for name in shown), *(_header(name, higher) for name in metrics)),
        rows=tuple(printed),
        left=1 + sum(name in _TEXT for name in shown),
    )


def _setting(text: str) -> Shown:
    return Shown(value=text or MISSING, key=float(text) if text.isdigit() else None)


def _header(metric: str, higher: dict[str, bool]) -> tuple[str, ...]:
    data, _, name = metric.rpartition("/")
    arrow = "↑" if higher[metric] else "↓"
    return (data, f"{name} {arrow}") if data else (f"{name} {arrow}",)
