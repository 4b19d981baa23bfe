"""The command `ovbench export`: a trained model in the layout of another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, cast

import typer

from ovbench.cli_app import Json, Verbose, default_out, guarded, print_rows, setup


@guarded
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_FOLDER", help="Run, or checkpoint of any layout.")],
    target: Annotated[Path, typer.Argument(metavar="TO", help="Folder that is not there yet.")],
    layout: Annotated[
        str, typer.Option("--layout", help="ovbench, llava (the original code's) or transformers.")
    ] = "ovbench",
    encoder: Annotated[
        str | None, typer.Option("--encoder", "-e", help="Where the checkpoint names none, or by another name.")
    ] = None,
    language_model: Annotated[
        str | None, typer.Option("--llm", help="Folder or hub id, where it holds a projector alone.")
    ] = None,
    dtype: Annotated[
        str, typer.Option("--dtype", help="Of the language model: float32, bfloat16, float16, or stored.")
    ] = "stored",
    json_output: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a trained LLaVA in ovbench's own layout, the original code's, or that of transformers."""
    setup(verbose)
    from ovbench.harness.understanding.export import export_checkpoint

    by_id = default_out() / source  # of a run, as other commands take it
    written = export_checkpoint(
        by_id if not source.exists() and by_id.is_dir() else source,
        target,
        layout=cast(Any, layout),
        encoder=encoder,
        language_model=language_model,
        dtype=cast(Any, dtype),
    )
    if json_output:
        from ovbench._base.files import to_json

        typer.echo(to_json(written), nl=False)
        return
    print_rows([{"what": key, "value": _shown(value)} for key, value in written.items()], False)


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)
