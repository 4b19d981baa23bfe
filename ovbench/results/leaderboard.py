"""From stored runs to comparison tables and to files."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import atomic_write_text
from ovbench._base.names import suggest, unknown
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore
from ovbench.results.table import ComparisonTable, build_tables

if TYPE_CHECKING:
    import pandas

# Name → module below formats/ with `render(tables) -> str`. All but `console` are also the suffixes that `export` knows.
FORMATS = {"console": "to_console", "csv": "to_csv", "json": "to_json", "md": "to_markdown", "tex": "to_latex"}


def leaderboard(store: RunStore, suite: str | None = None, protocol: str | None = None) -> list[ComparisonTable]:
    """Returns tables of the newest complete run of each encoder, in a fixed order.

    Args:
        store: Where the runs are.
        suite: Only this suite.
        protocol: Only this protocol, by name; every version of it has its own table.

    Raises:
        RecordError: There is nothing to compare, or a record cannot be read.
    """
    records = store.newest()
    if not records:
        raise RecordError(
            "there is no finished run to compare",
            where=str(store.root),
            fix="make one: ovbench run --encoder ovis3 --suite understanding   (or name the folder with --out)",
        )
    kept = _only("suite", suite, {record.suite for record in records}, records, lambda record: record.suite)
    names = {record.protocol.name for record in kept}
    return build_tables(_only("protocol", protocol, names, kept, lambda record: record.protocol.name))


def _only(
    what: str, wanted: str | None, known: set[str], records: list[RunRecord], name: Callable[[RunRecord], str]
) -> list[RunRecord]:
    if wanted is None:
        return records
    kept = [record for record in records if name(record) == wanted]
    if not kept:
        near = suggest(wanted, known)
        flags = " ".join([f"--{what} {wanted}", *(["--protocol NAME"] if what == "suite" else [])])
        raise RecordError(
            f"there is no finished run with {what} '{wanted}'",
            where=f"--{what}",
            fix=(f"did you mean '{near}'? " if near else "")
            + f"Stored: {', '.join(sorted(known))}. To make one: ovbench run --encoder ovis3 {flags}",
        )
    return kept


def tables_of(records: Sequence[RunRecord]) -> list[ComparisonTable]:
    """Returns the tables of these records alone, as `leaderboard` would order them."""
    return build_tables(records)


def render_as(tables: Sequence[ComparisonTable], name: str) -> str:
    """Returns the tables as text in a format by name.

    Raises:
        ConfigError: An unknown format.
    """
    if name not in FORMATS:
        raise unknown("format", name, FORMATS, where="--format")
    return importlib.import_module(f"ovbench.results.formats.{FORMATS[name]}").render(tables)


def export(tables: Sequence[ComparisonTable], path: Path) -> None:
    """Writes the tables to a file whose suffix says the format.

    Raises:
        ConfigError: An unknown suffix, or a place that cannot be written.
    """
    check_export(path)
    atomic_write_text(path, render_as(tables, path.suffix.lower().removeprefix(".")))


def check_export(path: Path) -> None:
    """Refuses a file name whose suffix names no format, before anything expensive is done.

    Raises:
        ConfigError: The suffix is unknown; the message lists the known ones.
    """
    known = [f".{name}" for name in FORMATS if name != "console"]
    if path.suffix.lower() not in known:
        raise ConfigError(
            f"no table format has the suffix '{path.suffix}'" if path.suffix else f"'{path.name}' has no suffix",
            where=f"--export {path}",
            fix=f"use one of: {', '.join(known)}",
        )


def to_frame(tables: Sequence[ComparisonTable]) -> pandas.DataFrame:
    """Returns the tables in long form: one row per number, with the columns of the CSV export; fractions stay fractions."""
    import pandas

    from ovbench.results.formats.to_csv import COLUMNS, long_rows

    return pandas.DataFrame(long_rows(tables), columns=list(COLUMNS))
