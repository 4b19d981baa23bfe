"""What FID features cost: images/s of ovbench's Inception against torch-fidelity's own, in alternating rounds.

Both sides read the same uint8 pictures with the same seeded, untrained weights (the time does not depend on them); ours
gives all seven layers of one pass, theirs the pooled features alone. Prints one JSON object: `ratio` is the median of
the rounds' own ratios, `relative_error` is of the pooled features against the plain network in float64.

    python scripts/speed_inception.py
    python scripts/speed_inception.py --device cuda --batch-size 128 --compile
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ovbench
from ovbench._base.errors import OvbenchError
from ovbench._base.lazy import require
from ovbench._base.torchvision_shim import allow_torchvision
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.inception_weights import RANDOM, full_float32, load_inception, random_state
from ovbench.harness.metrics.resizing import tf1_bilinear_gather


def theirs(device: str) -> Any:
    """Returns torch-fidelity's network with the seeded weights."""
    allow_torchvision()
    module = require("torch_fidelity.feature_extractor_inceptionv3", extra="dev", purpose="scripts/speed_inception.py")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "seeded.pth"
        torch.save(random_state(), path)
        return module.FeatureExtractorInceptionV3("seeded", ["2048"], feature_extractor_weights_path=str(path)).to(
            device
        )


def measure(*, batch_size: int, rounds: int, size: int, device: str, compile: bool) -> dict[str, Any]:
    """Returns images/s of every side and the ratios to torch-fidelity's."""
    images = np.random.default_rng(0).integers(0, 256, (batch_size, size, size, 3), dtype=np.uint8)
    nchw = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    network = theirs(device)
    ours = load_extractor("inception-tf", weights=RANDOM, device=device, compile=compile)
    low = load_extractor("inception-tf", weights=RANDOM, device=device, compile=compile, precision="bfloat16")

    def reference() -> torch.Tensor:
        with torch.inference_mode(), full_float32():
            return network(nchw.to(device))[0]

    sides: dict[str, Callable[[], torch.Tensor]] = {
        "torch-fidelity": reference,
        "ovbench": lambda: ours.extract(images)["2048"],
        "ovbench bfloat16": lambda: low.extract(images)["2048"],
    }
    exact = load_inception(RANDOM, fast=False).network.double()
    few = min(4, batch_size)
    with torch.inference_mode():
        wanted = exact(((tf1_bilinear_gather(nchw[:few], 299) - 128) / 128).double(), ["2048"])["2048"].double()
    result: dict[str, Any] = {"relative_error": {}, "images_per_s": {}, "ratio": {}}
    for name, call in sides.items():  # warm-up
        found = call()[:few].double().cpu()
        result["relative_error"][name] = float((found - wanted).norm() / wanted.norm())
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            begin = time.perf_counter()
            call().cpu()  # waits for a GPU
            times[name].append(time.perf_counter() - begin)
    for name, found in times.items():
        result["images_per_s"][name] = batch_size / statistics.median(found)
        ratios = [base / own for base, own in zip(times["torch-fidelity"], found, strict=True)]
        result["ratio"][name] = statistics.median(ratios)
    return result


def main() -> int:
    """Measures, prints JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, in pixels")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args()
    try:
        result = measure(
            batch_size=given.batch_size,
            rounds=given.rounds,
            size=given.size,
            device=given.device,
            compile=given.compile,
        )
    except OvbenchError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    where = torch.cuda.get_device_name() if given.device.startswith("cuda") else platform.processor() or "cpu"
    settings = {**vars(given), "threads": torch.get_num_threads(), "hardware": where}
    versions = {"ovbench": ovbench.__version__, "torch": torch.__version__, "python": platform.python_version()}
    sys.stdout.write(
        json.dumps({**result, "settings": settings, "versions": versions}, indent=2, sort_keys=True) + "\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
