"""Runs the command line in a process of its own, with a cache and a record folder of the test's own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Cli = Callable[..., subprocess.CompletedProcess[str]]
SMOKE = ("--protocol", "mini-smoke", "--limit", "28")


def environment(folder: Path) -> dict[str, str]:
    """Returns the environment of a command: its own cache and records, one thread, no hub."""
    return {
        **os.environ,
        "OVBENCH_CACHE": str(folder / "cache"),
        "OVBENCH_RUNS": str(folder / "runs"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }


def call(folder: Path, *words: str, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    """Runs `ovbench WORDS` and returns what came out."""
    return subprocess.run(
        [sys.executable, "-m", "ovbench", *words],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=timeout,
    )


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one smoke run of two encoders has ended; tests only read it or copy it."""
    folder = tmp_path_factory.mktemp("finished")
    done = call(folder, "run", "-e", "clip", "-e", "random", *SMOKE)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def ovbench(tmp_path: Path) -> Cli:
    """The command line with a fresh cache."""

    def run(*words: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        return call(folder or tmp_path, *words)

    return run
