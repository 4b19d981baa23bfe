"""The command line: parse, call, print. It owns the exit codes: 0 done, 2 a mistake to fix, 130 interrupted."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from ovbench.cli_app import Json, Out, Verbose, app, default_out, guarded, print_rows, setup
from ovbench.cli_compare import compare
from ovbench.cli_data import data_app
from ovbench.cli_export import export
from ovbench.cli_fid import fid
from ovbench.cli_gen import gen_fid
from ovbench.cli_leaderboard import leaderboard
from ovbench.cli_merge import merge
from ovbench.cli_plan import plan
from ovbench.cli_report import report
from ovbench.cli_rescore import rescore
from ovbench.cli_run import run

app.command()(run)
app.command()(export)
app.command()(fid)
app.command("gen-fid")(gen_fid)
app.command()(plan)
app.add_typer(data_app, name="data")
app.command()(rescore)
app.command()(compare)
app.command()(leaderboard)
app.command()(merge)
app.command()(report)


def _version(wanted: bool) -> None:
    if wanted:
        from ovbench import __version__

        typer.echo(f"ovbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@app.command()
@guarded
def pretrain(
    recipe: Annotated[str, typer.Option("--recipe", help="ovis3, clip, siglip; vae; lm; wardrobe.")],
    protocol: Annotated[
        str, typer.Option("--protocol", "-p", help="mini, or openvision3: the paper's recipes, which need its data.")
    ] = "mini",
    out: Annotated[Path, typer.Option("--out", help="Folder for checkpoints, logs and weights.")] = Path("pretrained"),
    seed: Annotated[int, typer.Option("--seed", help="Initialisation, data order and noise.")] = 0,
    sprites: Annotated[
        Path | None,
        typer.Option("--sprites", help="Folder with Fashion-MNIST's four .gz files. Default: the embedded subset."),
    ] = None,
    vae: Annotated[
        Path | None, typer.Option("--vae", help="Weights of the frozen VAE of ovis3. Default: the embedded one.")
    ] = None,
    fraction: Annotated[float, typer.Option("--fraction", help="Part of the recipe's steps.")] = 1.0,
    smoke: Annotated[bool, typer.Option("--smoke", help="A few seconds of training: does it all work?")] = False,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads of matrix products.")] = 1,
    json_output: Annotated[bool, typer.Option("--json", help="Result as JSON on stdout, progress as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Train an encoder with its own objective; the same command again continues."""
    setup(verbose)
    from ovbench._base.files import to_json
    from ovbench.cli_progress import listening
    from ovbench.harness.pretraining.command import PretrainRequest, run_pretraining

    request = PretrainRequest(
        recipe=recipe,
        protocol=protocol,
        out=out,
        seed=seed,
        sprites=sprites,
        vae=vae,
        fraction=fraction,
        smoke=smoke,
        threads=threads,
    )
    with listening(as_json=json_output) as listener:
        result = run_pretraining(request, listener)
    if json_output:
        typer.echo(to_json(result), nl=False)
    else:
        for name, value in sorted(result["figures"].items()):
            typer.echo(f"{name}: {value:.4g}")
        typer.echo(f"weights: {result['weights']}")


Action = Annotated[str, typer.Argument(help="list, or show.")]
Name = Annotated[str | None, typer.Argument(help="What to show.")]


def _wants_card(action: str, name: str | None, command: str) -> bool:
    from ovbench._base.errors import ConfigError

    if action not in ("list", "show") or (action == "show") != (name is not None):
        raise ConfigError(
            f"'{action}{f' {name}' if name else ''}' is not understood",
            where=f"ovbench {command}",
            fix=f"run: ovbench {command}   or: ovbench {command} show NAME",
        )
    return action == "show"


@app.command()
@guarded
def encoders(
    action: Action = "list",
    name: Name = None,
    check: Annotated[bool, typer.Option("--check", help="Import every plug-in; exit code 2 if one is broken.")] = False,
    measure: Annotated[bool, typer.Option("--measure", help="With show: images/s and peak memory here.")] = False,
    device: Annotated[str, typer.Option("--device", help="Of --measure: cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of --measure: float32, bfloat16, float16.")] = "float32",
    json_output: Json = False,
) -> None:
    """List encoders, or show the card of one; the weights need not be here."""
    from ovbench.listing import check_encoder_flags, encoder_faults, encoder_rows, encoder_table

    card = _wants_card(action, name, "encoders")
    check_encoder_flags(str(name) if card else None, check=check, measure=measure, device=device, dtype=dtype)
    if card:
        from ovbench._base.files import to_json
        from ovbench.encoders.base import check_dtype_name
        from ovbench.encoders.card import encoder_card, rows_of_card

        found = encoder_card(str(name), measure=measure, device=device, dtype=check_dtype_name(dtype))
        if json_output:
            typer.echo(to_json(found), nl=False)
        else:
            print_rows(rows_of_card(found), json_output)
    elif check:
        _faults(encoder_faults(), json_output)
    else:
        rows = encoder_rows()
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 200
        print_rows(rows if json_output else encoder_table(rows, width=width), json_output)
        for fault in dict.fromkeys(f"'{row['encoder']}': {row['fault']}" for row in rows if row["fault"]):
            typer.echo(f"warning: {fault}; see: ovbench encoders --check", err=True)


