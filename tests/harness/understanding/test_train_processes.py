"""Both stages as real programs: two processes give what one gives, sharded or not, killed or not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ovbench._base.files import read_jsonl
from tests.harness.understanding.llava_program import recipe_of
from tests.harness.understanding.llava_training import largest_difference, open_tree, train, write_tree

PROGRAM = Path(__file__).with_name("llava_program.py")
ROOT = Path(__file__).parents[3]
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
FAST = ("two", "fsdp2,two")  # batches with and without images, since stage 2 groups them
SLOW = (
    "one",
    "two,passes",
    "two,global",
    "two,checkpointing",
    "fsdp2,one",
    "fsdp2,two,passes",
    "fsdp2,two,global",
    "fsdp2,two,checkpointing",
    "two,stopped",
    "fsdp2,two,stopped",
)
CLOSE = 2e-4  # Adam makes steps of 2e-3 out of differences of rounding


def start(
    jobs: tuple[str, ...], *launcher: str, language_model: str, data: Path, folder: Path
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *launcher, str(PROGRAM), language_model, str(data), str(folder), *jobs],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str], timeout: float) -> None:
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, out


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_tree(folder)
    return folder


def alone(folder: Path, language_model: str, tree: Path, job: str) -> Path:
    words = job.split(",")
    return train(folder, open_tree(tree), recipe_of(language_model, words), stage=1 if "one" in words else 2)


def assert_like_one(two: Path, folder: Path, language_model: str, tree: Path, job: str) -> None:
    stage = 1 if "one" in job.split(",") else 2
    weights = alone(folder, language_model, tree, job)
    assert largest_difference(two / job / f"stage{stage}.safetensors", weights) < CLOSE
    ours, theirs = (read_jsonl(path / f"stage{stage}.log.jsonl") for path in (two / job, folder))
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() - {"elapsed_s", "tokens_per_s"}:
            assert one[key] == pytest.approx(other[key], rel=1e-4, abs=1e-5), key


def test_two_processes_give_what_one_gives_with_and_without_shards(
    toy_language_model: str, tree: Path, tmp_path: Path
) -> None:
    process = start(FAST, *TWO, language_model=toy_language_model, data=tree, folder=tmp_path)
    finish(process, 120)
    for job in FAST:
        assert_like_one(tmp_path, tmp_path / "alone", toy_language_model, tree, job)


def kill_after(process: subprocess.Popen[str], log: Path, steps: int) -> None:
    """Kills a program and its children when a training has logged so many steps."""
    try:
        deadline = time.monotonic() + 120
        while not log.exists() or not any(row["step"] >= steps for row in read_jsonl(log, drop_torn_tail=True)):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no step began"
            time.sleep(0.02)
    finally:
        # Children of torchrun are sessions of their own.
        children = subprocess.run(
            ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=False
        ).stdout.split()
        os.killpg(process.pid, signal.SIGKILL)
        for child in children:
            os.kill(int(child), signal.SIGKILL)
        process.communicate()


def test_stage_two_killed_and_started_again_gives_the_same_bits(
    toy_language_model: str, tree: Path, tmp_path: Path
) -> None:
    process = start(("slow,two",), language_model=toy_language_model, data=tree, folder=tmp_path)
    kill_after(process, tmp_path / "slow,two" / "stage2.log.jsonl", 4)
    assert not (tmp_path / "slow,two" / "stage2.safetensors").exists()
    recipe = recipe_of(toy_language_model, ())
    steps: list[int] = []
    path = train(
        tmp_path / "slow,two",
        open_tree(tree),
        recipe,
        stage=2,
        progress=lambda done, total, **fields: steps.append(done),
    )
    assert steps in ([5, 6], [3, 4, 5, 6])  # the checkpoint of step 4, or that of step 2 where 4 was being written
    assert path.read_bytes() == alone(tmp_path / "alone", toy_language_model, tree, "two").read_bytes()


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory, toy_language_model: str, tree: Path) -> Path:
    """The other jobs under one launch of two processes."""
    folder = tmp_path_factory.mktemp("two")
    finish(start(SLOW, *TWO, language_model=toy_language_model, data=tree, folder=folder), 300)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("job", [job for job in SLOW if "stopped" not in job])
def test_passes_sums_and_checkpointing_change_nothing(
    slow: Path, toy_language_model: str, tree: Path, tmp_path: Path, job: str
) -> None:
    assert_like_one(slow, tmp_path, toy_language_model, tree, job)


@pytest.mark.slow
@pytest.mark.parametrize("job", ["two,stopped", "fsdp2,two,stopped"])
def test_one_process_goes_on_where_two_stopped(
    slow: Path, toy_language_model: str, tree: Path, tmp_path: Path, job: str
) -> None:
    assert not (slow / job / "stage2.safetensors").exists()
    shutil.copytree(slow / job, tmp_path / "rest")
    steps: list[int] = []
    path = train(
        tmp_path / "rest",
        open_tree(tree),
        recipe_of(toy_language_model, ()),
        stage=2,
        progress=lambda done, total, **fields: steps.append(done),
    )
    assert steps == [5, 6]
    assert largest_difference(path, alone(tmp_path / "alone", toy_language_model, tree, "two")) < CLOSE


@pytest.mark.slow
def test_two_processes_killed_and_started_again_end_as_one(toy_language_model: str, tree: Path, tmp_path: Path) -> None:
    process = start(("slow,two",), *TWO, language_model=toy_language_model, data=tree, folder=tmp_path)
    kill_after(process, tmp_path / "slow,two" / "stage2.log.jsonl", 4)
    finish(start(("slow,two",), *TWO, language_model=toy_language_model, data=tree, folder=tmp_path), 120)
    weights = alone(tmp_path / "alone", toy_language_model, tree, "two")
    assert largest_difference(tmp_path / "slow,two" / "stage2.safetensors", weights) < CLOSE
