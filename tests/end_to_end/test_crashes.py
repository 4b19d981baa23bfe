"""Killed, interrupted, damaged, run twice at once: nothing is lost and nothing wrong is believed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.end_to_end.conftest import SMOKE, call, environment
from tests.end_to_end.test_run import answers, outcomes

WORDS = ("run", "-e", "clip", *SMOKE)


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "ovbench", *words],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # A shell that starts the tests in the background has SIGINT ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_work(folder: Path, seconds: float = 120) -> None:
    """Waits until a step is under way."""
    deadline = time.monotonic() + seconds
    while not list((folder / "cache").glob("work/*")):
        assert time.monotonic() < deadline, "no step began"
        time.sleep(0.1)


def test_killed_at_three_random_moments_the_table_is_the_same(finished: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    for _ in range(3):
        process = start(tmp_path, *WORDS)
        wait_for_work(tmp_path)
        time.sleep(moments.uniform(0.5, 6.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    done = call(tmp_path, *WORDS)
    assert done.returncode == 0, done.stderr
    theirs = answers(finished)
    assert all(theirs[key] == value for key, value in answers(tmp_path).items())
    everything = outcomes(finished)
    expected = everything[everything.encoder == "clip/mini"].reset_index(drop=True)
    assert outcomes(tmp_path).equals(expected)


def test_when_only_the_parent_is_killed_its_workers_stop(tmp_path: Path) -> None:
    process = start(tmp_path, *WORDS)
    wait_for_work(tmp_path)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 20
    while True:
        listing = subprocess.run(["ps", "-eo", "pgid="], capture_output=True, text=True, check=True).stdout.split()
        if str(process.pid) not in listing:
            break
        assert time.monotonic() < deadline, "a worker outlived its parent"
        time.sleep(0.5)


def test_ctrl_c_exits_with_130_and_says_that_it_can_go_on(tmp_path: Path) -> None:
    process = start(tmp_path, *WORDS)
    wait_for_work(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in err
    assert "Traceback" not in err
    assert not list(tmp_path.glob("runs/*/record.json"))


def test_two_runs_in_one_folder_at_once_are_refused(tmp_path: Path) -> None:
    process = start(tmp_path, *WORDS)
    try:
        wait_for_work(tmp_path)
        second = call(tmp_path, *WORDS)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert second.returncode == 2
    assert "another run is using this folder" in second.stderr
    assert "Traceback" not in second.stderr


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_damaged_cache_entry_is_set_aside_and_computed_again(copy: Path) -> None:
    before = answers(copy)
    victim = next((copy / "cache" / "answers").glob("*/answers.jsonl"))
    victim.write_bytes(victim.read_bytes()[:-20])
    done = call(copy, "run", "-e", "clip", "-e", "random", *SMOKE)
    assert done.returncode == 0, done.stderr
    assert "is damaged" in done.stderr
    assert "set aside" in done.stderr
    assert answers(copy) == before


def test_a_record_of_a_newer_schema_is_named_and_the_others_are_compared(copy: Path) -> None:
    path = next((copy / "runs").glob("*/record.json"))
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"schema_version": 99}))
    done = call(copy, "leaderboard", "--no-paired")
    assert done.returncode == 0, done.stderr
    assert "schema version 99" in done.stderr
    assert str(path) in done.stderr
    assert "Traceback" not in done.stderr
