"""The transformer's training as real programs: two processes give what one gives, sharded or not, killed or not."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.harness.generation.decoder_training import assert_close, assert_same_bits
from tests.harness.generation.dit_training import NETWORK, recipe, rows, state, train

pytestmark = pytest.mark.slow
PROGRAM = Path(__file__).with_name("dit_program.py")
ROOT = Path(__file__).parents[3]
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
JOBS = ("plain", "passes", "nan", "fsdp2", "fsdp2,passes", "fsdp2,bfloat16", "fsdp2,nan", "fsdp2,stopped", "stopped")
RESUMED = ("resumed", "fsdp2,resumed", "fsdp2,bfloat16,resumed")


def start(folder: Path, jobs: tuple[str, ...], *launcher: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "default", *launcher, str(PROGRAM), str(folder), *jobs],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def kill_after(process: subprocess.Popen[str], folder: Path, steps: int) -> None:
    """Kills a program and its children when a training has logged so many steps."""
    try:
        deadline = time.monotonic() + 120
        while not (folder / "dit.log.jsonl").exists() or len(rows(folder)) < steps:
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


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process and one pass, in float32 and under bfloat16."""
    folder = tmp_path_factory.mktemp("alone")
    train(folder / "float32")
    train(folder / "bfloat16", recipe(precision="bfloat16"))
    return folder


class Killed(Exception):
    pass


def stop_at_6(done: int, total: int, **fields: float) -> None:
    if done == 6:
        raise Killed


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every job under one launch of two processes; those of RESUMED go on where one process stopped."""
    folder = tmp_path_factory.mktemp("two")
    for job in RESUMED:
        chosen = recipe(precision="bfloat16" if "bfloat16" in job else "float32")
        with pytest.raises(Killed):
            train(folder / job, chosen, progress=stop_at_6)
    process = start(folder, (*JOBS, *RESUMED), *TWO)
    try:
        out, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, out
    (folder / "output.txt").write_text(out, encoding="utf-8")
    return folder


@pytest.mark.parametrize("job", ["plain", "passes", "fsdp2", "fsdp2,passes", "resumed", "fsdp2,resumed"])
def test_two_processes_give_what_one_gives(two: Path, alone: Path, job: str) -> None:
    assert_close(state(two / job), state(alone / "float32"))
    for name in ("dit.safetensors", "dit-2ep.safetensors", "dit-3.5ep.safetensors"):
        assert_close(load_file(two / job / name), load_file(alone / "float32" / name))
    for ours, theirs in zip(rows(two / job), rows(alone / "float32"), strict=True):
        assert ours.keys() == theirs.keys()
        for key in ours.keys() - {"elapsed_s"}:
            assert ours[key] == pytest.approx(theirs[key], rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("job", ["fsdp2,bfloat16", "fsdp2,bfloat16,resumed"])
def test_a_padded_network_is_sharded_and_saved_without_its_padding(two: Path, alone: Path, job: str) -> None:
    ours, theirs = state(two / job), state(alone / "bfloat16")
    assert {key: value.shape for key, value in ours.items()} == {key: value.shape for key, value in theirs.items()}
    for key in ours:  # bfloat16 rounds products, so sums of another order are further apart
        assert float((ours[key] - theirs[key]).abs().max()) < 5e-3, key


@pytest.mark.parametrize("job", ["nan", "fsdp2,nan"])
def test_a_nan_of_one_process_stops_both(two: Path, job: str) -> None:
    for rank in range(2):
        text = (two / job / f"error{rank}.txt").read_text(encoding="utf-8")
        assert "became nan at step 6 of dit" in text
        assert str(two / job / "dit.log.jsonl") in text
    assert all(bool(value.isfinite().all()) for value in state(two / job).values())
    assert not (two / job / "dit.safetensors").exists()


@pytest.mark.parametrize("job", ["stopped", "fsdp2,stopped"])
def test_one_process_goes_on_where_two_stopped(two: Path, alone: Path, tmp_path: Path, job: str) -> None:
    assert not (two / job / "dit.safetensors").exists()
    shutil.copytree(two / job, tmp_path / "rest")
    done: list[int] = []
    train(tmp_path / "rest", progress=lambda number, total, **fields: done.append(number))
    assert done == list(range(5, 11))  # the checkpoint of step 4 was used
    assert_close(state(tmp_path / "rest"), state(alone / "float32"))


def test_several_processes_start_without_warnings(two: Path) -> None:
    lines = [line for line in (two / "output.txt").read_text().splitlines() if "Warning" in line]
    assert not lines


def test_sigkill_and_the_same_call_again_give_the_same_bits(tmp_path: Path, alone: Path) -> None:
    kill_after(start(tmp_path, ("slow",)), tmp_path / "slow", 6)
    assert not (tmp_path / "slow" / "dit.safetensors").exists()
    path = train(tmp_path / "slow")
    assert path.read_bytes() == (alone / "float32" / "dit.safetensors").read_bytes()
    assert_same_bits(state(tmp_path / "slow"), state(alone / "float32"))


def test_two_processes_killed_and_continued_by_one_stay_near(tmp_path: Path, alone: Path) -> None:
    kill_after(start(tmp_path, ("slow",), *TWO), tmp_path / "slow", 6)
    train(tmp_path / "slow")
    assert_close(state(tmp_path / "slow"), state(alone / "float32"))
    assert [row["step"] for row in rows(tmp_path / "slow")] == list(range(1, 11))


def test_each_process_holds_a_part_alone(tmp_path: Path) -> None:
    program = tmp_path / "parts.py"
    program.write_text(
        "import json, sys\n"
        "from ovbench.harness.generation.network_weights import build_network\n"
        "from ovbench.harness.parallel import open_processes\n"
        "from ovbench.harness.sharding import own_part\n"
        "from tests.harness.generation.dit_training import NETWORK\n"
        "processes = open_processes('cpu')\n"
        "network = build_network(NETWORK, seed=0)\n"
        "processes.shard(network, network.blocks)\n"
        "own = sum(own_part(parameter).numel() for parameter in network.parameters())\n"
        "open(sys.argv[1] + f'/{processes.rank}', 'w').write(str(own))\n",
        encoding="utf-8",
    )
    subprocess.run(
        [sys.executable, *TWO, str(program), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        timeout=120,
    )
    from ovbench.harness.generation.network_weights import build_network

    total = sum(parameter.numel() for parameter in build_network(NETWORK, seed=0).parameters())
    parts = [int((tmp_path / str(rank)).read_text()) for rank in range(2)]
    assert sum(parts) == total
    assert max(parts) < 0.55 * total
