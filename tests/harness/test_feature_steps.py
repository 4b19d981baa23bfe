"""The features steps of a run: their keys stand for the whole set, their tokens are shared by picture."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench._base.files import write_json
from ovbench.harness.events import Event, Reporter
from ovbench.harness.parallel import Processes
from ovbench.harness.plan import plan_runs
from ovbench.harness.steps import StepCache, StepResult
from ovbench.harness.understanding import feature_steps
from ovbench.harness.understanding.feature_steps import IMAGES
from ovbench.harness.understanding.pipeline import UnderstandingRun
from ovbench.harness.understanding.training_steps import TrainingSteps


class SmokeRun(UnderstandingRun):
    """A smoke run whose features alone are asked for, with what it tells."""

    def __init__(self, folder: Path) -> None:
        words: dict[str, Any] = {"suite": "understanding", "protocol": "mini-smoke", "tasks": None, "limit": None}
        words |= {"seeds": (0,), "device": "cpu", "dtype": "float32", "batch_size": 64, "out": None}
        (job,) = plan_runs(encoders=["random"], **words).jobs
        self.events: list[Event] = []
        super().__init__(job, StepCache(folder), Reporter("job", self.events.append))

    def train_features(self) -> torch.Tensor:
        """Returns some tokens of the training set."""
        return self.trained.train_features(1)(self.image_ids[:40])

    @property
    def trained(self) -> TrainingSteps:
        assert self.training is not None
        return self.training

    @property
    def image_ids(self) -> tuple[str, ...]:
        assert self.setting.training is not None
        return self.setting.training.image_ids(1)

    @property
    def entry(self) -> Path:
        """The folder of the step."""
        return self.runner.cache.path(self.trained.features_step(1))

    @property
    def num_encoded(self) -> int:
        return sum(source.num_encoded for source in self.features.opened)

    def states(self) -> list[str]:
        return [event.state for event in self.events if event.state != "progress"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A cache in which the training features are, and some of them."""
    folder = tmp_path_factory.mktemp("made")
    run = SmokeRun(folder)
    tokens = run.train_features()
    assert run.num_encoded == 256
    assert run.states() == ["started", "finished"]
    progress = [event for event in run.events if event.state == "progress"]
    assert (progress[-1].done, progress[-1].total) == (256, 256)
    return folder, tokens


@pytest.fixture
def folder(made: tuple[Path, torch.Tensor], tmp_path: Path) -> Path:
    shutil.copytree(made[0], tmp_path / "copy")
    return tmp_path / "copy"


def test_the_steps_file_names_every_picture(made: tuple[Path, torch.Tensor]) -> None:
    run = SmokeRun(made[0])
    content = json.loads((run.entry / IMAGES).read_text())
    assert list(content["digests"]) == sorted(run.image_ids)
    assert (made[0] / "feature_cache" / "namespaces" / content["namespace"]).is_dir()
    assert {path.name for path in run.entry.iterdir()} == {IMAGES, "manifest.json"}


def test_a_second_run_encodes_nothing(folder: Path, made: tuple[Path, torch.Tensor]) -> None:
    run = SmokeRun(folder)
    assert torch.equal(run.train_features(), made[1])
    assert run.num_encoded == 0
    assert run.states() == ["cached"]


def test_without_the_step_its_tokens_are_found_by_picture(folder: Path, made: tuple[Path, torch.Tensor]) -> None:
    shutil.rmtree(SmokeRun(folder).entry)
    run = SmokeRun(folder)
    assert torch.equal(run.train_features(), made[1])
    assert run.num_encoded == 0
    assert (run.features.num_encoded, run.features.encode_s) == (0, 0.0)  # what was found is no throughput


def test_tokens_that_were_evicted_are_made_again(folder: Path, made: tuple[Path, torch.Tensor]) -> None:
    shutil.rmtree(folder / "feature_cache")
    run = SmokeRun(folder)
    assert torch.equal(run.train_features(), made[1])
    assert run.num_encoded == 256
    assert run.states() == ["cached", "started", "finished"]


def test_an_entry_of_an_earlier_version_is_replaced(folder: Path, made: tuple[Path, torch.Tensor]) -> None:
    entry = SmokeRun(folder).entry
    (entry / IMAGES).rename(entry / "features.safetensors")
    run = SmokeRun(folder)
    assert torch.equal(run.train_features(), made[1])
    assert {path.name for path in entry.iterdir()} == {IMAGES, "manifest.json"}


def test_with_the_cache_switched_off_the_tokens_are_the_same(
    folder: Path, made: tuple[Path, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", "0")
    shutil.rmtree(folder / "feature_cache")
    run = SmokeRun(folder)
    assert torch.equal(run.train_features(), made[1])
    assert run.states() == ["cached"]
    assert not (folder / "feature_cache").exists()
    assert run.features.bypassed() == {"features (train)": "the feature cache is switched off"}


def test_a_bound_that_is_no_number_is_said_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", "much")
    with pytest.raises(ConfigError, match="got 'much'"):
        SmokeRun(tmp_path)


def test_each_training_image_is_read_as_often_as_the_schedule_says(tmp_path: Path) -> None:
    run = SmokeRun(tmp_path)
    assert run.trained.num_reads(1) + run.trained.num_reads(2) == pytest.approx((20 * 32 + 30 * 16) / 256)


def test_each_process_begins_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    starts: list[float] = []
    made = feature_steps.Features
    monkeypatch.setattr(
        feature_steps, "Features", lambda *args, **words: starts.append(words["start"]) or made(*args, **words)
    )
    for rank in (0, 1):
        run = SmokeRun(tmp_path / str(rank))
        monkeypatch.setattr(
            run.runner,
            "obtain",
            lambda *args: StepResult(name="features", path=tmp_path, key="", cached=True, seconds=0.0, made_in_s=0.0),
        )
        run.runner.processes = Processes(rank=rank, world_size=4)
        write_json(tmp_path / IMAGES, {"digests": {}})
        run.train_features()
    assert starts == [0.0, 0.25]
