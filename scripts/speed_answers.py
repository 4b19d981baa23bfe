"""Answers per second: everything shared, against one request at a time as lmms-eval's `llava_hf` asks them.

Same modules, same process, alternating rounds. The other side is transformers' `LlavaForConditionalGeneration.generate`
at batch size 1: vision tower, whole prompt and answer anew for each request. Answers are compared before anything is
timed, and in float32 must be the same tokens. Weights are random, which changes no time; the end mark is set so that
answers have a few tokens. Decoding and resizing of images is on neither side. Prints one JSON object.

    python scripts/speed_answers.py
    python scripts/speed_answers.py --images 4 --rounds 7 --json speed.json
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from answer_rivals import SIZES, Rivals, pope_load, seed_load
from side_by_side import alternate, skipped

import ovbench
from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.understanding.answer_requests import Request
from ovbench.harness.understanding.engine import AnswerEngine
from ovbench.results.provenance import cpu_model

LOADS = ("pope", "pope without repeats", "seed")
TARGETS = {"pope": 8.0, "seed": 2.0}  # times the answers per second of the other side


def loads(images: int) -> dict[str, list[Request]]:
    """Returns the loads: POPE's structure, the same without its repeats, and SEED-Bench's."""
    found = (pope_load(images), pope_load(images, repeats=False), seed_load(2 * images))
    return dict(zip(LOADS, found, strict=True))


def measure(
    rivals: Rivals, load: Sequence[Request], *, rounds: int, device: torch.device, exact: bool
) -> dict[str, Any]:
    """Returns medians of both sides on a load, how many times faster ours is, and what was counted.

    Raises:
        DataError: An answer differs although it must not.
    """
    ours, engine = rivals.ours(load)
    theirs = rivals.theirs(load)
    same = sum(left == right for left, right in zip(ours, theirs, strict=True))
    if exact and same < len(load):
        raise DataError(f"{len(load) - same} of {len(load)} answers differ", where="speed of answers")
    sides = {
        "shared": lambda: rivals.ours(load),
        "padded": lambda: rivals.ours(load, packing="padded"),
        "one by one": lambda: rivals.theirs(load),
    }
    times = alternate(sides, rounds=rounds, device=device, slowest_s=1.0)
    ratios = {
        name: statistics.median(slow / fast for fast, slow in zip(times[name], times["one by one"], strict=True))
        for name in ("shared", "padded")
    }
    return {
        "rows": len(load),
        "images": len({request.image_id for request in load}),
        "same_answers": same,
        "distinct_answers": len(set(ours)),
        "answer_tokens": dict(sorted(Counter(map(len, ours)).items())),
        "packing": engine.packing,
        "counts": asdict(engine.counts),
        "answers_per_s": {name: len(load) / statistics.median(values) for name, values in times.items()},
        "seconds": times,
        "times_faster": ratios["shared"],
        "times_faster_padded": ratios["padded"],
    }


def full_pope(rivals: Rivals) -> dict[str, int]:
    """Returns what all of POPE takes, by planning it."""
    plan = AnswerEngine(rivals.model, rivals.encode).plan(pope_load(500))
    return {"rows": plan.num_requests, "encoder_passes": plan.num_images, "language_model_calls": plan.num_asks}


def measure_size(name: str, given: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Returns the report of one size."""
    asked = {shape: load for shape, load in loads(given.images).items() if shape in (given.load or LOADS)}
    sys.stderr.write(f"{name} on {device}: making the model\n")
    rivals = Rivals(SIZES[name], device=device, dtype=dtype, load=[one for load in asked.values() for one in load])
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model(),
        "dtype": str(dtype).removeprefix("torch."),
        "size": asdict(SIZES[name]),
        "num_visual": SIZES[name].num_visual,
        "language_model_parameters": rivals.num_parameters,
        "full_pope": full_pope(rivals),
        "loads": {},
    }
    for shape, load in asked.items():
        sys.stderr.write(f"{name} on {device}: {shape}, {len(load)} rows\n")
        found = measure(rivals, load, rounds=given.rounds, device=device, exact=dtype == torch.float32)
        sys.stderr.write(f"{name} on {device}: {shape}, {found['times_faster']:.1f} times faster\n")
        report["loads"][shape] = {**found, "target": TARGETS.get(shape)}
    return report


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Returns the settings of a command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=[name for name in SIZES if name != "7b"], default="27m", help="on the CPU")
    parser.add_argument("--load", action="append", choices=LOADS, help="a load; several times for more; else all")
    parser.add_argument("--images", type=int, default=2, help="of the POPE-shaped loads; SEED's has twice as many")
    parser.add_argument("--rounds", type=int, default=5, help="of each side, alternating")
    parser.add_argument("--threads", type=int, help="of torch on the CPU")
    parser.add_argument("--json", type=Path, help="write there instead of printing")
    return parser.parse_args(words)


def run(given: argparse.Namespace) -> dict[str, Any]:
    """Returns the report of a command line; the 7B shape is measured where there is a CUDA device.

    Raises:
        ConfigError: A number that is not positive, or a report that nobody could write afterwards.
        DataError: An answer differs although it must not.
    """
    for name in ("images", "rounds", "threads"):
        if getattr(given, name) is not None and getattr(given, name) < 1:
            raise ConfigError(f"--{name} must be at least 1, got {getattr(given, name)}", where=f"--{name}")
    if given.json is not None and not given.json.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder '{given.json.parent}'", where="--json", fix="make it first")
    if given.threads is not None:
        torch.set_num_threads(given.threads)
    large: dict[str, Any] = skipped("there is no CUDA device")
    small = measure_size(given.size, given, torch.device("cpu"), torch.float32)
    if torch.cuda.is_available():
        large = measure_size("7b", given, torch.device("cuda", 0), torch.bfloat16)
    return {
        "name": "speed-answers",
        "threads": torch.get_num_threads(),
        "rounds": given.rounds,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ovbench": ovbench.__version__,
        "sizes": {given.size: small, "7b": large},
    }


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
