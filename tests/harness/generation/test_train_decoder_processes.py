"""The decoder's training as real programs: two processes give what one gives, and SIGKILL changes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.harness.generation.decoder_training import (
    GAN,
    SMOOTH,
    assert_close,
    assert_same_bits,
    recipe,
    rows,
    smoothly,
    state,
    train,
)

PROGRAM = Path(__file__).with_name("decoder_program.py")
ROOT = Path(__file__).parents[3]
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def start(folder: Path, word: str, *launcher: str) -> subprocess.Popen[str]:
    folder.mkdir()
    return subprocess.Popen(
        [sys.executable, *launcher, str(PROGRAM), str(folder), word],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    try:
        out, _ = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    assert process.returncode == 0, out


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One process and one pass."""
    folder = tmp_path_factory.mktemp("alone")
    with smoothly() as arguments:
        train(folder, recipe(SMOOTH), **arguments)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("word", ["plain", "passes"])
def test_two_processes_give_what_one_gives(tmp_path: Path, alone: Path, word: str) -> None:
    folder = tmp_path / "two"
    finish(start(folder, word, *TWO))
    assert_close(state(folder), state(alone))
    heads = [load_file(folder / f"heads{rank}.safetensors") for rank in range(2)]
    assert_same_bits(heads[0], heads[1])  # the gradients of the discriminator are averaged
    for two, one in zip(rows(folder), rows(alone), strict=True):
        assert two.keys() == one.keys()
        for key in one.keys() - {"elapsed_s"}:
            assert two[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), key


@pytest.mark.slow
def test_a_nan_of_one_process_stops_both(tmp_path: Path) -> None:
    folder = tmp_path / "nan"
    finish(start(folder, "nan", *TWO))
    for rank in range(2):
        text = (folder / f"error{rank}.txt").read_text(encoding="utf-8")
        assert "became nan at step 5 of decoder" in text
        assert str(folder / "decoder.log.jsonl") in text
    assert all(bool(value.isfinite().all()) for value in state(folder).values())
    assert not (folder / "decoder.safetensors").exists()


@pytest.mark.slow
def test_sigkill_and_the_same_call_again_give_the_same_bits(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    train(whole, recipe(GAN))
    process = start(parts, "slow")
    try:
        deadline = time.monotonic() + 60
        while not (parts / "decoder.log.jsonl").exists() or len(rows(parts)) < 6:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no step began"
            time.sleep(0.05)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert not (parts / "decoder.safetensors").exists()
    assert (parts / "decoder.state.safetensors").exists()
    path = train(parts, recipe(GAN))
    assert path.read_bytes() == (whole / "decoder.safetensors").read_bytes()
    assert_same_bits(state(parts), state(whole))
