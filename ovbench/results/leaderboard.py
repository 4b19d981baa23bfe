"""Records → comparison tables → a file, a text or a data frame."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import atomic_write_text
from ovbench._base.names import lookup, suggest
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from ovbench.results.table import ComparisonTable, build_tables

if TYPE_CHECKING:
    import pandas

FORMATS = {"console": "to_console", "csv": "to_csv", "json": "to_json", "md": "to_markdown", "tex": "to_latex"}
SUFFIXES = (".csv", ".md", ".tex", ".json")

log = logging.getLogger(__name__)


def tables_of(records: Iterable[RunRecord]) -> list[ComparisonTable]:
    """Returns comparison tables of records at hand; none for none."""
    return build_tables(records)


def leaderboard(store: RunStore, suite: str | None = None, protocol: str | None = None) -> list[ComparisonTable]:
    """Returns comparison tables of the newest run of each encoder.

    Args:
        store: Where the records are.
        suite: Only this suite; None: all.
        protocol: Only this protocol, by name; None: all.

    Raises:
        RecordError: There is nothing to compare, or a record cannot be read.
    """
    finished = [record for record in store.records() if record.complete]
    records = [record for record in finished if not record.encoder.untrained]
    if left_out := len(finished) - len(records):
        log.warning("not compared: %d run(s) of untrained weights (weights=random:…)", left_out)
    if not records:
        raise RecordError(
            "there is no finished run of trained weights to compare"
            if finished
            else "there is no finished run to compare",
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
    return build_tables(chosen)


def render_as(tables: Sequence[ComparisonTable], output_format: str) -> str:
    """Returns the tables as text.

    Args:
        tables: From `leaderboard` or `tables_of`.
        output_format: console, csv, json, md or tex. All but `console` end with a newline.

    Raises:
        ConfigError: An unknown format.
    """
    module = lookup(FORMATS, output_format, kind="format", where="--format")
    return importlib.import_module(f"ovbench.results.formats.{module}").render(tables)


def check_export(output_format: str, paths: Sequence[Path]) -> None:
    """Refuses a format or a file name that cannot be written, before anything is.

    Raises:
        ConfigError: An unknown format or suffix.
    """
    lookup(FORMATS, output_format, kind="format", where="--format")
    for path in paths:
        _suffix(path)


def export(tables: Sequence[ComparisonTable], path: Path) -> None:
    """Writes the tables in the format of the file's suffix, whole or not at all.

    Raises:
        ConfigError: An unknown suffix, or a file that cannot be written.
    """
    atomic_write_text(path, render_as(tables, _suffix(path)[1:]))


def _suffix(path: Path) -> str:
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        fault = f"unknown export format '{suffix}'" if suffix else f"'{path.name}' has no suffix that names a format"
        raise ConfigError(
            fault,
            where=f"--export {path}",
            fix=f"name a file that ends with one of: {', '.join(SUFFIXES)}",
        )
    return suffix


def to_frame(tables: Sequence[ComparisonTable]) -> pandas.DataFrame:
    """Returns the tables as one long data frame: the CSV's columns, scores as fractions at full precision."""
    import pandas

    from ovbench.results.formats.to_rows import COLUMNS, to_rows

    return pandas.DataFrame(to_rows(tables), columns=list(COLUMNS))
