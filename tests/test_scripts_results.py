"""scripts/speed_results.py at a size of a second: the tables are built, and no file of items is opened."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parent.parent / "scripts" / "speed_results.py"


def test_it_measures_without_reading_items(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--records", "12", "--items", "20", "--folder", str(tmp_path / "runs")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    rows = {row["name"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert rows["files of items that were opened"]["count"] == 0
    assert rows["ovbench leaderboard, whole command"]["median_s"] > 0
    assert len(list((tmp_path / "runs").glob("*/samples.parquet"))) == 12
