"""What commands that run plans share: the headline, the progress, and the tables of the records."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from ovbench.harness.plan import Plan
    from ovbench.results.record import RunRecord


def print_records(plan: Plan, folder: Path, *, jobs: int | None, json_output: bool) -> list[RunRecord]:
    """Runs a plan, prints its records and returns them; under a launcher the main process alone prints."""
    from ovbench._base.files import to_json
    from ovbench.cli_progress import listening, to_json_line
    from ovbench.harness.run import is_main_process, run_all

    main = is_main_process()
    if main:
        typer.echo(to_json_line({"headline": plan.headline}) if json_output else plan.headline, err=True)
    with listening(as_json=json_output) as listener:
        records = run_all(plan, jobs=jobs, listener=listener)
    if not main:
        return []
    if json_output:
        typer.echo(to_json([record.to_dict() for record in records]), nl=False)
        return records
    from ovbench.results.formats.to_console import render
    from ovbench.results.leaderboard import tables_of

    typer.echo(render(tables_of(records)))
    for record in records:
        typer.echo(f"record: {folder / record.run_id / 'record.json'}", err=True)
        for warning in record.warnings:
            typer.echo(f"warning: {warning}", err=True)
    return records
