"""The command `ovbench report`: everything that runs found, as one HTML file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovbench.cli_app import Verbose, default_out, guarded, setup


@guarded
def report(
    run_ids: Annotated[list[str] | None, typer.Argument(metavar="[RUN]...", help="Only these runs, by id.")] = None,
    out: Annotated[Path, typer.Option("--out", help="FILE.html to write, or a folder that gets report.html.")] = Path(
        "report.html"
    ),
    runs: Annotated[
        list[Path] | None,
        typer.Option("--runs", help="Folder of run records; several times. Default: $OVBENCH_RUNS or ./runs."),
    ] = None,
    suite: Annotated[str | None, typer.Option("--suite", "-s", help="Only this suite.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", "-p", help="Only this protocol.")] = None,
    questions: Annotated[int, typer.Option("--questions", min=0, help="Questions to look at, per task.")] = 60,
    pictures: Annotated[
        bool, typer.Option("--pictures/--no-pictures", help="Draw the pictures of these questions.")
    ] = True,
    data: Annotated[
        Path | None, typer.Option("--data", help="Folder of published benchmarks, for their pictures.")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Write one offline HTML page: tables, charts, sheets of pictures, questions with every answer."""
    setup(verbose)
    from ovbench._base.paths import cache_dir
    from ovbench.harness.report_images import drawer
    from ovbench.results.report.build import build_report, write_report
    from ovbench.results.report.gather import gather

    gathered = gather(runs or [default_out()], suite=suite, protocol=protocol, run_ids=run_ids or ())
    page = build_report(gathered, draw=drawer(data) if pictures else None, cache=cache_dir(), count=questions)
    path = write_report(page, out)
    for fault in gathered.faults:
        typer.echo(f"warning: {fault}", err=True)
    typer.echo(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB, {len(gathered.runs)} runs)", err=True)
