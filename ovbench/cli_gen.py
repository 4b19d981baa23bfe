"""`ovbench gen-fid`: the reconstruction and generation suites with options of their own. Parse, call, print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ovbench.cli_app import Out, ProtocolName, Verbose, default_out, guarded, setup
from ovbench.cli_records import print_records

if TYPE_CHECKING:
    from ovbench.harness.generation.flow_config import GuidanceConfig


@guarded
def gen_fid(
    encoder: Annotated[
        list[str],
        typer.Option("--encoder", "-e", help="family[/variant][:FILE][?option=value]; several times for more."),
    ],
    protocol: ProtocolName = "mini",
    num_samples: Annotated[
        int | None, typer.Option("--num-samples", "-n", help="Samples. Default: the protocol's.")
    ] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option("--guidance", help="none, cfg:1.5, cfg:1.5@0.1-0.9, auto:1.42; several times for a sweep."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed; may be given several times.")] = None,
    data: Annotated[
        str | None, typer.Option("--data", help="ImageNet: class folders, tar or parquet shards, or owner/name@COMMIT.")
    ] = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="ADM's file of the training set (VIRTUAL_imagenet256_labeled.npz)."),
    ] = None,
    extractor_weights: Annotated[
        str | None,
        typer.Option("--extractor-weights", help="Of the scoring network. Default: where ovbench looks."),
    ] = None,
    lpips_weights: Annotated[Path | None, typer.Option("--lpips-weights", help="VGG16 of LPIPS, likewise.")] = None,
    dino_weights: Annotated[
        Path | None, typer.Option("--dino-weights", help="DINO ViT-S/8 of the discriminator, likewise.")
    ] = None,
    decoder: Annotated[Path | None, typer.Option("--decoder", help="Weights of a trained decoder.")] = None,
    stats: Annotated[Path | None, typer.Option("--stats", help="Statistics of latents.")] = None,
    dit: Annotated[Path | None, typer.Option("--dit", help="Weights of a trained diffusion transformer.")] = None,
    dit_network: Annotated[
        str | None, typer.Option("--dit-network", help="Its preset or YAML. Default: the protocol's.")
    ] = None,
    guide: Annotated[Path | None, typer.Option("--guide", help="Weights of the weaker network.")] = None,
    guide_network: Annotated[
        str | None, typer.Option("--guide-network", help="Its preset or YAML. Default: dit-dh-s.")
    ] = None,
    save_samples: Annotated[Path | None, typer.Option("--save-samples", help="New folder for the samples.")] = None,
    save_format: Annotated[str, typer.Option("--save-format", help="png, or npz in ADM's layout.")] = "png",
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N; under torchrun cpu or cuda.")] = "cpu",
    dtype: Annotated[str, typer.Option("--dtype", help="Of the encoder: float32, bfloat16 or float16.")] = "float32",
    sharding: Annotated[
        str, typer.Option("--sharding", help="fsdp2: spread the transformer's weights over processes; none.")
    ] = "none",
    compile: Annotated[bool, typer.Option("--compile", help="Compile the networks, for a GPU.")] = False,
    out: Out = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", help="Runs side by side. Default: one per core.")] = None,
    json_output: Annotated[bool, typer.Option("--json", help="Records as JSON on stdout, progress as JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Judge frozen encoders for generation: statistics, decoder, diffusion transformer, samples, scores.

    Idempotent: the same command again finishes what is missing. Under torchrun every process takes a share.
    """
    setup(verbose)
    from ovbench.harness.generation.options_config import GenerationOptions, parse_guidances
    from ovbench.harness.run import plan_runs

    folder = out or default_out()
    guidances = parse_guidances(guidance or [])
    any_guided = any(setting is not None and setting.kind == "auto" for setting in guidances)

    def guided(setting: GuidanceConfig | None) -> bool:  # in a sweep the guide is of those that use one
        return not any_guided or (setting is not None and setting.kind == "auto")

    options = [
        GenerationOptions(
            num_samples=num_samples,
            guidance=setting,
            decoder=decoder,
            stats=stats,
            dit=dit,
            dit_network=dit_network,
            guide=guide if guided(setting) else None,
            guide_network=guide_network if guided(setting) else None,
            reference=reference,
            extractor_weights=extractor_weights,
            lpips_weights=lpips_weights,
            dino_weights=dino_weights,
            data=data,
            save_samples=save_samples,
            save_format=save_format,  # pyright: ignore[reportArgumentType]
            compile=compile,
            sharding=sharding,  # pyright: ignore[reportArgumentType]
        )
        for setting in guidances
    ]
    plan = plan_runs(
        encoders=encoder,
        suite="generation",
        protocol=protocol,
        tasks=None,
        limit=None,
        seeds=tuple(seed) if seed else (0,),
        device=device,
        dtype=dtype,
        batch_size=64,
        out=folder,
        generation=options,
        with_reconstruction=True,
    )
    print_records(plan, folder, jobs=jobs, json_output=json_output)
