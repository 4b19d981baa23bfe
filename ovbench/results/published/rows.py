"""The published rows that are shipped: two CSV files, one line per printed number, read as they stand."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import suggest

FOLDER = Path(__file__).parent
FILES = ("openvision.csv", "rae.csv")
COLUMNS = (
    "source", "paper_table", "encoder", "params", "resolution", "tokens", "framework", "llm", "metric", "value",
    "higher_is_better",
)  # fmt: skip
NO_TABLE = "text"  # of rows that name no table


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishedRow:
    """One printed number. Texts are as printed; empty where the publication does not say."""

    source: str
    table: str  # of the paper, e.g. `Table 4`
    encoder: str
    params: str
    resolution: str  # pixels of a side
    tokens: str
    framework: str
    llm: str
    metric: str
    value: float
    printed: str  # with the decimals that were printed
    higher_is_better: bool


@functools.cache
def published_rows(folder: Path = FOLDER) -> tuple[PublishedRow, ...]:
    """Returns all shipped rows in the order of their files.

    Raises:
        DataError: A file is missing or a line of it is damaged; the message names file and line.
    """
    return tuple(row for name in FILES for row in _read(folder / name))


def _read(path: Path) -> list[PublishedRow]:
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            lines = list(csv.DictReader(stream))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"'{path.name}' cannot be read: {error}", where=str(path)) from error
    return [_row(line, f"{path}, line {number}") for number, line in enumerate(lines, start=2)]


def _row(line: dict[str, str], where: str) -> PublishedRow:
    if tuple(line) != COLUMNS or None in line.values():
        raise DataError(f"a published row should have the columns {', '.join(COLUMNS)}", where=where)
    try:
        value = float(line["value"])
        higher = {"true": True, "false": False}[line["higher_is_better"]]
    except (ValueError, KeyError) as error:
        raise DataError(f"a published row is damaged: {error}", where=where) from error
    if not math.isfinite(value):
        raise DataError(f"a published value is {value}", where=where)
    return PublishedRow(
        source=line["source"],
        table=line["paper_table"] or NO_TABLE,
        encoder=line["encoder"],
        params=line["params"],
        resolution=line["resolution"],
        tokens=line["tokens"],
        framework=line["framework"],
        llm=line["llm"],
        metric=line["metric"],
        value=value,
        printed=line["value"],
        higher_is_better=higher,
    )


def chosen_rows(source: str | None = None, table: str | None = None) -> list[PublishedRow]:
    """Returns the rows of a source and a table of it.

    Args:
        source: A whole source, or how it begins or what it contains, e.g. `OpenVision 3 v2`; None: all.
        table: Name of the table in the paper, e.g. `Table 4`; None: all.

    Raises:
        ConfigError: No such source or table; lists those that there are.
    """
    rows = list(published_rows())
    if source is not None:
        kept = _fitting(rows, source)
        if not kept:
            names = list(dict.fromkeys(row.source for row in rows))
            near = suggest(source, names)
            hint = f"did you mean '{near}'? " if near else ""
            raise ConfigError(
                f"nothing is published by '{source}'", where="--reported", fix=f"{hint}Sources: {'; '.join(names)}"
            )
        rows = kept
    if table is not None:
        kept = [row for row in rows if row.table.casefold() == table.casefold()]
        if not kept:
            names = list(dict.fromkeys(row.table for row in rows))
            raise ConfigError(
                f"no published table '{table}'" + (f" in '{source}'" if source else ""),
                where="--table",
                fix=f"tables: {', '.join(names)}",
            )
        rows = kept
    return rows


def _fitting(rows: Sequence[PublishedRow], source: str) -> list[PublishedRow]:
    """Returns the rows whose source is the name, else begins with it, else contains it; letter case does not count."""
    wanted = source.casefold()
    for fits in (str.__eq__, str.startswith, str.__contains__):
        if kept := [row for row in rows if fits(row.source.casefold(), wanted)]:
            return kept
    return []
