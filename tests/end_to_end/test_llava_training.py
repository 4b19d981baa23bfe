"""Both stages, the gate and the answers under a protocol of one's own: once, again from the cache, in two processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ovbench.harness.events import Event
from ovbench.results.record import RunRecord
from ovbench.results.store import read_record
from tests.end_to_end.llava_parts import LLM, NUM_SCENES, environment, run_here, scores, write_data, write_protocol

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
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    folder = tmp_path_factory.mktemp("trained")
    data = write_data(folder / "data", tasks=("pope", "mme"))
    protocol = write_protocol(folder / "own.yaml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVBENCH_CACHE", str(folder / "cache"))
        torch.set_num_threads(1)
        record = run_here(protocol, folder / "runs", data=data, language_model=LLM)
    (report,) = (folder / "cache" / "preflight").glob("gate-*.json")
    yield Trained(folder=folder, data=data, protocol=protocol, record=record, log=report.read_text())


def test_both_stages_are_trained_and_every_task_of_the_file_is_scored(trained: Trained) -> None:
    steps = [step.name for step in trained.record.steps]
    assert steps.count("llava_stage1") == steps.count("llava_stage2") == 1
    assert steps.count("answers") == 6
    assert [task.name for task in trained.record.tasks] == ["pope", "mme"]
    for task in trained.record.tasks:
        values = [value for key, value in scores(trained.record).items() if key.split()[2] == task.headline]
        assert len(values) >= 3
        assert None not in values


def test_captions_of_the_gate_are_held_out_and_its_report_is_kept(trained: Trained) -> None:
    # 40 captions less 16 are 3 batches of 8, and 44 conversations, 4 of them text alone, are 6.
    (one,) = trained.folder.glob("cache/llava_stage1/*/stage1.log.jsonl")
    (two,) = trained.folder.glob("cache/llava_stage2/*/stage2.log.jsonl")
    assert json.loads(one.read_text().splitlines()[-1])["step"] == (NUM_SCENES - 16) // 8
    assert json.loads(two.read_text().splitlines()[-1])["step"] == 6
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
        listener=events.append,
    )
    assert events
    assert {event.state for event in events} == {"cached"}
    assert not any(event.step.startswith("stage") for event in events)  # where answers are there, nothing before is read
    assert scores(again) == scores(trained.record)
    assert [step.key for step in again.steps] == [step.key for step in trained.record.steps]


def command(trained: Trained, folder: Path, *words: str, launcher: tuple[str, ...] = ()) -> RunRecord:
    """Runs the command in processes of its own with an empty cache, and returns the record."""
    own = ("run", "-e", "clip", "-p", str(trained.protocol), "--data", str(trained.data), "--llm", LLM)
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


def test_two_processes_give_the_scores_of_one(trained: Trained, tmp_path: Path) -> None:
    record = command(trained, tmp_path, launcher=TWO)
    assert scores(record) == scores(trained.record)
    assert [step.key for step in record.steps] == [step.key for step in trained.record.steps]


@pytest.mark.slow
def test_two_processes_with_sharded_weights_give_the_scores_of_one(trained: Trained, tmp_path: Path) -> None:
    record = command(trained, tmp_path, "--sharding", "fsdp2", launcher=TWO)
    assert scores(record) == scores(trained.record)


@pytest.mark.slow
def test_the_command_line_gives_the_record_of_the_python_interface(trained: Trained, tmp_path: Path) -> None:
    record = command(trained, tmp_path)
    assert scores(record) == scores(trained.record)
    assert record.protocol == trained.record.protocol


@pytest.mark.slow
def test_a_batch_that_two_processes_cannot_share_is_refused_before_anything_is_encoded(
    trained: Trained, tmp_path: Path
) -> None:
    launcher = (*TWO[:-1], "3")
    own = ("run", "-e", "clip", "-p", str(trained.protocol), "--data", str(trained.data), "--llm", LLM)
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
