"""`ovbench gen-fid` gives the same samples and records for one process and two, killed or not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from ovbench.harness.generation.draws import class_labels
from tests.end_to_end.conftest import environment

pytestmark = pytest.mark.slow
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
WORDS = ("-m", "ovbench", "gen-fid", "-e", "clip", "-p", "mini-smoke", "--num-samples", "200")
MADE_OF_WEIGHTS = ("samples", "scores", "features")
TIMINGS = ("run_id", "started_utc", "finished_utc", "measurements", "steps")


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[str]) -> None:
    """Kills a command with all that it started; children of torchrun are sessions of their own."""
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True, check=False
    ).stdout.split()
    for pid in (process.pid, *map(int, children)):
        try:
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.communicate()


def run(folder: Path, *words: str) -> Path:
    process = start(folder, *words)
    try:
        out, _ = process.communicate(timeout=240)
    finally:
        if process.poll() is None:
            stop(process)
    assert process.returncode == 0, out
    return folder


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished command of one process; tests only read it or copy it."""
    return run(tmp_path_factory.mktemp("one"), *WORDS, "--jobs", "1")


@pytest.fixture(scope="module")
def two(one: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples and scores of two processes from the weights that one has trained."""
    return run(trained(one, tmp_path_factory.mktemp("two")), *TWO, *WORDS)


def trained(source: Path, folder: Path) -> Path:
    """Copies weights and statistics of a command, but nothing that was made with them."""
    shutil.copytree(source / "cache", folder / "cache", ignore=shutil.ignore_patterns(*MADE_OF_WEIGHTS))
    return folder


def made(folder: Path, *kinds: str) -> dict[str, bytes]:
    """Returns the files of steps by kind, key and name; manifests hold times."""
    cache = folder / "cache"
    return {
        str(path.relative_to(cache)): path.read_bytes()
        for kind in kinds
        for path in (cache / kind).rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }


def records(folder: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(path.read_text()) for path in (folder / "runs").glob("*/record.json")]
    return {record["suite"]: record for record in found}


def num_moments(folder: Path) -> int:
    """Returns at how many moments of training samples are made: before it, at its probes, at its end."""
    return 2 + len(records(folder)["generation"]["protocol"]["content"]["generation"]["dit"]["probes"])


def timeless(record: dict[str, Any]) -> dict[str, Any]:
    """Returns a record without what says when and how fast it was made."""
    kept = {key: value for key, value in record.items() if key not in TIMINGS}
    kept["steps"] = [(step["name"], step["key"]) for step in record["steps"]]
    kept["environment"] = {key: value for key, value in record["environment"].items() if not key.startswith("git")}
    return kept


def test_two_processes_make_the_samples_of_one(one: Path, two: Path) -> None:
    theirs = made(one, *MADE_OF_WEIGHTS)
    expected = 7 * num_moments(one) + 2 + 4  # samples, test pictures, reconstructions
    assert len([name for name in theirs if name.endswith(".npz")]) == expected
    assert made(two, *MADE_OF_WEIGHTS) == theirs


def test_the_records_of_two_processes_are_those_of_one_but_for_the_time(one: Path, two: Path) -> None:
    ours, theirs = records(two), records(one)
    assert set(ours) == {"generation", "reconstruction"}
    for suite in ours:
        assert timeless(ours[suite]) == timeless(theirs[suite])
    for name in ("samples.png", "reconstructions.png"):
        (mine,), (other,) = ((folder / "runs").glob(f"*/{name}") for folder in (two, one))
        assert mine.read_bytes() == other.read_bytes()


def test_every_class_has_as_many_samples(one: Path) -> None:
    labels: dict[str, list[int]] = {}
    for path in sorted((one / "cache" / "samples").glob("*/passes-*/*.npz")):
        with np.load(path) as archive:
            if "values/labels" in archive.files:
                labels.setdefault(path.parent.parent.name, []).extend(archive["values/labels"].tolist())
    assert len(labels) == num_moments(one)
    assert all(Counter(found) == dict.fromkeys(range(8), 25) for found in labels.values())


@pytest.mark.parametrize(("count", "each"), [(2000, 250), (64, 8)])
def test_protocols_of_the_world_have_whole_classes(count: int, each: int) -> None:
    assert Counter(class_labels(0, range(count), 8).tolist()) == dict.fromkeys(range(8), each)


def kill_while_sampling(folder: Path, passes: int, *words: str) -> None:
    """Kills a command when so many passes of a set of samples are there."""
    process = start(folder, *words)
    deadline = time.monotonic() + 120
    try:
        while not any(
            len(list(work.glob("pass-*"))) >= passes for work in (folder / "cache" / "work").glob("samples-*/passes-*")
        ):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "no sampling began"
            time.sleep(0.005)
    finally:
        stop(process)


@pytest.mark.parametrize("launcher", [(), TWO], ids=["one", "two"])
def test_killed_while_sampling_and_started_again_the_samples_are_the_same(
    one: Path, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    trained(one, tmp_path)
    moments = random.Random(len(launcher))
    kill_while_sampling(tmp_path, moments.randint(1, 5), *launcher, *WORDS)
    assert not records(tmp_path).get("generation")
    left = list((tmp_path / "cache" / "work").glob("samples-*/passes-*/pass-*.npz"))
    assert left, "the kill fell between two steps"
    run(tmp_path, *WORDS, "--jobs", "1")
    assert made(tmp_path, "samples", "scores") == made(one, "samples", "scores")
    assert timeless(records(tmp_path)["generation"]) == timeless(records(one)["generation"])


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_saved_samples_of_two_processes_are_the_files_of_one(one: Path, tmp_path: Path, kind: str) -> None:
    found: list[dict[str, bytes]] = []
    for name, launcher in (("one", ()), ("two", TWO)):
        folder = trained(one, tmp_path / name)
        words = ("--num-samples", "40", "--save-samples", str(folder / "saved"), "--save-format", kind)
        run(folder, *launcher, *WORDS, *words)
        saved = [path for path in (folder / "saved").rglob("*") if path.is_file()]
        found.append({str(path.relative_to(folder)): path.read_bytes() for path in saved})
    assert found[0] == found[1]
    assert len([name for name in found[0] if name.endswith(kind)]) == (40 if kind == "png" else 1)


def test_two_processes_that_share_the_weights_train_what_one_trains(one: Path, tmp_path: Path) -> None:
    run(tmp_path, *TWO, *WORDS, "--sharding", "fsdp2")
    assert made(tmp_path, "latents", "features") == made(one, "latents", "features")
    ours, theirs = (records(folder)["generation"] for folder in (tmp_path, one))
    assert timeless(ours)["steps"] == timeless(theirs)["steps"]  # no key holds how many there were
    for kind, name in (("latent_stats", "stats"), ("decoder", "decoder"), ("dit", "dit")):
        (mine,), (other,) = (
            list((folder / "cache" / kind).glob(f"*/{name}.safetensors")) for folder in (tmp_path, one)
        )
        weights, expected = load_file(mine), load_file(other)
        assert weights.keys() == expected.keys()
        for key, value in expected.items():  # AdamW turns rounding of gradients near 0 into whole steps of 1e-3
            assert float(np.abs(weights[key].astype(np.float64) - value).mean()) < 1e-3, key
    assert len(ours["metrics"]) == len(theirs["metrics"])
    for metric, other in zip(ours["metrics"], theirs["metrics"], strict=True):
        assert all(metric[key] == other[key] for key in ("task", "name", "group", "n"))
        if metric["name"].startswith("FD"):
            assert metric["value"] == pytest.approx(other["value"], rel=0.02)
