"""`ovbench run`: the main job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovbench.cli_app import Out, ProtocolName, Verbose, default_out, guarded, setup
from ovbench.cli_launch import check_engine, print_cross_check, send_jobs
from ovbench.cli_records import print_records

if TYPE_CHECKING:
    from ovbench.harness.generation.options_config import GenerationOptions


@guarded
def run(
    encoder: Annotated[
        list[str],
        typer.Option("--encoder", "-e", help="family[/variant][:FILE][?option=value]; several times for more."),
    ],
    suite: Annotated[
        str, typer.Option("--suite", "-s", help="understanding, reconstruction, generation, or all of the protocol.")
    ] = "understanding",
    protocol: ProtocolName = "mini",
    tasks: Annotated[
        str | None, typer.Option("--tasks", help="Only these tasks: names, or paths of YAML files, with commas.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", help="Only N questions per task, balanced by group.")] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed; may be given several times.")] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Folder of benchmarks and LLaVA's training data, or ImageNet; by the suite."),
    ] = None,
    adm_file: Annotated[Path | None, typer.Option("--adm-file", help="ADM's file, for ImageNet protocols.")] = None,
    llava: Annotated[
        Path | None, typer.Option("--llava", help="Folder of a trained LLaVA; nothing is trained then.")
    ] = None,
    llm: Annotated[
        str | None, typer.Option("--llm", help="Folder or hub id of a language model, in place of the protocol's.")
    ] = None,
    scoring: Annotated[
        str | None, typer.Option("--scoring", help="Choose options by ppl or constrained, in place of the task's way.")
    ] = None,
    reference: Annotated[
        bool, typer.Option("--reference", help="Ask every question alone, nothing shared; changes no answer.")
    ] = False,
    packing: Annotated[
        str, typer.Option("--packing", help="How questions of one image are read together: auto, padded, packed.")
    ] = "auto",
    trust_first_token: Annotated[
        bool, typer.Option("--trust-first-token", help="Do not check that one-word answers end; said to be not exact.")
    ] = False,
    bad_rows: Annotated[
        str, typer.Option("--bad-rows", help="Bad rows of the training data: refuse, or drop and name them.")
    ] = "refuse",
    sharding: Annotated[
        str, typer.Option("--sharding", help="Of LLaVA's training under torchrun: none or fsdp2.")
    ] = "none",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the encoder: float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option("--batch-size", help="Questions at once; changes no answer.")] = 64,
    engine: Annotated[
        str, typer.Option("--engine", help="native, or lmms-eval: its scores of the same answers beside ours.")
    ] = "native",
    launch: Annotated[
        str | None, typer.Option("--launch", help="slurm: send a job per encoder and seed instead of running here.")
    ] = None,
    slurm: Annotated[
        str, typer.Option("--slurm", help="Of --launch: gpus=8,nodes=1,time=1440,partition=NAME; time in minutes.")
    ] = "",
    out: Out = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Runs side by side. Default: one per core.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Records as JSON on stdout, progress as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Judge frozen encoders on a suite. Idempotent: the same command again finishes what is missing."""
    setup(verbose)
    check_engine(engine, suite, scoring)
    from ovbench.harness.run import plan_runs
    from ovbench.harness.understanding.options_config import read_options

    asked = read_options(
        data=data if suite in ("understanding", "all") else None,
        llava=llava,
        language_model=llm,
        scoring=scoring,
        packing=packing,
        reference=reference,
        trust_first_token=trust_first_token,
        sharding=sharding,
        on_bad=bad_rows,
    )
    folder = out or default_out()
    seeds = tuple(seed) if seed else (0,)
    plan = plan_runs(
        encoders=encoder,
        suite=suite,
        protocol=protocol,
        tasks=None if tasks is None else tuple(part.strip() for part in tasks.split(",") if part.strip()),
        limit=limit,
        seeds=seeds,
        device=device,
        dtype=dtype,
        batch_size=batch_size,
        out=folder,
        generation=_places(data if suite != "understanding" else None, adm_file),
        understanding=asked,
    )
    if launch is not None or slurm:
        words = {
            "--suite": suite, "--protocol": protocol, "--tasks": tasks, "--limit": limit, "--data": data,
            "--adm-file": adm_file, "--llava": llava, "--llm": llm, "--scoring": scoring, "--packing": packing,
            "--bad-rows": bad_rows, "--sharding": sharding, "--device": device, "--dtype": dtype,
            "--batch-size": batch_size, "--engine": engine, "--jobs": jobs,
            "--out": folder.absolute(),
        }  # fmt: skip
        flags = {
            "--reference": reference, "--trust-first-token": trust_first_token, "--json": json_output,
            "--verbose": verbose,
        }  # fmt: skip
        send_jobs(launch, slurm, words, [name for name, given in flags.items() if given], plan, folder)
        return
    records = print_records(plan, folder, jobs=jobs, json_output=json_output)
    if engine == "lmms-eval":
        print_cross_check(plan, records, folder, device=device, batch_size=batch_size, json_output=json_output)


def _places(data: str | None, adm_file: Path | None) -> list[GenerationOptions] | None:
    from ovbench.harness.generation.options_config import GenerationOptions

    return [GenerationOptions(data=data, reference=adm_file)] if data or adm_file else None
