"""The pipeline of an understanding run: steps in order, names of answers, and what is said of words nobody knows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench.harness.events import Reporter, ignore
from ovbench.harness.steps import StepCache
from ovbench.harness.understanding.pipeline import UnderstandingRun
from tests.end_to_end.llava_parts import plan, write_given, write_protocol
from tests.tasks.benchmark_files import write_benchmark

Make = Callable[..., UnderstandingRun]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Returns a run of a given LLaVA over pope and gqa, which computes nothing yet."""
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    torch.set_num_threads(1)
    for task in ("pope", "gqa"):
        write_benchmark(task, tmp_path / "data", 2)
    given = write_given(tmp_path / "given")

    def made(changes: dict[str, Any] | None = None, **words: Any) -> UnderstandingRun:
        protocol = write_protocol(tmp_path / "own.yaml", changes=changes)
        words = {"tasks": ["pope", "gqa"], "data": tmp_path / "data", "llava": given, **words}
        (job,) = plan(protocol, tmp_path / "runs", **words).jobs
        return UnderstandingRun(job, StepCache(tmp_path / "cache"), Reporter(job.name, ignore))

    return made


def answers(run: UnderstandingRun) -> list[str]:
    return [step.key for step in run.steps() if step.name == "answers"]


def test_a_given_model_has_features_and_answers_of_each_task_under_each_control(make: Make, tmp_path: Path) -> None:
    run = make()
    # Both tables show the same two pictures, which are encoded once.
    assert [step.name for step in run.steps()] == ["features", *["answers"] * 6]
    assert not list((tmp_path / "cache").glob("answers/*"))
    assert len(answers(make({"controls": ["blind"]}))) == 4


def test_names_of_answers_follow_the_model_its_precision_and_the_way_of_scoring(make: Make, tmp_path: Path) -> None:
    usual = answers(make())
    assert len(set(usual)) == 6
    other = write_given(tmp_path / "other", seed=1)
    assert not set(usual) & set(answers(make(llava=other)))
    assert not set(usual) & set(answers(make({"answer_precision": "bfloat16"})))
    assert not set(usual) & set(answers(make(trust_first_token=True)))
    assert len(set(usual) & set(answers(make(scoring="ppl")))) == 3  # open questions have no options
    assert answers(make(packing="padded", reference=False, batch_size=1)) == usual
    assert answers(make(reference=True)) == usual


def test_a_given_model_under_another_name_is_found_again(make: Make, tmp_path: Path) -> None:
    usual = answers(make())
    (tmp_path / "given").rename(tmp_path / "moved")
    assert answers(make(llava=tmp_path / "moved")) == usual


def test_words_that_the_language_model_does_not_know_are_said_once_for_a_task(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    outcome = make().run()
    said = [record.getMessage() for record in caplog.records if "does not know" in record.getMessage()]
    assert [text.split(":")[0] for text in said] == ["pope", "gqa"]
    assert set(outcome.answers) == {"pope", "gqa"}
    assert outcome.throughput["answer"]


def test_a_finished_run_asks_and_encodes_nothing_again(make: Make) -> None:
    first = make().run()
    again = make().run()
    assert {step.cached for step in again.steps} == {True}
    assert again.throughput == {"encode": None, "answer": None}
    for name, found in first.answers.items():
        assert again.answers[name].by_control == found.by_control
