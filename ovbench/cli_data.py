"""The commands `ovbench data pack | verify | mount`: options in, rows out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ovbench.cli_app import Json, Verbose, guarded, print_rows, setup

data_app = typer.Typer(
    help="Carry the data of benchmarks to a machine without a network.", no_args_is_help=True, rich_markup_mode=None
)


@data_app.command()
@guarded
def pack(
    tasks: Annotated[str, typer.Option("--tasks", help="Names with commas, e.g. pope,seedbench; or a suite:PROTOCOL.")],
    to: Annotated[Path, typer.Option("--to", help="Folder; what is in it already stays.")],
    source: Annotated[
        Path | None, typer.Option("--from", help="Data folder to copy from. Default: what is set, or the hub.")
    ] = None,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Put the data of tasks into one folder with a manifest; the same command again goes on."""
    setup(verbose)
    from ovbench.tasks.load import load_suite
    from ovbench.tasks.tables.pack import pack as make_pack

    suite, colon, protocol = tasks.partition(":")
    names = load_suite(suite, protocol) if colon else [part.strip() for part in tasks.split(",") if part.strip()]
    print_rows(make_pack(names, to, source=source), json_output)
    typer.echo(f"written: {to}; on the other machine: ovbench data mount {to.name}", err=True)


@data_app.command()
@guarded
def verify(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder made by ovbench data pack.")],
    images: Annotated[bool, typer.Option("--images", help="Open every picture too.")] = False,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Hold every file and task of a pack against its manifest; exit code 2 when something is broken."""
    setup(verbose)
    from ovbench.tasks.tables.verify import verify as hold_against_manifest

    rows = hold_against_manifest(folder, images=images)
    print_rows(rows, json_output)
    broken = [row["what"] for row in rows if row["state"] == "broken"]
    if broken:
        typer.echo(f"broken: {', '.join(broken)}", err=True)
        raise typer.Exit(2)


@data_app.command()
@guarded
def mount(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A pack, or a folder with a folder per repository.")],
    json_output: Json = False,
) -> None:
    """Remember a folder as the data folder; OVBENCH_DATA and --data come first."""
    from ovbench._base.paths import config_file, data_dir
    from ovbench.tasks.tables.mount import mount as remember

    folder = folder.expanduser().absolute()
    print_rows(remember(folder), json_output)
    typer.echo(f"remembered: {folder} (in {config_file()}; remove that file to forget it)", err=True)
    if (first := data_dir()) != folder:
        typer.echo(f"warning: OVBENCH_DATA is set and comes first: {first}", err=True)
