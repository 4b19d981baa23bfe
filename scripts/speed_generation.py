"""What generation costs: images/s of sampling and training, each saving with and without, and the whole against RAE's.

Everything that is compared runs in alternating rounds of one process, on seeded, untrained networks (weights change no
time), and results are checked to be equal before they are timed. `with` is the package, `without` what the reference's
programs do; `times_faster` is the median of the rounds' own ratios. `against_reference` is a re-implementation of the
sampling loop that is described for github.com/bytetriper/RAE, not that program. Prints one JSON object.

    python scripts/speed_generation.py
    python scripts/speed_generation.py --preset dit-dh-s --device cuda --json speed.json
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import statistics
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from generation_savings import GPU_SAVINGS, SAVINGS, Bench, against_reference
from generation_sizes import SEED, SIZES, network_of, size_of
from side_by_side import alternate, skipped

import ovbench
from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.encoders.modeling.frozen import check_device
from ovbench.harness.generation.cost import TRAINING_PASSES
from ovbench.harness.generation.draws import training_draws
from ovbench.harness.generation.flops import forward_flops
from ovbench.harness.generation.flow_config import EMAConfig
from ovbench.harness.generation.schedules import EMA
from ovbench.harness.generation.transport import transport_loss
from ovbench.harness.planning import GPUS
from ovbench.results.provenance import cpu_model

DEFAULT = ("mini", "mid")
# Names that devices have → names in `GPUS`.
DEVICES: Mapping[str, str] = MappingProxyType(
    {
        r"NVIDIA H100 80GB HBM3": "h100",  # SXM
        r"NVIDIA H100 PCIe": "h100-pcie",
        r"NVIDIA H200": "h200",
        r"NVIDIA A100.*": "a100",  # those of 40 GB are as fast
        r"NVIDIA L40S": "l40s",
    }
)
_MATMUL = {"cpu": 2048, "cuda": 8192}  # side of the square matrices whose product gives the measured peak


def peak_of(device_name: str) -> dict[str, float] | None:
    """Returns FLOP/s that a GPU can do at most, by precision; None where its name is not in `DEVICES`.

    float32 means TF32, as it is measured here.
    """
    for pattern, name in DEVICES.items():
        if re.fullmatch(pattern, device_name):
            peak = GPUS[name].peak
            return {"bfloat16": peak["bfloat16"], "float32": peak["tf32"]}
    return None


def trainer(bench: Bench, precision: str = "float32") -> Callable[[], float]:
    """Returns a step of stage 2 that gives its loss: draws, forward, backward, clipping, AdamW and the average."""
    size, device = bench.size, bench.device
    network = network_of(size.network, device).train()
    optimizer = torch.optim.AdamW(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=2e-4,
        betas=(0.9, 0.95),
        weight_decay=0.0,
        fused=True,
    )
    average, steps = EMA(network, EMAConfig()), count()
    generator = torch.Generator().manual_seed(SEED)
    data = torch.randn(size.train_batch, *size.latent_shape, generator=generator).to(device)
    labels = torch.randint(size.network.num_classes, (size.train_batch,), generator=generator).to(device)

    def step() -> float:
        number = next(steps)
        indices = range(number * size.train_batch, (number + 1) * size.train_batch)
        draws = training_draws(SEED, indices, size.latent_shape, drop_probability=size.network.class_dropout_prob)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"):
            loss = transport_loss(network, data, labels, draws, size.transport).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(number)
        return float(loss.detach())

    return step


def throughput(bench: Bench) -> dict[str, Any]:
    """Returns images/s, FLOP/s and the share of the device's peak of sampling (unguided) and training.

    FLOPs are the model's: of the plain network, every label for every image, without padding.
    """
    size, device = bench.size, bench.device
    precisions = ("float32", "bfloat16") if device.type == "cuda" else ("float32",)
    noise, labels = bench.noise()
    side = _MATMUL[device.type]
    matrix = torch.randn(side, side, generator=torch.Generator().manual_seed(SEED)).to(device)
    low = matrix.bfloat16()
    sides: dict[str, Callable[[], object]] = {
        "draws of training": lambda: training_draws(
            SEED, range(size.train_batch), size.latent_shape, drop_probability=0.1
        )
    }
    for precision in precisions:
        sampler = bench.sampler(precision=precision)
        operand = low if precision == "bfloat16" else matrix
        sides[f"sampling {precision}"] = lambda sampler=sampler: sampler.solve(noise, labels)
        sides[f"training {precision}"] = trainer(bench, precision)
        sides[f"matmul {precision}"] = lambda operand=operand: operand @ operand
    times = alternate(sides, rounds=bench.rounds, device=device, min_s=bench.min_s)
    forward, evaluations = forward_flops(size.network).total, size.num_steps - 1
    known = peak_of(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    report: dict[str, Any] = {
        "forward_flop_per_image": forward,
        "evaluations_per_image": evaluations,
        "drawing_share_of_training": statistics.median(times["draws of training"])
        / statistics.median(times["training float32"]),
    }
    for precision in precisions:
        matmul = 2.0 * side**3 / min(times[f"matmul {precision}"])
        peak = matmul if device.type == "cpu" else (known or {}).get(precision)
        source = f"measured: product of {side} x {side} matrices" if device.type == "cpu" else "data sheet, dense"
        entry: dict[str, Any] = {
            "peak_flop_per_s": peak,
            "peak_source": "unknown: this device is not in the table" if peak is None else source,
            "matmul_flop_per_s": matmul,
        }
        for job, batch, cost in (
            ("sampling", size.batch, evaluations * forward),
            ("training", size.train_batch, TRAINING_PASSES * forward),
        ):
            speed = batch / statistics.median(times[f"{job} {precision}"])
            entry[job] = {
                "batch": batch,
                "images_per_s": speed,
                "flop_per_s": speed * cost,
                "share_of_peak": None if peak is None else speed * cost / peak,
                "share_of_matmul": speed * cost / matmul,
            }
        report[precision] = entry
    return report


def measure(bench: Bench, name: str) -> dict[str, Any]:
    """Returns all that is measured of one size; `name` is for messages.

    Raises:
        DataError: Two sides give different results.
    """
    on_gpu = bench.device.type == "cuda"
    jobs: dict[str, Callable[[Bench], dict[str, Any]]] = {**SAVINGS, **(GPU_SAVINGS if on_gpu else {})}
    savings = {job: _named(f"{name}: {job}", run, bench) for job, run in jobs.items()}
    if not on_gpu:
        savings |= {job: skipped("it is made for GPUs, and this run is on a CPU") for job in GPU_SAVINGS}
    reference = {
        job: _named(f"{name}: {job}", partial(against_reference, guided=guided), bench)
        for job, guided in (("autoguidance", True), ("unguided", False))
    }
    return {
        "size": asdict(bench.size),
        "throughput": throughput(bench),
        "savings": savings,
        "against_reference": reference,
    }


def _named(where: str, run: Callable[[Bench], dict[str, Any]], bench: Bench) -> dict[str, Any]:
    sys.stderr.write(f"{where}\n")
    try:
        return run(bench)
    except DataError as error:
        raise DataError(error.what, where=where) from None


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", action="append", choices=list(SIZES), help="a size; several times for more")
    parser.add_argument("--rounds", type=int, default=5, help="of each side, alternating")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--json", type=Path, help="write there instead of printing")
    return parser.parse_args(words)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Returns the report of a command line.

    Raises:
        ConfigError: A number that is not positive, or a report that nobody could write afterwards.
        DependencyError: The device is not there.
        DataError: Two sides give different results.
    """
    for name in ("rounds", "threads"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(given, name)}", where=f"--{name}")
    if given.json is not None and not given.json.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder '{given.json.parent}'", where="--json", fix="make it first")
    device = check_device(given.device)
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32 for both sides, as the reference has it
    report: dict[str, Any] = {
        "name": "speed-generation",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "float32_products": torch.get_float32_matmul_precision(),
        "threads": torch.get_num_threads(),
        "rounds": given.rounds,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ovbench": ovbench.__version__,
        "sizes": {},
    }
    tolerance = 2e-2 if device.type == "cuda" else 1e-4
    for name in given.preset or DEFAULT:
        bench = Bench(size=size_of(name, device), device=device, rounds=given.rounds, tolerance=tolerance)
        report["sizes"][name] = measure(bench, name)
    return report


def main() -> int:
    """Measures, prints JSON."""
    given = parse()
    try:
        text = json.dumps(run(given), indent=2, sort_keys=True) + "\n"
    except OvbenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    if given.json is None:
        sys.stdout.write(text)
    else:
        given.json.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
