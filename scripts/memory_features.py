"""How much memory 2048-dimensional features of many pictures take while they stream: one JSON object (Linux).

`anonymous` is what only this process can give back; `mapped` are pages of files, which the system may drop and read
again. Kept rows serve KID, precision and recall; streamed layers leave mean and covariance alone.

    python scripts/memory_features.py
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.feature_sets import FeatureAccumulator

DIM, BATCH = 2048, 100


def _mib(key: str) -> float:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) / 1024


def measure(count: int, *, kept: bool) -> dict[str, Any]:
    """Returns the growth of this process's memory in MiB while `count` rows stream, and after the statistics."""
    info = ExtractorInfo(
        name="noise", network="noise", trained=True, weights_sha256="0", resize="none", quantisation="none",
        normalisation="none", size_px=1, layers={"pool": DIM}, pool="pool", title="FD-Noise",
    )  # fmt: skip
    layers = ("pool",)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        base, mapped, peak = _mib("RssAnon"), _mib("RssFile"), 0.0
        found = FeatureAccumulator(
            info, count, keep=layers if kept else (), stream=() if kept else layers, folder=Path(folder)
        )
        for first in range(0, count, BATCH):
            rows = np.random.default_rng(first).standard_normal((BATCH, DIM), dtype=np.float32)
            found.add({"pool": rows}, first)
            peak = max(peak, _mib("RssAnon") - base)
        stats = found.finish().gaussian("pool")  # 32 MiB of covariance, which the last figure holds
        return {
            "num_images": count,
            "rows": "kept" if kept else "streamed",
            "anonymous_streaming_mib": round(peak),
            "anonymous_with_statistics_mib": round(_mib("RssAnon") - base),
            "dimensions": stats.dim,
            "mapped_mib": round(_mib("RssFile") - mapped),
        }


def main() -> None:
    """Measures every case in a process of its own and prints them."""
    if len(sys.argv) == 3:
        sys.stdout.write(json.dumps(measure(int(sys.argv[1]), kept=sys.argv[2] == "kept")))
        return
    cases = [[str(count), kind] for count in (1000, 10_000, 50_000) for kind in ("kept", "streamed")]
    done = [
        subprocess.run([sys.executable, __file__, *case], check=True, capture_output=True, text=True) for case in cases
    ]
    sys.stdout.write(json.dumps([json.loads(entry.stdout) for entry in done], indent=2) + "\n")


if __name__ == "__main__":
    main()
