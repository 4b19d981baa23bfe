"""Times the Fréchet distance against scipy.linalg.sqrtm and torch-fidelity, and the 50-block jackknife, as JSON.

Rivals take turns inside a round, so that a busy machine slows all of them. scipy's square root is called as clean-fid
and pytorch-fid call it; torch-fidelity's own function is called. Needs scipy and torch-fidelity.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import ovbench
from ovbench._base.torchvision_shim import allow_torchvision
from ovbench.harness.metrics.frechet import FrechetResult, frechet_distance, frechet_from_features, moments_of
from ovbench.harness.metrics.jackknife import jackknife_frechet

Floats = NDArray[np.float64]


def _features(num_rows: int, dim: int, seed: int) -> Floats:
    """Correlated, non-negative rows with a falling spectrum, like pooled Inception features."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(1).standard_normal((dim, dim)) / dim**0.5
    scales = np.arange(1, dim + 1) ** -0.5
    return np.maximum((generator.standard_normal((num_rows, dim)) * scales) @ mixing + 0.02 * (seed + 1), 0.0)


def _sqrtm(mu1: Floats, sigma1: Floats, mu2: Floats, sigma2: Floats) -> float:
    """The code of clean-fid 0.1.35 and pytorch-fid 0.3.0, whose `disp=False` SciPy 1.18 no longer takes."""
    from scipy import linalg

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        root, _ = linalg.sqrtm(sigma1.dot(sigma2), disp=False)
    if not np.isfinite(root).all():
        offset = np.eye(len(sigma1)) * 1e-6
        root = linalg.sqrtm((sigma1 + offset).dot(sigma2 + offset))
    root = np.real(root)
    gap = mu1 - mu2
    return float(gap.dot(gap) + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(root))


def _torch_fidelity(mu1: Floats, sigma1: Floats, mu2: Floats, sigma2: Floats) -> float:
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    first, second = {"mu": mu1, "sigma": sigma1}, {"mu": mu2, "sigma": sigma2}
    return fid_statistics_to_metric(first, second, False)["frechet_inception_distance"]


def _case(name: str, num1: int, num2: int, dim: int, rounds: int, *, from_features: bool = False) -> dict[str, Any]:
    """Times all rivals on the same statistics; with `from_features`, ovbench starts from the rows themselves."""
    rows = [_features(n, dim, seed) for seed, n in enumerate((num1, num2))]
    first, second = (moments_of(part, "x") for part in rows)
    args = (first.mu.numpy(), first.sigma.numpy(), second.mu.numpy(), second.sigma.numpy())

    def ours() -> FrechetResult:
        return frechet_from_features(*rows) if from_features else frechet_distance(*args, num1, num2)

    rivals: dict[str, Callable[[], float]] = {
        "ovbench": lambda: ours().value,
        "scipy-sqrtm": lambda: _sqrtm(*args),
        "torch-fidelity": lambda: _torch_fidelity(*args),
    }
    times: dict[str, list[float]] = {rival: [] for rival in rivals}
    values: dict[str, float] = {}
    for _ in range(rounds):
        for rival, call in rivals.items():
            began = time.perf_counter()
            values[rival] = call()
            times[rival].append(time.perf_counter() - began)
    medians = {rival: statistics.median(found) for rival, found in times.items()}
    return {
        "case": name,
        "n": [num1, num2],
        "dim": dim,
        "solver": ours().solver,
        "median_s": {rival: round(value, 3) for rival, value in medians.items()},
        "best_s": {rival: round(min(found), 3) for rival, found in times.items()},
        "value": values,
        "faster_than": {
            rival: round(statistics.median(map(operator.truediv, found, times["ovbench"])), 2)
            for rival, found in times.items()
            if rival != "ovbench"
        },  # median over rounds of the ratio inside a round
    }


def _jackknife(num_rows: int, dim: int) -> list[dict[str, Any]]:
    reference = moments_of(_features(num_rows, dim, 0), "x")
    features = _features(num_rows, dim, 1)
    rows: list[dict[str, Any]] = []
    for method in ("exact", "second-order", "auto"):
        began = time.perf_counter()
        found = jackknife_frechet(features, reference.mu, reference.sigma, num_rows, method=method)
        rows.append({
            "case": f"jackknife {method}", "n": num_rows, "dim": dim, "num_blocks": found.num_blocks,
            "time_s": round(time.perf_counter() - began, 2), "value": found.value, "error": found.error,
            "bias": found.bias, "used": found.method, "reason": found.reason,
        })  # fmt: skip
    return rows


def measure(*, dim: int, num_rows: int, rounds: int, only: str | None = None) -> list[dict[str, Any]]:
    """Returns the cases: full rank, fewer rows than dimensions, and the jackknife."""
    allow_torchvision()
    cases: list[dict[str, Any]] = []
    if only in (None, "full-rank"):
        cases.append(_case("full rank", num_rows, num_rows, dim, rounds))
    if only in (None, "few"):
        few = dim // 4
        cases.append(_case("n below d, from statistics", few, few, dim, rounds))
        cases.append(_case("n below d, from features", few, few, dim, rounds, from_features=True))
    if only in (None, "jackknife"):
        cases += _jackknife(num_rows, dim)
    return cases


def main() -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dim", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--num-rows", type=int, default=10_000)
    parser.add_argument("--only", choices=["full-rank", "few", "jackknife"])
    options = parser.parse_args()
    cases = measure(dim=options.dim, num_rows=options.num_rows, rounds=options.rounds, only=options.only)
    import scipy

    report = {
        "name": "speed-frechet",
        "rounds": options.rounds,
        "cases": cases,
        "device": "cpu",
        "threads": torch.get_num_threads(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "torch": torch.__version__,
        "ovbench": ovbench.__version__,
    }
    print(json.dumps(report, sort_keys=True, indent=2))  # noqa: T201


if __name__ == "__main__":
    main()
