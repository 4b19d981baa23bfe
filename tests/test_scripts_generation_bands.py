"""scripts/check_generation_bands.py: which records count, and how they are put together."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from ovbench.results.record import MetricValue, RunRecord, StepRecord
from ovbench.results.store import RunStore
from tests.results.conftest import TASK, metric, record

SCRIPT = Path(__file__).parent.parent / "scripts" / "check_generation_bands.py"
PSNR, DISTANCE = "PSNR", "FD-wardrobe"
GROUPS = (None, "untrained", "2.5 epochs", "5 epochs", "7.5 epochs")


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    spec = importlib.util.spec_from_file_location(SCRIPT.stem, SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    sys.modules[SCRIPT.stem] = module = importlib.util.module_from_spec(spec)  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
        yield module
    finally:
        del sys.modules[SCRIPT.stem]


def run_of(name: str, suite: str, seed: int, value: float, *, n: int = 2000, day: int = 1, **fields: Any) -> RunRecord:
    def entry(metric_name: str, group: str | None = None) -> MetricValue:
        return replace(metric(value), name=metric_name, group=group)

    if suite == "generation":
        metrics = [*(entry(DISTANCE, group) for group in GROUPS), entry("class read-back")]
    else:
        metrics = [entry(each) for each in (PSNR, "SSIM", DISTANCE)]
    shared = StepRecord(name="latents", key=f"{name}{seed}".ljust(64, "0"), seconds=0.0, cached=False, made_in_s=30.0)
    own = replace(shared, name="scores", key=f"{name}{seed}{suite}".ljust(64, "0"), made_in_s=60.0)
    task = replace(TASK, kind=suite, n=n, num_total=n)
    return record(name, metrics, suite=suite, seed=seed, day=day, tasks=(task,), **{"steps": (shared, own), **fields})


def everything(script: ModuleType, seeds: Iterable[int] = (0, 1)) -> list[RunRecord]:
    return [
        run_of(name, suite, seed, float(10 * (1 + seed)))
        for name in (*script.TRAINED, script.VAE, script.RANDOM)
        for suite in script.SUITES
        for seed in seeds
    ]


def store_of(folder: Path, records: Iterable[RunRecord]) -> RunStore:
    store = RunStore(folder)
    for each in records:
        store.keep(each, [])
    return store


def test_a_run_with_another_number_of_samples_does_not_count(script: ModuleType, tmp_path: Path) -> None:
    few = run_of("clip/mini", "generation", 0, 99.0, n=64, day=2)
    runs = script.runs_of(store_of(tmp_path, [*everything(script), few]))
    assert script.score(runs["generation", "clip/mini"][0], DISTANCE) == 10.0


def test_encoders_are_compared_seed_by_seed(script: ModuleType, tmp_path: Path) -> None:
    one_more = run_of("ovis3/mini", "reconstruction", 0, 10.0)
    records = [*everything(script, (1, 2)), one_more]  # by position its seed 0 would meet the others' seed 1
    runs = script.runs_of(store_of(tmp_path, records))
    assert {tuple(by_seed) for by_seed in runs.values()} == {(1, 2)}
    (gap,) = (check for check in script.checks_of(runs) if check.name == "PSNR of `ovis3` minus `clip`, dB")
    assert gap.values == (0.0, 0.0)


def test_seeds_that_not_every_encoder_ran_are_too_few(script: ModuleType, tmp_path: Path) -> None:
    others = [each for each in everything(script) if each.encoder.spec != "clip/mini"]
    moved = [run_of("clip/mini", suite, seed, 10.0) for suite in script.SUITES for seed in (1, 2)]
    with pytest.raises(SystemExit, match="holds 1 seeds that all encoders ran"):
        script.runs_of(store_of(tmp_path, [*others, *moved]))


def test_every_step_counts_once_and_scores_do_too(script: ModuleType, tmp_path: Path) -> None:
    runs = script.runs_of(store_of(tmp_path, everything(script)))
    assert script.seconds_of(runs, "clip/mini", 1) == 30.0 + 2 * 60.0  # latents are of both suites


def test_a_step_whose_time_is_not_known_is_not_taken_for_free(script: ModuleType, tmp_path: Path) -> None:
    unknown = StepRecord(name="dit", key="d" * 64, seconds=0.0, cached=True, made_in_s=None)
    newer = run_of("clip/mini", "generation", 0, 10.0, day=2, steps=(unknown,))
    runs = script.runs_of(store_of(tmp_path, [*everything(script), newer]))
    with pytest.raises(SystemExit, match="does not know what its step 'dit' cost"):
        script.checks_of(runs)


def test_means_are_over_the_seeds(script: ModuleType, tmp_path: Path) -> None:
    rows = script.overview(script.runs_of(store_of(tmp_path, everything(script))))
    assert rows[2].startswith("| `ovis3/mini` | 15.00 |")
