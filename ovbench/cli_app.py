"""What all commands share: the application, the exit codes, and options of the same meaning."""

from __future__ import annotations

import errno
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from ovbench._base.errors import OvbenchError
from ovbench._base.launcher import first_to_say

app = typer.Typer(
    name="ovbench",
    help="How good is a frozen vision encoder, for understanding and for generation? One honest table.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    add_completion=False,
)


def guarded(command: Callable[..., Any]) -> Callable[..., Any]:
    """Turns a user's mistake into three lines and exit code 2, and Ctrl-C into exit code 130."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except OvbenchError as error:
            if first_to_say(str(error)):
                typer.echo(str(error), err=True)
            raise typer.Exit(2) from None
        except KeyboardInterrupt:
            typer.echo("interrupted: finished steps are kept, the same command goes on from here", err=True)
            raise typer.Exit(130) from None
        except OSError as error:
            if not isinstance(error, BrokenPipeError) and error.errno != errno.ENOSPC:
                raise
            if error.errno == errno.ENOSPC:
                typer.echo(f"error: the output cannot be written: {error.strerror}", err=True)
                raise typer.Exit(2) from None
            sys.stderr.close()  # the reader of our output has gone (| head): nothing is left to say
            raise typer.Exit(0) from None

    return run


def setup(verbose: bool) -> None:
    """Configures logging."""
    from ovbench._base.log import configure

    configure(verbose=verbose)


def default_out() -> Path:
    """Returns the folder of run records."""
    from ovbench._base.paths import runs_dir

    return runs_dir()


Out = Annotated[Path | None, typer.Option("--out", help="Folder of run records. Default: $OVBENCH_RUNS or ./runs.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")]
ProtocolName = Annotated[str, typer.Option("--protocol", "-p", help="Recipe; see: ovbench protocols.")]


def print_rows(rows: list[dict[str, Any]], json_output: bool) -> None:
    """Prints rows as a table or as JSON."""
    from ovbench._base.files import to_json

    if json_output:
        typer.echo(to_json(rows), nl=False)
        return
    from ovbench.results.formats.to_console import render_rows

    typer.echo(render_rows(rows))


Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
