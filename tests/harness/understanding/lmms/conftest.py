"""A run of a few steps, made-up benchmarks, and no network: what the tests of the bridge to lmms-eval stand on."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ImageFile

from ovbench.harness.run import plan_runs, run_job
from ovbench.harness.understanding.lmms.answering import Question
from ovbench.results.store import RunStore
from ovbench.tasks.base import Sample, TaskData, TaskSpec


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets every attempt to reach another machine fail."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise OSError(f"the network was asked for: {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True)
def pillow_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Undoes what importing lmms-eval sets for the whole process, so that no later test reads broken pictures."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", ImageFile.LOAD_TRUNCATED_IMAGES)


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniRun:
    """A finished run and the cache that holds its weights."""

    folder: Path
    cache: Path


@pytest.fixture(scope="session")
def mini_run(tmp_path_factory: pytest.TempPathFactory) -> MiniRun:
    """A run of the miniature protocol whose two stages take three steps each."""
    root = tmp_path_factory.mktemp("lmms")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVBENCH_CACHE", str(root / "cache"))
        plan = plan_runs(
            encoders=["clip"], suite="understanding", protocol="mini-smoke", tasks=["mini-pope", "mini-seed"], limit=14,
            seeds=[0], device="cpu", dtype="float32", batch_size=64, out=None,
        )  # fmt: skip
        (job,) = plan.jobs
        content = dict(job.protocol.content)
        section = dict(content["understanding"])
        for stage in ("stage1", "stage2"):
            section[stage] = {**section[stage], "steps": 3, "batch_size": 8}
        content["understanding"] = {**section, "num_train_scenes": 32, "controls": []}
        done = run_job(replace(job, protocol=replace(job.protocol, content=content)))
        record = RunStore(root / "runs").keep(done.record, done.rows)
    return MiniRun(folder=root / "runs" / record.run_id, cache=root / "cache")


@pytest.fixture
def trained(mini_run: MiniRun, monkeypatch: pytest.MonkeyPatch) -> MiniRun:
    """The run, with the cache where it is looked for."""
    monkeypatch.setenv("OVBENCH_CACHE", str(mini_run.cache))
    return mini_run


@dataclass(kw_only=True, slots=True)
class Scripted:
    """Answers from a table: part of a question → answer; notes what it was asked."""

    answers: Mapping[str, str]
    asked: list[Question] = field(default_factory=list)

    def __call__(self, questions: Sequence[Question]) -> list[str]:
        self.asked += questions
        return [next(answer for part, answer in self.answers.items() if part in item.text) for item in questions]


Row = tuple[str, Sequence[str], str, str, Mapping[str, str]]  # question, options, answer, group, further columns


def benchmark(name: str, kind: Any, parser: str, rows: Sequence[Row], *, per_image: int = 1) -> TaskData:
    """Returns a benchmark of a few made-up rows, whose pictures are of one colour each."""
    spec = TaskSpec(
        name=name, version=1, title=name, kind=kind, source={}, prompt="{question}", scoring="greedy", parser=parser,
        metrics=("accuracy",), headline="accuracy", chance=0.0,
    )  # fmt: skip
    samples = tuple(
        Sample(
            item_id=str(number),
            image_id=f"picture-{number // per_image}",
            prompt=question,
            question=question,
            options=tuple(options),
            answer=answer,
            group=group,
            extra={key: value for key, value in extra.items() if key != "answers"},
            answers=tuple(extra["answers"].split("|")) if "answers" in extra else (),
        )
        for number, (question, options, answer, group, extra) in enumerate(rows)
    )
    return TaskData(
        spec=spec,
        samples=samples,
        digest="d",
        images_digest="i",
        image=lambda name: np.full((24, 32, 3), 3 * int(name.split("-")[1]), np.uint8),
        num_total=len(samples),
    )


@pytest.fixture(scope="session")
def make_benchmark() -> Callable[..., TaskData]:
    return benchmark


@pytest.fixture(scope="session")
def scripted() -> Callable[[Mapping[str, str]], Scripted]:
    return lambda answers: Scripted(answers=answers)
