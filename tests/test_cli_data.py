"""`ovbench data`: exit codes, streams, and that nothing is fetched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tasks.benchmark_files import write_benchmark


@pytest.fixture
def ovbench(tmp_path: Path):
    environment = {
        **{name: value for name, value in os.environ.items() if name != "OVBENCH_DATA"},
        "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub"), "OVBENCH_CACHE": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
    }  # fmt: skip

    def call(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ovbench", *words], env=environment | more, capture_output=True, text=True,
            timeout=120, check=False,
        )  # fmt: skip

    return call


def test_data_are_packed_checked_and_mounted(ovbench, tmp_path: Path) -> None:
    write_benchmark("chartqa", tmp_path / "data")
    pack = tmp_path / "pack"
    done = ovbench("data", "pack", "--tasks", "chartqa", "--from", str(tmp_path / "data"), "--to", str(pack), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["rows"] == 8
    assert "on the other machine: ovbench data mount pack" in done.stderr
    assert ovbench("data", "verify", str(pack), "--images").returncode == 0
    mounted = ovbench("data", "mount", str(pack), OVBENCH_DATA=str(tmp_path))
    assert mounted.returncode == 0, mounted.stderr
    assert f"remembered: {pack} (in {tmp_path}/config/ovbench/config.json" in mounted.stderr
    assert f"warning: OVBENCH_DATA is set and comes first: {tmp_path}" in mounted.stderr
    (pack / "ChartQA/data/test-00000-of-00001.parquet").write_bytes(b"")
    broken = ovbench("data", "verify", str(pack))
    assert broken.returncode == 2
    assert "broken: ChartQA/data/test-00000-of-00001.parquet, task chartqa" in broken.stderr


def test_absent_data_end_with_the_line_that_gets_them(ovbench, tmp_path: Path) -> None:
    done = ovbench("data", "pack", "--tasks", "pope", "--to", str(tmp_path / "pack"))
    assert done.returncode == 2
    assert "the data of the task 'pope' are not on this machine" in done.stderr
    assert "HF_HUB_OFFLINE is set" in done.stderr
    assert not (tmp_path / "pack").exists()


def test_suite_of_a_protocol_names_its_tasks(ovbench, tmp_path: Path) -> None:
    tmp_path.joinpath("data").mkdir()
    words = ["--tasks", "understanding:llava15-proxy", "--from", str(tmp_path / "data"), "--to", str(tmp_path / "pack")]
    done = ovbench("data", "pack", *words)
    assert done.returncode == 2
    assert "the data of the task 'seedbench' are not in the folder" in done.stderr
