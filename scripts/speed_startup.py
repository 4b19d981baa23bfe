"""Measures how long `ovbench --help` takes: median and best of ten after one warm-up, as JSON."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import time

import ovbench

RUNS = 10


def main() -> None:
    """Prints one JSON object."""
    times_s: list[float] = []
    for _ in range(RUNS + 1):
        began = time.perf_counter()
        subprocess.run([sys.executable, "-m", "ovbench", "--help"], capture_output=True, check=True)
        times_s.append(time.perf_counter() - began)
    measured = times_s[1:]  # the first one warms the file cache
    row = {
        "name": "startup-help",
        "median_s": round(statistics.median(measured), 4),
        "best_s": round(min(measured), 4),
        "num_runs": RUNS,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "ovbench": ovbench.__version__,
    }
    print(json.dumps(row, sort_keys=True))  # noqa: T201


if __name__ == "__main__":
    main()
