"""What the scores cost beside what a user would take instead: one JSON object, rivals alternating in one run.

Three parts: the Fréchet distance and its jackknife (`speed_frechet`), the FID network (`speed_inception`), and whole
commands from files to numbers. A command runs in a process of its own, with wall time and peak memory of that process;
the network has seeded, untrained weights everywhere, which changes no time. Needs the development tools.

    python scripts/speed_metrics.py
    python scripts/speed_metrics.py --only command --num-images 400
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import speed_frechet
import speed_inception
import torch
from PIL import Image

import ovbench
from ovbench.harness.metrics.inception_weights import random_state
from ovbench.results.provenance import cpu_model

# Every rival's own command; `{}` are the sources and the weights.
_TORCH_FIDELITY = """
from ovbench._base.torchvision_shim import allow_torchvision
allow_torchvision()
from torch_fidelity import calculate_metrics
print(calculate_metrics(input1={fake!r}, input2={real!r}, isc=True, fid=True, kid=True, prc=True, cuda=False,
      feature_extractor="inception-v3-compat", feature_extractor_weights_path={weights!r}, kid_subset_size={subset},
      cache=False, verbose=False))
"""
_CLEAN_FID = """
from ovbench._base.torchvision_shim import allow_torchvision
allow_torchvision()
import torch
from cleanfid.fid import compute_fid
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
network = FeatureExtractorInceptionV3("seeded", ["2048"], feature_extractor_weights_path={weights!r})
parts = [m for n, m in network.named_children() if n not in ("AvgPool", "fc")]
def features(x):
    x = (x - 128) / 128
    for part in parts:
        x = part(x)
    return x.mean(dim=(2, 3))
print(compute_fid({real!r}, {fake!r}, mode="clean", custom_feat_extractor=features, num_workers=2,
      device=torch.device("cpu"), use_dataparallel=False, verbose=False))
"""


def pictures(folder: Path, count: int, size: int, seed: int) -> Path:
    """Writes `count` PNG files of waves with noise."""
    folder.mkdir(parents=True)
    y, x = np.mgrid[:size, :size]

    def write(index: int) -> None:
        draw = np.random.default_rng([seed, index])
        phase, pitch = draw.uniform(0, 6, 3), draw.uniform(size / 20, size / 4, 3)
        wave = 128 + 90 * np.sin(x[..., None] / pitch + phase) * np.cos(y[..., None] / pitch) + draw.normal(0, 4, 3)
        Image.fromarray(wave.clip(0, 255).astype(np.uint8)).save(folder / f"{index:05d}.png", compress_level=1)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(write, range(count)))
    return folder


def run(words: Sequence[str], environment: Mapping[str, str]) -> dict[str, float]:
    """Runs a command and returns its wall time in seconds and its peak memory in bytes (of the process itself)."""
    began = time.perf_counter()
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words[:4])} … failed:\n{errors}")
    scale = 1 if sys.platform == "darwin" else 1024
    return {"wall_s": time.perf_counter() - began, "peak_rss_bytes": float(usage.ru_maxrss * scale)}


def measure_commands(num_images: int, size: int, rounds: int) -> dict[str, Any]:
    """Returns wall time and peak memory of whole commands on `num_images` pictures a side."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        real, fake, other = (
            pictures(root / part, num_images, size, seed) for seed, part in enumerate(("real", "fake", "other"))
        )
        weights = root / "seeded.pth"
        torch.save(random_state(), weights)
        subset = min(1000, num_images)
        cold, warm = ({**os.environ, "OVBENCH_CACHE": str(root / part)} for part in ("cold", "warm"))
        script = {"fake": str(fake), "real": str(real), "weights": str(weights), "subset": subset}

        def ours(against: Path, *more: str) -> list[str]:
            words = [sys.executable, "-m", "ovbench", "fid", str(real), str(against), "--weights", "random"]
            words += ["--mode", "torch-fidelity", "--metrics", "fid,sfid,is,kid,pr", "--kid-subset-size", str(subset)]
            return [*words, *more]

        commands = {
            "ovbench, FID+sFID+IS+KID+P/R": (ours(fake, "--no-intervals"), cold),
            "torch-fidelity, FID+IS+KID+P/R": ([sys.executable, "-c", _TORCH_FIDELITY.format(**script)], cold),
            "clean-fid, FID": ([sys.executable, "-c", _CLEAN_FID.format(**script)], cold),
            "ovbench with intervals": (ours(fake), cold),
            "ovbench, reference cached": (ours(other, "--no-intervals"), warm),
            "ovbench, both cached": (ours(fake, "--no-intervals"), warm),
        }
        found: dict[str, list[dict[str, float]]] = {label: [] for label in commands}
        for _ in range(rounds):
            for label, (words, environment) in commands.items():
                if environment is cold:
                    shutil.rmtree(root / "cold", ignore_errors=True)
                elif label.endswith("reference cached"):
                    shutil.rmtree(root / "warm", ignore_errors=True)
                    run(ours(fake, "--no-intervals"), warm)  # fills the cache; not counted
                found[label].append(run(words, environment))
    report: dict[str, Any] = {"num_images": num_images, "size_px": size, "rounds": rounds}
    for label, results in found.items():
        report[label] = {
            "wall_s": round(statistics.median(entry["wall_s"] for entry in results), 1),
            "peak_rss_mb": round(max(entry["peak_rss_bytes"] for entry in results) / 2**20),
        }
    base = report["ovbench, FID+sFID+IS+KID+P/R"]["wall_s"]
    cached = report["ovbench, reference cached"]["wall_s"], report["ovbench, both cached"]["wall_s"]
    for label in ("torch-fidelity, FID+IS+KID+P/R", "clean-fid, FID"):
        theirs = report[label]["wall_s"]
        report[label] |= {
            "times_ovbench_cold": round(theirs / base, 2),
            "times_ovbench_reference_cached": round(theirs / cached[0], 2),
            "times_ovbench_both_cached": round(theirs / cached[1], 2),
        }
    return report


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", choices=["frechet", "inception", "command"])
    parser.add_argument("--num-images", type=int, default=2000, help="a side, of the commands")
    parser.add_argument("--size", type=int, default=256, help="side of the pictures, in pixels")
    parser.add_argument("--rounds", type=int, default=5, help="of distances and network")
    parser.add_argument("--command-rounds", type=int, default=1)
    given = parser.parse_args()
    report: dict[str, Any] = {
        "name": "speed-metrics",
        "cpu": cpu_model(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ovbench": ovbench.__version__,
    }
    if given.only in (None, "frechet"):
        report["frechet"] = speed_frechet.measure(dim=2048, num_rows=10_000, rounds=given.rounds)
    if given.only in (None, "inception"):
        report["inception"] = speed_inception.measure(
            batch_size=32, rounds=given.rounds, size=given.size, device="cpu", compile=False
        )
    if given.only in (None, "command"):
        report["command"] = measure_commands(given.num_images, given.size, given.command_rounds)
    sys.stdout.write(json.dumps(report, indent=2, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