def _faults(rows: list[dict[str, Any]], json_output: bool) -> None:
    """Prints the state of each plug-in, and what is wrong with it in full on stderr."""
    broken = [row for row in rows if row["state"] == "broken"]
    if json_output:
        print_rows(rows, json_output)
    else:
        print_rows([{key: row[key] for key in ("encoder", "package", "state")} for row in rows], json_output)
        for row in broken:
            typer.echo(f"\n{row['encoder']} of {row['package']}:\n{row['detail']}", err=True)
    if broken:
        raise typer.Exit(2)


@app.command()
@guarded
def check(
    encoder: Annotated[str, typer.Argument(help="Spec string, e.g. clip/mini or timm:/folder.")],
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the encoder: float32, bfloat16 or float16.")] = "float32",
    seed: Annotated[int, typer.Option("--seed", help="Of the pictures and places that are looked at.")] = 0,
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Hold an encoder adapter against every promise of the contract; exit code 2 when one is broken."""
    setup(verbose)
    from ovbench.encoders.base import check_dtype_name
    from ovbench.testing import check_encoder, rows_of

    report = check_encoder(encoder, device=device, dtype=check_dtype_name(dtype), seed=seed)
    print_rows(rows_of(report), json_output)
    skipped = ", ".join(result.name for result in report.results if result.outcome == "skipped")
    typer.echo(f"not verified: {skipped}" if skipped else "everything was verified", err=True)
    if not report.passed:
        raise typer.Exit(2)


@app.command()
@guarded
def tasks(
    action: Action = "list",
    name: Name = None,
    samples: Annotated[Path | None, typer.Option("--samples", help="Draw a sheet of questions: FILE.png.")] = None,
    count: Annotated[int, typer.Option("--count", help="Questions on the sheet.")] = 24,
    json_output: Json = False,
) -> None:
    """List tasks, or show one; with --samples as a picture."""
    from ovbench.listing import task_card, task_rows

    card = _wants_card(action, name, "tasks")
    if samples is not None:
        from ovbench._base.errors import ConfigError
        from ovbench.tasks.load import load_task
        from ovbench.tasks.sources import load_data
        from ovbench.tasks.world.sheet import draw_sheet

        if not card:
            raise ConfigError(
                "--samples needs one task", where="--samples", fix="run: ovbench tasks show NAME --samples …"
            )
        draw_sheet(load_data(load_task(str(name)), limit=count, where="--count"), samples)
        typer.echo(f"written: {samples}", err=True)
    print_rows(task_card(str(name)) if card else task_rows(), json_output)


@app.command()
@guarded
def protocols(action: Action = "list", name: Name = None, json_output: Json = False) -> None:
    """List protocols, or show one."""
    from ovbench.listing import protocol_card, protocol_rows

    card = _wants_card(action, name, "protocols")
    print_rows(protocol_card(str(name)) if card else protocol_rows(), json_output)


@app.command()
@guarded
def runs(action: Action = "list", name: Name = None, out: Out = None, json_output: Json = False) -> None:
    """List run records, or show one."""
    from ovbench.listing import run_card, run_rows

    card = _wants_card(action, name, "runs")
    folder = out or default_out()
    print_rows(run_card(folder, str(name)) if card else run_rows(folder), json_output)


@app.command()
@guarded
def cache(
    action: Annotated[str, typer.Argument(help="ls, verify or gc.")] = "ls",
    older_than: Annotated[
        float | None, typer.Option("--older-than", help="gc: also steps, crops and towers not used for so many days.")
    ] = None,
    max_gb: Annotated[
        float | None, typer.Option("--max-gb", help="gc: also the longest unused of them above this.")
    ] = None,
    json_output: Json = False,
) -> None:
    """List, verify or tidy the cache: features, references, steps, cut pictures, vision towers."""
    from ovbench._base.paths import cache_dir
    from ovbench.harness.cache_command import cache_rows

    rows = cache_rows(action, cache_dir(), older_than=older_than, max_gb=max_gb)
    print_rows(rows, json_output)
    if action == "verify" and len(rows) > 1:
        raise typer.Exit(2)


@app.command()
@guarded
def doctor(json_output: Json = False) -> None:
    """Say what this machine can do, and what is missing."""
    from ovbench.listing import doctor_rows

    rows = doctor_rows()
    print_rows(rows, json_output)
    if any(row["state"] == "broken" for row in rows):
        raise typer.Exit(2)
