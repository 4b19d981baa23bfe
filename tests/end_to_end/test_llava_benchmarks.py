"""All published benchmarks in one run of a given LLaVA, from local tables and without a network; then by lmms-eval."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore, read_record
from ovbench.tasks.load import load_task
from tests.end_to_end.llava_parts import TASKS, environment, run_here, scores, write_data, write_given, write_protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """What the tests share; they only read it."""

    folder: Path
    data: Path
    given: Path
    protocol: Path
    record: RunRecord


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """One run of all benchmarks with a given LLaVA; in it no socket can be made and no name be looked up."""
    folder = tmp_path_factory.mktemp("benchmarks")
    data = write_data(folder / "data")
    given = write_given(folder / "given")
    protocol = write_protocol(folder / "own.yaml")

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError(f"the network was asked for: {args[1:]}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVBENCH_CACHE", str(folder / "cache"))
        patch.setattr(socket.socket, "__init__", refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        torch.set_num_threads(1)
        record = run_here(protocol, folder / "runs", tasks=TASKS, data=data, llava=given)
    return World(folder=folder, data=data, given=given, protocol=protocol, record=record)


def test_every_benchmark_has_its_headline_under_every_control(world: World) -> None:
    assert tuple(task.name for task in world.record.tasks) == TASKS
    assert len(TASKS) == 11
    for name in TASKS:
        found = {
            metric.control: metric
            for metric in world.record.metrics
            if (metric.task, metric.name, metric.group) == (name, load_task(name).headline, None)
        }
        assert set(found) == {"none", "shuffled", "blind"}, name
        assert all(metric.value is not None and metric.n > 0 for metric in found.values()), name
    assert world.record.complete


def test_every_question_is_stored_with_its_answer_under_every_control(world: World) -> None:
    rows = RunStore(world.folder / "runs").samples(world.record.run_id)
    for task in world.record.tasks:
        own = rows[rows["task"] == task.name]
        assert len(own) == 3 * task.n == 3 * task.num_total, task.name
        assert set(own["control"]) == {"none", "shuffled", "blind"}
    asked = rows[(rows["task"] == "seedbench") & (rows["control"] == "none")]["item_id"]
    assert len(set(asked)) == len(asked) == 18  # the id 49914 stands twice in the table, and is two questions


def test_record_says_which_model_and_which_tables_answered(world: World) -> None:
    roles = {source.role: source for source in world.record.sources}
    assert set(roles) == {"trained LLaVA", *(f"questions of {name}" for name in TASKS)}
    assert roles["trained LLaVA"].name == "given"
    for task in world.record.tasks:
        source = roles[f"questions of {task.name}"]
        assert (source.digest, source.count) == (task.data_digest, task.num_total)
        assert str(world.data) in source.name
    assert not any(source.role.startswith("conversations") for source in world.record.sources)


def test_tables_that_are_not_complete_are_warned_of_one_by_one(world: World) -> None:
    for task in world.record.tasks:
        (warning,) = (text for text in world.record.warnings if text.startswith(f"{task.name}: "))
        assert f"{task.num_total} rows, published with " in warning
        assert "not the benchmark's scores" in warning


def test_steps_are_features_and_answers_and_nothing_is_trained(world: World) -> None:
    assert {step.name for step in world.record.steps} == {"features", "answers"}
    assert sum(step.name == "answers" for step in world.record.steps) == 3 * 11


def test_lmms_eval_scores_the_same_answers_from_the_same_tables_without_a_network(
    world: World, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("run", "-e", "clip", "-p", str(world.protocol), "--data", str(world.data), "--llava", str(world.given))
    command = [*words, "--tasks", ",".join(TASKS), "--engine", "lmms-eval", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "ovbench", *command],
        env=environment(tmp_path, OVBENCH_CACHE=str(world.folder / "cache")),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "network.log.on").read_text().split()) >= 2  # this process and its worker were cut off
    assert not (tmp_path / "network.log").exists()
    (printed,) = json.loads(done.stdout)  # what lmms-eval said is elsewhere
    record = read_record(tmp_path / "runs" / printed["run_id"] / "record.json")
    assert scores(record) == scores(world.record)
    assert "lmms-eval and ovbench on the same answers" in done.stderr
    rows = json.loads((tmp_path / "runs" / ".lmms-eval" / record.run_id / "cross-check.json").read_text())
    assert {row["task"] for row in rows} == set(TASKS)
    for row in rows:
        assert row["theirs"] is not None, row
        assert row["ours"] is not None, row
    assert [item.run_id for item in RunStore(tmp_path / "runs").records()] == [record.run_id]
    assert "skipped" not in caplog.text  # the folder of lmms-eval's output is no run that did not end
