"""The command `ovbench leaderboard`: records in, comparison tables out; published and foreign numbers beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovbench.cli_app import Out, Verbose, default_out, guarded, setup

if TYPE_CHECKING:
    from ovbench.results.choose import Wanted
    from ovbench.results.printed import Sheet
    from ovbench.results.record import RunRecord
    from ovbench.results.store import RunStore
    from ovbench.results.table import ComparisonTable

ALL = "all"  # of --suite: the combined tables alone
MAX_RUNS_PAIRED = 20  # without --paired: with more runs the pairs, and the wait, are too many
_FOR_MACHINES = ("csv", "json", "parquet", "lmms")


@guarded
def leaderboard(
    source: Annotated[
        str | None, typer.Argument(help="With --reported: only this source, e.g. 'OpenVision 3 v2'.")
    ] = None,
    suite: Annotated[
        str | None, typer.Option("--suite", "-s", help="Only this suite; all: one row per encoder over all suites.")
    ] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", "-p", help="Only this protocol.")] = None,
    reported: Annotated[
        bool, typer.Option("--reported", help="Published numbers, in tables of their own, and ours minus theirs.")
    ] = False,
    table: Annotated[
        str | None, typer.Option("--table", help="With --reported: only this table, e.g. 'Table 4'.")
    ] = None,
    foreign: Annotated[
        list[Path] | None,
        typer.Option("--foreign", help="Result file of lmms-eval, torch-fidelity or clean-fid; several times."),
    ] = None,
    encoder: Annotated[list[str] | None, typer.Option("--encoder", "-e", help="Only these rows; * and ? fit.")] = None,
    task: Annotated[list[str] | None, typer.Option("--task", help="Only these tasks.")] = None,
    metric: Annotated[list[str] | None, typer.Option("--metric", help="Only these metrics.")] = None,
    control: Annotated[list[str] | None, typer.Option("--control", help="Only none, shuffled or blind.")] = None,
    group: Annotated[list[str] | None, typer.Option("--group", help="Only these groups; all: all questions.")] = None,
    sort: Annotated[
        str | None, typer.Option("--sort", help="TASK, TASK/METRIC, encoder, params or tokens; then :asc or :desc.")
    ] = None,
    pivot: Annotated[str, typer.Option("--pivot", help="Of csv, json, parquet: long or wide.")] = "long",
    paired: Annotated[
        bool | None,
        typer.Option("--paired/--no-paired", help="Marks and ranks by paired tests. Default: up to 20 runs."),
    ] = None,
    export: Annotated[
        list[Path] | None,
        typer.Option("--export", help="Write FILE.csv, .md, .tex, .html, .json, .parquet, .lmms.json; several times."),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="On stdout: console, csv, md, tex, html, json or lmms.")
    ] = "console",
    out: Out = None,
    verbose: Verbose = False,
) -> None:
    """Compare the newest run of each encoder; with --reported beside what papers printed."""
    setup(verbose)
    from ovbench.results.choose import Wanted
    from ovbench.results.leaderboard import check_export, render_as
    from ovbench.results.leaderboard import export as export_tables
    from ovbench.results.store import RunStore

    check_export(output_format, export or [], pivot)
    _check_flags(source, table, reported=reported, suite=suite, sort=sort)
    wanted = Wanted(
        encoders=tuple(encoder or ()),
        tasks=tuple(task or ()),
        metrics=tuple(metric or ()),
        controls=tuple(control or ()),
        groups=tuple(group or ()),
    )
    store = RunStore(out or default_out())
    selected = source is not None or table is not None
    published = _published_sheets(source, table) if reported else []
    measured, records = _measured(
        store,
        None if suite == ALL else suite,
        protocol,
        wanted,
        sort,
        False if selected else paired,
        may_be_empty=reported or bool(foreign),
    )
    combined = _combined(measured, records) if suite in (None, ALL) and not selected else []
    joined = _joined(measured, records, source, table) if reported else []
    rest = [*([] if selected or suite == ALL else measured), *joined, *published, *_foreign(foreign or [])]
    for_people: list[ComparisonTable | Sheet] = [*combined, *rest]
    # A file for machines holds each score once: the combined tables repeat those of the suites.
    for_machines: list[ComparisonTable | Sheet] = [*(combined if suite == ALL else []), *rest]

    def tables_for(name: str) -> Sequence[ComparisonTable | Sheet]:
        return for_machines if name in _FOR_MACHINES else for_people

    text = render_as(tables_for(output_format), output_format, pivot=pivot)
    for path in export or []:
        export_tables(tables_for(path.suffix[1:].lower()), path, pivot=pivot)
        typer.echo(f"written: {path}", err=True)
    typer.echo(text, nl=output_format == "console")


def _check_flags(source: str | None, table: str | None, *, reported: bool, suite: str | None, sort: str | None) -> None:
    from ovbench._base.errors import ConfigError

    if not reported and (source is not None or table is not None):
        word = f"'{source}'" if source is not None else "--table"
        raise ConfigError(f"{word} chooses among published tables", where="ovbench leaderboard", fix="add --reported")
    if suite == ALL and sort is not None:
        raise ConfigError(
            "--suite all has an order of its own: by its first headline",
            where="--sort",
            fix="sort the table of one suite: --suite NAME --sort COLUMN",
        )


def _has_runs(store: RunStore) -> bool:
    return bool(store.folders())


def _measured(
    store: RunStore,
    suite: str | None,
    protocol: str | None,
    wanted: Wanted,
    sort: str | None,
    paired: bool | None,
    *,
    may_be_empty: bool,
) -> tuple[list[ComparisonTable], list[RunRecord]]:
    """Returns comparison tables and the records behind them."""
    from ovbench._base.errors import RecordError
    from ovbench.results.choose import in_order, keep
    from ovbench.results.leaderboard import records_to_compare
    from ovbench.results.table import build_tables

    try:
        records = records_to_compare(store, suite=suite, protocol=protocol)
    except RecordError as error:
        if not may_be_empty or suite is not None or protocol is not None:
            raise
        if _has_runs(store):
            typer.echo(f"warning: {error.what} ({error.where})", err=True)
        return [], []
    tables = build_tables(records)
    if paired or (paired is None and len(records) <= MAX_RUNS_PAIRED):
        tables = [_tested(table, records, store) for table in tables]
    if not wanted.empty:
        tables = keep(tables, wanted)
    return (in_order(tables, sort) if sort else tables), records


def _tested(table: ComparisonTable, records: Sequence[RunRecord], store: RunStore) -> ComparisonTable:
    """Returns the table with marks from paired tests, task by task; one that cannot be tested keeps its marks."""
    from ovbench.results.standings import TaskStanding, contestants, with_standings

    rows = contestants(table, records)
    if len(rows) < 2 or any(row.guidance for row in table.rows):
        return table  # a sweep has no single best: its rows share an encoder
    from ovbench._base.errors import OvbenchError
    from ovbench.harness.comparison.standing import standing_of

    found: dict[str, TaskStanding] = {}
    for entry in table.tasks:
        try:
            standing = standing_of(store, rows, entry.name)
        except OvbenchError as error:
            typer.echo(f"warning: {entry.name}: no paired tests, marks rest on intervals: {error.what}", err=True)
            continue
        if not standing.p_holm:
            continue  # nothing could be tested: intervals say more
        found[entry.name] = TaskStanding(
            best=standing.best,
            tied=standing.tied_with_first,
            ranks={name: (standing.ranks[name].low, standing.ranks[name].high) for name in standing.names},
            untested=standing.untested,
        )
    return with_standings(table, found)


def _combined(tables: Sequence[ComparisonTable], records: Sequence[RunRecord]) -> list[Sheet]:
    from ovbench.results.combined import combined_sheets

    return [sheet for sheet in combined_sheets(tables, records) if sheet.headlines]


def _published_sheets(source: str | None, table: str | None) -> list[Sheet]:
    from ovbench.results.published.rows import chosen_rows
    from ovbench.results.published.sheets import published_sheets

    return [*published_sheets(chosen_rows(source, table))]


def _joined(
    tables: Sequence[ComparisonTable], records: Sequence[RunRecord], source: str | None, table: str | None
) -> list[Sheet]:
    from ovbench.results.published.join import joined_sheets
    from ovbench.results.published.rows import chosen_rows

    return [*joined_sheets(tables, records, chosen_rows(source, table))]


def _foreign(paths: Sequence[Path]) -> list[Sheet]:
    from ovbench.results.foreign.read import read_foreign

    return [read_foreign(path) for path in paths]
