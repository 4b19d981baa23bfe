"""Records → comparison tables → a file, a text or a data frame."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import atomic_write_bytes, atomic_write_text
from ovbench._base.names import lookup, suggest
from ovbench.results.printed import Sheet
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from ovbench.results.survey import Survey, said, survey
from ovbench.results.table import ComparisonTable, build_tables

if TYPE_CHECKING:
    import pandas

FORMATS = {
    "console": "to_console", "csv": "to_csv", "html": "to_html", "json": "to_json", "lmms": "to_lmms",
    "md": "to_markdown", "tex": "to_latex",
}  # fmt: skip
SUFFIXES = (".csv", ".md", ".tex", ".html", ".json", ".parquet", ".lmms.json")  # parquet is no text: a file alone
PIVOTS = ("long", "wide")  # of the formats for machines
_PIVOTED = ("csv", "json", "parquet")

log = logging.getLogger(__name__)


def tables_of(records: Iterable[RunRecord]) -> list[ComparisonTable]:
    """Returns comparison tables of records at hand; none for none."""
    return build_tables(records)


def leaderboard(store: RunStore, suite: str | None = None, protocol: str | None = None) -> list[ComparisonTable]:
    """Returns comparison tables of the newest run of each encoder.

    A record that cannot be believed is named in a warning, and the others are compared.

    Args:
        store: Where the records are.
        suite: Only this suite; None: all.
        protocol: Only this protocol, by name; None: all.

    Raises:
        RecordError: There is nothing to compare.
    """
    return build_tables(records_to_compare(store, suite=suite, protocol=protocol))


def records_to_compare(store: RunStore, suite: str | None = None, protocol: str | None = None) -> list[RunRecord]:
    """Returns the complete records of trained weights that `leaderboard` compares; arguments and errors are its own."""
    found = said(survey(store))
    finished = [record for record in found.records if record.complete]
    records = [record for record in finished if not record.encoder.untrained]
    if left_out := len(finished) - len(records):
        log.warning("not compared: %d run(s) of untrained weights (weights=random:…)", left_out)
    if not records:
        raise RecordError(
            "there is no finished run of trained weights to compare"
            if finished
            else "there is no finished run to compare" + _of_those(found),
            where=str(store.root),
            fix=f"run: ovbench run --encoder ovis3 --suite {suite or 'understanding'}",
        )
    for flag, wanted, found in (
        ("--suite", suite, {record.suite for record in records}),
        ("--protocol", protocol, {record.protocol.name for record in records}),
    ):
        if wanted is not None and wanted not in found:
            near = suggest(wanted, found)
            hint = f"did you mean '{near}'? " if near else ""
            raise RecordError(
                f"no finished run has {flag} {wanted}",
                where=str(store.root),
                fix=f"{hint}There are runs with: {', '.join(sorted(found))}",
            )
    chosen = [
        record
        for record in records
        if (suite is None or record.suite == suite) and (protocol is None or record.protocol.name == protocol)
    ]
    if not chosen:
        raise RecordError(
            f"no finished run has both --suite {suite} and --protocol {protocol}",
            where=str(store.root),
            fix=f"run: ovbench run --encoder ovis3 --suite {suite} --protocol {protocol}",
        )
    return chosen


def _of_those(found: Survey) -> str:
    count = sum(fault.left_out for fault in found.faults)
    return f": {count} record(s) cannot be used" if count else ""


def render_as(tables: Sequence[ComparisonTable | Sheet], output_format: str, *, pivot: str = "long") -> str:
    """Returns the tables as text.

    Args:
        tables: From `leaderboard` or `tables_of`, and sheets of published, joined, combined or foreign numbers.
        output_format: console, csv, html, json, lmms, md or tex. All but `console` end with a newline.
        pivot: Of csv and json: `long`, a row per score, or `wide`, a row per encoder.

    Raises:
        ConfigError: An unknown format or pivot, or a pivot that cannot be.
    """
    module = lookup(FORMATS, output_format, kind="format", where="--format")
    render = importlib.import_module(f"ovbench.results.formats.{module}").render
    return render(tables, wide=True) if _is_wide(output_format, pivot) else render(tables)


def check_export(output_format: str, paths: Sequence[Path], pivot: str = "long") -> None:
    """Refuses a format, a file name or a pivot that cannot be written, before anything is.

    Raises:
        ConfigError: An unknown format, suffix or pivot.
    """
    lookup(FORMATS, output_format, kind="format", where="--format")
    formats = [output_format, *(_format(path) for path in paths)]
    lookup(dict.fromkeys(PIVOTS), pivot, kind="pivot", where="--pivot")
    if pivot == "wide" and not set(formats) & set(_PIVOTED):
        raise ConfigError(
            "--pivot wide changes nothing here",
            where="--pivot",
            fix="it is for csv, json and parquet; the printed formats have a row per encoder already",
        )


def export(tables: Sequence[ComparisonTable | Sheet], path: Path, *, pivot: str = "long") -> None:
    """Writes the tables in the format of the file's suffix, whole or not at all.

    Raises:
        ConfigError: An unknown suffix, or a file that cannot be written.
    """
    name = _format(path)
    if name == "parquet":
        from ovbench.results.formats.to_parquet import render_bytes

        atomic_write_bytes(path, render_bytes(tables, wide=_is_wide(name, pivot)))
    else:
        atomic_write_text(path, render_as(tables, name, pivot=pivot))


def _is_wide(output_format: str, pivot: str) -> bool:
    lookup(dict.fromkeys(PIVOTS), pivot, kind="pivot", where="--pivot")
    return pivot == "wide" and output_format in _PIVOTED


def _format(path: Path) -> str:
    """Returns the format that a file's suffix names."""
    name, suffix = path.name.lower(), path.suffix.lower()
    if name.endswith(".lmms.json"):
        return "lmms"
    if suffix not in SUFFIXES:
        fault = f"unknown export format '{suffix}'" if suffix else f"'{path.name}' has no suffix that names a format"
        raise ConfigError(
            fault,
            where=f"--export {path}",
            fix=f"name a file that ends with one of: {', '.join(SUFFIXES)}",
        )
    return suffix[1:]


def to_frame(tables: Sequence[ComparisonTable | Sheet]) -> pandas.DataFrame:
    """Returns the tables as one long data frame: the CSV's columns, scores as fractions at full precision."""
    import pandas

    from ovbench.results.formats.to_rows import COLUMNS, to_rows

    return pandas.DataFrame(to_rows(tables), columns=list(COLUMNS))
