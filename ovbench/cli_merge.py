"""The command `ovbench merge`: folders of runs in, one folder of runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovbench.cli_app import Json, Verbose, guarded, setup


@guarded
def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of run records.")],
    out: Annotated[Path, typer.Option("--out", help="Folder in which they come together.")],
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Bring runs of several sites together; the same ones count once, and conflicts are refused."""
    setup(verbose)
    from ovbench._base.files import to_json
    from ovbench.results.merge import merge_runs

    done = merge_runs(sources, out)
    for fault in done.faults:
        typer.echo(f"warning: {fault}", err=True)
    if json_output:
        faults = [{"where": fault.where, "what": fault.what} for fault in done.faults]
        document = {"copied": list(done.copied), "skipped": list(done.skipped), "left_out": faults}
        typer.echo(to_json(document), nl=False)
        return
    for line in done.skipped:
        typer.echo(f"skipped {line}", err=True)
    typer.echo(f"{len(done.copied)} run(s) copied to {out}, {len(done.skipped)} skipped, {len(done.faults)} left out")
