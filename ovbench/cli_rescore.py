"""`ovbench rescore`: what other programs would have made of the answers of a run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovbench.cli_app import Out, Verbose, default_out, guarded, setup

if TYPE_CHECKING:
    from ovbench.harness.rescore import ProtocolScore, Rescored

FORMATS = ("console", "csv", "json", "md")


@guarded
def rescore(
    run: Annotated[str, typer.Argument(help="Id of a run (see: ovbench runs), or the path of its folder.")],
    protocol: Annotated[
        str | None,
        typer.Option("--protocol-scorer", help="official, lmms-eval, llava, vlmevalkit, … Default: all of each task."),
    ] = None,
    task: Annotated[str | None, typer.Option("--task", help="Only this task of the run.")] = None,
    control: Annotated[str, typer.Option("--control", help="none, shuffled or blind.")] = "none",
    output_format: Annotated[str, typer.Option("--format", help="On stdout: console, csv, json or md.")] = "console",
    export: Annotated[
        list[Path] | None, typer.Option("--export", help="Write FILE.csv, .json or .md; several times.")
    ] = None,
    out: Out = None,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Score the stored answers of a run as other programs do, and say what that choice is worth. Changes no record."""
    setup(verbose)
    wanted = "json" if json_output else output_format
    _check(wanted, export or [])
    from ovbench._base.files import atomic_write_text
    from ovbench.harness.rescore import rescore as score_again

    found = score_again(run, protocol, out=out or default_out(), task=task, control=control)
    for path in export or []:
        atomic_write_text(path, _render(found, path.suffix[1:]))
        typer.echo(f"written: {path}", err=True)
    typer.echo(_render(found, wanted), nl=wanted == "console")


def _check(output_format: str, export: list[Path]) -> None:
    from ovbench._base.errors import ConfigError
    from ovbench._base.names import unknown

    if output_format not in FORMATS:
        raise unknown("format", output_format, FORMATS, where="--format")
    for path in export:
        if path.suffix[1:] not in FORMATS[1:]:
            raise ConfigError(
                f"'{path.name}' has the ending of no format", where="--export", fix="end it with .csv, .json or .md"
            )


def _render(found: Rescored, output_format: str) -> str:
    """Returns the scores as text; CSV and JSON hold every number, the others the headlines and what is beside ours."""
    if output_format == "json":
        from ovbench._base.files import to_json

        return to_json(found.rows())
    from ovbench.results.formats.plain_rows import to_csv, to_markdown

    if output_format == "csv":
        return to_csv(found.rows())
    rows = [_shown(score) for score in found.scores if _is_printed(score)]
    if output_format == "md":
        return to_markdown(rows)
    from ovbench.results.formats.to_console import render_rows

    title = f"{found.run_id} · {found.encoder} · control {found.scores[0].control}"
    return f"{title}\n{render_rows(rows)}"


def _is_printed(score: ProtocolScore) -> bool:
    return score.headline or (bool(score.ours) and "[" not in score.metric)


def _shown(score: ProtocolScore) -> dict[str, Any]:
    from ovbench.results.formats.layout import MISSING, number

    unit = "%" if score.unit == "fraction" else score.unit
    value = MISSING if score.value is None else f"{number(score.value, score.unit)} {unit}"
    change = ""
    if score.difference is not None:
        shown = number(score.difference, score.unit)
        change = f"{'+' if float(shown) > 0 else ''}{shown} vs {score.ours}"
    return {
        "task": score.task,
        "protocol": score.protocol,
        "metric": score.metric,
        "value": value,
        "difference": change,
        "read otherwise": "" if score.num_read_otherwise is None else f"{score.num_read_otherwise} of {score.n}",
        "how": score.reason or (score.how if score.headline else ""),
    }
