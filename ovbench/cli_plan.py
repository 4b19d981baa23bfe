"""The command `ovbench plan`: what a run would do, before anybody pays for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ovbench.cli_app import Out, ProtocolName, Verbose, default_out, guarded, print_rows, setup

if TYPE_CHECKING:
    from ovbench.harness.planning import Amount, Forecast, Gpu, Precision

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


@guarded
def plan(
    encoder: Annotated[
        list[str] | None,
        typer.Option("--encoder", "-e", help="family[/variant][:FILE][?option=value]; several times for more."),
    ] = None,
    suite: Annotated[str, typer.Option("--suite", "-s", help="Suite of tasks, or all.")] = "understanding",
    protocol: ProtocolName = "mini",
    num_samples: Annotated[int | None, typer.Option("--num-samples", help="Default: the protocol's.")] = None,
    guidance: Annotated[
        list[str] | None,
        typer.Option("--guidance", help="none, cfg:1.5, cfg:1.5@0.1-0.9 or auto:1.42; several times for a sweep."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Seed; may be given several times.")] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Of the encoder: float32, bfloat16 or float16.")] = "float32",
    gpu: Annotated[
        str, typer.Option("--gpu", help="h100, h100-pcie, h200, b200, a100, a100-40gb, l40s or rtx4090.")
    ] = "h100",
    gpus: Annotated[int, typer.Option("--gpus", help="How many.")] = 1,
    mfu: Annotated[
        float | None, typer.Option("--mfu", help="Share of the GPU's peak that is reached. Default: 0.4, 0.45 and 0.5.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option("--precision", help="What if all networks ran in float32, tf32 or bfloat16? Default: as they do."),
    ] = None,
    network: Annotated[
        str | None, typer.Option("--network", help="Only the size of this network: dit-dh-xl, vit-xl, …")
    ] = None,
    channels: Annotated[int | None, typer.Option("--channels", help="Of --network's latents. Default: 768.")] = None,
    grid: Annotated[int | None, typer.Option("--grid", help="Cells along a side of them. Default: 16.")] = None,
    patch_px: Annotated[
        int | None, typer.Option("--patch-px", help="Pixels of a decoder's token. Default: 16.")
    ] = None,
    out: Out = None,
    json_output: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    verbose: Verbose = False,
) -> None:
    """Say what a run would do: steps, operations, GPU hours, memory, disk. Runs nothing and needs no weights."""
    setup(verbose)
    from ovbench._base.errors import ConfigError

    if network is not None:
        if encoder:
            raise ConfigError(
                "--encoder has no effect beside --network", where="--network", fix="leave one of them out"
            )
        _print_network(network, channels=channels, grid=grid, patch_px=patch_px, json_output=json_output)
        return
    for flag, value in (("--channels", channels), ("--grid", grid), ("--patch-px", patch_px)):
        if value is not None:
            raise ConfigError(f"{flag} has no effect without --network", where=flag, fix="add e.g. --network dit-dh-xl")
    if not encoder:
        raise ConfigError("no encoder named", where="--encoder", fix="e.g. --encoder dinov2, or --network dit-dh-xl")
    if gpus < 1:
        raise ConfigError(f"it must be 1 or more, got {gpus}", where="--gpus")
    from ovbench.harness.planning import MFUS, check_mfu, check_precision, find_gpu

    chosen = find_gpu(gpu)
    shares = MFUS if mfu is None else (check_mfu(mfu),)
    wanted = None if precision is None else check_precision(precision)
    from ovbench._base.files import to_json
    from ovbench._base.paths import cache_dir
    from ovbench.harness.forecast import PlanRequest, look_ahead

    request = PlanRequest(
        encoders=encoder,
        suite=suite,
        protocol=protocol,
        num_samples=num_samples,
        guidance=guidance or None,
        seeds=tuple(seed) if seed else (0,),
        dtype=dtype,
        precision=wanted,
    )
    outlook = look_ahead(request, runs=out or default_out(), cache=cache_dir())
    several = {name: parts for name, parts in outlook.by_encoder.items() if len(parts) > 1}
    if json_output:
        found = [_document(forecast, chosen, gpus, shares) for forecast in outlook.forecasts]
        sums = [_sum_document(parts, chosen, gpus, shares) for parts in several.values()]
        about = {"headline": outlook.headline, "gpu": chosen.title, "gpus": gpus}
        typer.echo(to_json({**about, "encoders": found, "sums": sums}), nl=False)
        return
    typer.echo(outlook.headline, err=True)
    for name, parts in outlook.by_encoder.items():
        for forecast in parts:
            _print(forecast, chosen, gpus, shares, alone=name not in several)
        if name in several:
            _print_sum(parts, chosen, shares)


def _print_network(
    name: str, *, channels: int | None, grid: int | None, patch_px: int | None, json_output: bool
) -> None:
    from ovbench._base.errors import ConfigError
    from ovbench.harness.generation.cost import DECODERS, TRAINING_PASSES, flops_of, network_by_name, params_of

    if patch_px is not None and name not in DECODERS:
        raise ConfigError(f"'{name}' makes no pixels", where="--patch-px", fix="leave it out, or name a decoder")
    config = network_by_name(
        name,
        channels=768 if channels is None else channels,
        grid=16 if grid is None else grid,
        patch_px=16 if patch_px is None else patch_px,
    )
    params, flops = params_of(config), flops_of(config)
    if json_output:
        print_rows([{"network": name, "num_params": params, "forward_flops": flops}], True)
        return
    row = {"network": name, "parameters": _millions(params), "GFLOP forward": _giga(flops)}
    print_rows([row | {"GFLOP of a training step": _giga(TRAINING_PASSES * flops)}], False)


def _part(forecast: Forecast) -> str:
    """Returns which suite, and of a sweep which guidance, a forecast is of."""
    return f"{forecast.suite} {forecast.guidance}".strip()


def _print(forecast: Forecast, gpu: Gpu, gpus: int, mfus: Sequence[float], *, alone: bool) -> None:
    name = forecast.encoder if alone else f"{forecast.encoder}, {_part(forecast)}"
    typer.echo(f"\n{name}: steps, with hours of one {gpu.title} at a share of its peak")
    rows: list[dict[str, Any]] = []
    for step in forecast.steps:
        hours = {f"h at {mfu:.0%}": _hours(step.gpu_hours(gpu, mfu)) for mfu in mfus}
        rows.append(
            {
                "step": step.name,
                "what": step.what + (f" ({step.missing})" if step.missing else ""),
                "FLOP": _flops(step.flops),
                "mostly in": step.precisions[0] if step.precisions else "—",
                **hours,
                "took once, s": "not known" if step.made_in_s is None else f"{step.made_in_s:.1f}",
                "cached": "not looked up" if step.cached is None else step.cached,
            }
        )
    print_rows(rows, False)
    typer.echo(f"\n{name}: totals")
    print_rows([{"what": what, "value": value} for what, value in _totals(forecast, gpu, gpus, mfus).items()], False)
    for note in forecast.notes:
        typer.echo(f"note: {note}")


def _print_sum(parts: Sequence[Forecast], gpu: Gpu, mfus: Sequence[float]) -> None:
    from ovbench.harness.planning import sum_of

    typer.echo(f"\n{parts[0].encoder}: sum, with hours of one {gpu.title} at a share of its peak")
    rows: list[dict[str, Any]] = []
    for name, forecast in (*((_part(part), part) for part in parts), ("sum, shared steps once", sum_of(parts))):
        hours = {f"h at {mfu:.0%}": _hours(forecast.gpu_hours(gpu, mfu)) for mfu in mfus}
        rows.append({"what": name, "FLOP": _flops(forecast.flops), **hours, "disk, GB": _giga(forecast.disk_bytes)})
    print_rows(rows, False)


def _totals(forecast: Forecast, gpu: Gpu, gpus: int, mfus: Sequence[float]) -> dict[str, str]:
    rows = {
        name: f"{_millions(forecast.params[name])} parameters" if name in forecast.params else ""
        for name in dict.fromkeys((*forecast.params, *forecast.forward_flops))
    }
    for name, flops in forecast.forward_flops.items():
        rows[name] = ", ".join(part for part in (rows[name], f"{_giga(flops)} GFLOP forward") if part)
    at = "/".join(f"{mfu:.0%}" for mfu in mfus)
    rows["operations"] = _flops(forecast.flops)
    rows[f"hours of one {gpu.title} at {at}"] = _per_mfu(forecast, gpu, mfus, None)
    if gpus > 1:
        shared = [_hours(forecast.gpu_hours(gpu, mfu) / gpus) for mfu in mfus]
        rows[f"hours on {gpus} of them, shared evenly"] = " / ".join(shared)
    rows["… if every network ran in bfloat16"] = _per_mfu(forecast, gpu, mfus, "bfloat16")
    if forecast.sample_flops is not None:
        rows["one sample, decoded"] = _flops(forecast.sample_flops)
        rates = [f"{forecast.samples_per_s(gpu, mfu) or 0.0:.1f}" for mfu in mfus]
        rows[f"samples a second in {forecast.sample_precision}"] = " / ".join(rates)
    for amount in forecast.memory:
        fits = "" if amount.num_bytes < gpu.memory_bytes else f": more than a {gpu.title} has"
        rows[f"memory, {amount.what}"] = f"{_bytes(amount.num_bytes)} and the activations{fits}"
    for amount in forecast.disk:
        rows[f"disk, {amount.what}"] = _bytes(amount.num_bytes) + (" (not in the total)" if amount.optional else "")
    if forecast.disk:
        rows["disk, total"] = _bytes(forecast.disk_bytes)
    return rows


def _per_mfu(forecast: Forecast, gpu: Gpu, mfus: Sequence[float], precision: Precision | None) -> str:
    return " / ".join(_hours(forecast.gpu_hours(gpu, mfu, precision)) for mfu in mfus)


def _document(forecast: Forecast, gpu: Gpu, gpus: int, mfus: Sequence[float]) -> dict[str, Any]:
    def by_mfu(hours: Any) -> dict[str, float | None]:
        return {f"{mfu:g}": hours(mfu) for mfu in mfus}

    steps = [
        {
            "step": step.name,
            "what": step.what,
            "flops": step.flops,
            "work": [{"what": part.what, "flops": part.flops, "precision": part.precision} for part in step.work],
            "repeats": step.repeats,
            "gpu_hours": by_mfu(lambda mfu, step=step: step.gpu_hours(gpu, mfu)),
            "made_in_s": step.made_in_s,
            "cached": step.cached,
            "missing": step.missing or None,
        }
        for step in forecast.steps
    ]
    return {
        "encoder": forecast.encoder,
        "suite": forecast.suite,
        "guidance": forecast.guidance or None,
        "steps": steps,
        "num_params": dict(forecast.params),
        "forward_flops": dict(forecast.forward_flops),
        "flops": forecast.flops,
        "gpu_hours": by_mfu(lambda mfu: forecast.gpu_hours(gpu, mfu)),
        "gpu_hours_bfloat16": by_mfu(lambda mfu: forecast.gpu_hours(gpu, mfu, "bfloat16")),
        "wall_hours": by_mfu(lambda mfu: forecast.gpu_hours(gpu, mfu) / gpus),
        "sample_flops": forecast.sample_flops,
        "samples_per_s": by_mfu(lambda mfu: forecast.samples_per_s(gpu, mfu)),
        "memory_bytes": _amounts(forecast.memory),
        "disk_bytes": _amounts(forecast.disk),
        "notes": list(forecast.notes),
    }


def _sum_document(parts: Sequence[Forecast], gpu: Gpu, gpus: int, mfus: Sequence[float]) -> dict[str, Any]:
    from ovbench.harness.planning import sum_of

    document = _document(sum_of(parts), gpu, gpus, mfus)
    kept = ("encoder", "flops", "gpu_hours", "gpu_hours_bfloat16", "wall_hours", "disk_bytes", "notes")
    return {"of": [_part(part) for part in parts], **{name: document[name] for name in kept}}


def _amounts(amounts: Sequence[Amount]) -> list[dict[str, Any]]:
    return [{"what": each.what, "num_bytes": each.num_bytes, "optional": each.optional} for each in amounts]


def _millions(count: int) -> str:
    return f"{count / 1e6:,.1f}M"


def _giga(flops: int) -> str:
    return f"{flops / 1e9:,.1f}" if flops >= 1e8 else f"{flops / 1e9:.3g}"


def _flops(flops: int | None) -> str:
    return "not counted" if flops is None else f"{flops:.2e}"


def _hours(hours: float | None) -> str:
    if hours is None:
        return "—"
    return "<0.01" if 0 < hours < 0.01 else f"{hours:,.2f}" if hours < 10 else f"{hours:,.1f}"


def _bytes(count: int) -> str:
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
