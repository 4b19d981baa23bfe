"""Both stages, the gate and the answers under a protocol of one's own: once, again from the cache, in two processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench.harness.events import Event
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore, read_record
from tests.end_to_end.llava_parts import LLM, NUM_SCENES, environment, run_here, scores, write_data, write_protocol

LIMIT = 36  # of each task: all of pope, and as many of the miniature questions
TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """A finished run; tests only read it."""

    folder: Path
    data: Path
    protocol: Path
    record: RunRecord
    log: str


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "data", tasks=("pope", "mme"))
    protocol = write_protocol(folder / "own.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVBENCH_CACHE", str(folder / "cache"))
        torch.set_num_threads(1)
        record = run_here(protocol, folder / "runs", data=data, language_model=LLM, limit=LIMIT)
    (report,) = (folder / "cache" / "preflight").glob("gate-*.json")
    return Trained(folder=folder, data=data, protocol=protocol, record=record, log=report.read_text())


def test_both_stages_are_trained_and_every_task_of_the_file_is_scored(trained: Trained) -> None:
    steps = [step.name for step in trained.record.steps]
    assert steps.count("llava_stage1") == steps.count("llava_stage2") == 1
    assert steps.count("answers") == 9
    assert [task.name for task in trained.record.tasks] == ["pope", "mme", "mini-seed"]
    for task in trained.record.tasks:
        values = [value for key, value in scores(trained.record).items() if key.split()[2] == task.headline]
        assert len(values) >= 3
        assert None not in values


def test_captions_of_the_gate_are_held_out_and_its_report_is_kept(trained: Trained) -> None:
    # 40 captions less 16 are 3 batches of 8, and 44 conversations, 4 of them text alone, twice are 11.
    (one,) = trained.folder.glob("cache/llava_stage1/*/stage1.log.jsonl")
    (two,) = trained.folder.glob("cache/llava_stage2/*/stage2.log.jsonl")
    assert json.loads(one.read_text().splitlines()[-1])["step"] == (NUM_SCENES - 16) // 8
    assert json.loads(two.read_text().splitlines()[-1])["step"] == 11
    report = json.loads(trained.log)
    assert report["num_images"] == 16
    assert not report["passed"]  # three updates teach nothing, and the mode is `warn`


def test_record_names_conversations_language_model_and_tables(trained: Trained) -> None:
    found = {source.role: source for source in trained.record.sources}
    assert (found["conversations of stage 1"].count, found["conversations of stage 2"].count) == (40, 44)
    assert found["conversations of stage 1"].name == "blip_laion_cc_sbu_558k.json"
    assert found["language model"].name == LLM
    assert {"questions of pope", "questions of mme"} < set(found)


def test_same_command_again_finds_everything_in_the_cache(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(trained.folder / "cache"))
    events: list[Event] = []
    again = run_here(
        trained.protocol,
        trained.folder / "again",
        data=trained.data,
        language_model=LLM,
        limit=LIMIT,
        listener=events.append,
    )
    assert events
    assert {event.state for event in events} == {"cached"}
    assert not any(
        event.step.startswith("stage") for event in events
    )  # where answers are there, nothing before is read
    assert scores(again) == scores(trained.record)
    assert [step.key for step in again.steps] == [step.key for step in trained.record.steps]


def assert_same_answers(folder: Path, record: RunRecord, trained: Trained) -> None:
    """Every answer is equal, and every likelihood of an option within what rounding makes of the weights."""
    ours = RunStore(folder / "runs").samples(record.run_id)
    theirs = RunStore(trained.folder / "runs").samples(trained.record.run_id)
    for name in ("task", "control", "item_id", "raw", "correct"):
        assert ours[name].tolist() == theirs[name].tolist(), name
    assert len(set(theirs["raw"].tolist())) > 5  # otherwise nothing is shown
    pairs: list[tuple[Any, Any]] = list(zip(ours["option_scores"], theirs["option_scores"], strict=True))
    for one, other in pairs:
        assert (one is None) == (other is None)
        if one is not None:
            assert list(one) == pytest.approx(list(other), abs=2e-3)
    assert scores(record) == scores(trained.record)
    assert [step.key for step in record.steps] == [step.key for step in trained.record.steps]


def words_of(trained: Trained) -> tuple[str, ...]:
    """Returns the command that trains what `trained` has."""
    places = ("-p", str(trained.protocol), "--data", str(trained.data))
    return ("run", "-e", "clip", *places, "--llm", LLM, "--limit", str(LIMIT))


def command(trained: Trained, folder: Path, *words: str, launcher: tuple[str, ...] = ()) -> RunRecord:
    """Runs the command in processes of its own with an empty cache, and returns the record."""
    own = words_of(trained)
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "ovbench", *own, *words],
        # The two processes meet over a socket of this machine.
        env={**environment(folder), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (folder / "runs").glob("*/record.json")
    assert done.stdout.count("protocol tiny-llava") == 1  # one process prints
    return read_record(path)


@pytest.mark.slow  # the default run compares the weights of two processes: test_train_processes.py
def test_two_processes_give_the_scores_of_one(trained: Trained, tmp_path: Path) -> None:
    record = command(trained, tmp_path, launcher=TWO)
    assert_same_answers(tmp_path, record, trained)


@pytest.mark.slow
def test_two_processes_with_sharded_weights_give_the_scores_of_one(trained: Trained, tmp_path: Path) -> None:
    record = command(trained, tmp_path, "--sharding", "fsdp2", launcher=TWO)
    assert_same_answers(tmp_path, record, trained)


@pytest.mark.slow
def test_the_command_line_gives_the_record_of_the_python_interface(trained: Trained, tmp_path: Path) -> None:
    record = command(trained, tmp_path)
    assert_same_answers(tmp_path, record, trained)
    assert record.protocol == trained.record.protocol


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_before_anything_is_encoded(
    trained: Trained, tmp_path: Path
) -> None:
    launcher = (*TWO[:-1], "3")
    own = words_of(trained)
    done = subprocess.run(
        [sys.executable, *launcher, "-m", "ovbench", *own],
        env={**environment(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode != 0
    assert "a batch of 8 cannot be split over 3 processes" in done.stderr
    assert not list((tmp_path / "cache").glob("features/*/images.json"))


def killed(trained: Trained, folder: Path, step: str, done: int) -> None:
    """Runs with a copy of nothing but the cache in `folder`, until SIGKILL at a moment of a step."""
    program = str(Path(__file__).with_name("llava_killed.py"))
    words = [str(trained.protocol), str(trained.data), str(folder / "runs"), str(LIMIT), step, str(done)]
    process = subprocess.run(
        [sys.executable, program, *words], env=environment(folder), capture_output=True, text=True, check=False
    )
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert not list((folder / "runs").glob("*/record.json"))


def without_answers(trained: Trained, folder: Path) -> None:
    """Copies the cache of the finished run without what stage 2 and the questions left."""
    shutil.copytree(
        trained.folder / "cache", folder / "cache", ignore=shutil.ignore_patterns("answers", "llava_stage2")
    )


def test_killed_in_stage_2_and_started_again_the_answers_are_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_answers(trained, tmp_path)
    killed(trained, tmp_path, "stage 2", 3)
    assert not list(tmp_path.glob("cache/llava_stage2/*/llava.safetensors"))
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    events: list[Event] = []
    record = run_here(
        trained.protocol, tmp_path / "runs", data=trained.data, language_model=LLM, limit=LIMIT, listener=events.append
    )
    updates = [event.done for event in events if event.step == "stage 2" and event.state == "progress"]
    assert min(updates) > 1  # it went on from a checkpoint
    assert_same_answers(tmp_path, record, trained)


@pytest.mark.slow
def test_killed_while_answering_and_started_again_the_answers_are_the_same(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.folder / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("answers"))
    killed(trained, tmp_path, "answers (mini-seed)", 5)
    (kept,) = (path for path in tmp_path.glob("cache/work/*/answers.jsonl"))
    before = kept.read_text().splitlines()
    assert 0 < len(before) < LIMIT
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    record = run_here(trained.protocol, tmp_path / "runs", data=trained.data, language_model=LLM, limit=LIMIT)
    assert_same_answers(tmp_path, record, trained)
    # What had been answered was not asked again: other answers than these came now.
    made = next(item for item in record.measurements if item.name == "answer")
    assert made.value is not None


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0.4, 2.0, 4.0])
def test_the_command_killed_from_outside_and_started_again_prints_the_same_table(
    trained: Trained, tmp_path: Path, moment: float
) -> None:
    own = ("run", "-e", "clip", "-p", str(trained.protocol), "--data", str(trained.data), "--llm", LLM)
    process = subprocess.Popen(
        [sys.executable, "-m", "ovbench", *own, "--limit", str(LIMIT)],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("cache/work/*/stage2*")):  # stage 2 has begun
            assert process.poll() is None
            assert time.monotonic() < deadline, "stage 2 did not begin"
            time.sleep(0.05)
        time.sleep(moment)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    record = command(trained, tmp_path)
    assert_same_answers(tmp_path, record, trained)


@pytest.mark.slow
def test_two_processes_killed_in_stage_2_go_on_as_one(trained: Trained, tmp_path: Path) -> None:
    own = ("run", "-e", "clip", "-p", str(trained.protocol), "--data", str(trained.data), "--llm", LLM)
    process = subprocess.Popen(
        [sys.executable, *TWO, "-m", "ovbench", *own, "--limit", str(LIMIT)],
        env={**environment(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(tmp_path.glob("cache/work/*/stage2*")):
            assert process.poll() is None
            assert time.monotonic() < deadline, "stage 2 did not begin"
            time.sleep(0.05)
    finally:
        listing = subprocess.run(["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True)
        for child in listing.stdout.split():  # torchrun's children are sessions of their own
            os.kill(int(child), signal.SIGKILL)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert_same_answers(tmp_path, command(trained, tmp_path), trained)
