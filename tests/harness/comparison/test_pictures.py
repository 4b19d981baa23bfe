from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovbench.harness.compare import compare_runs
from ovbench.harness.comparison.answers import Options
from ovbench.harness.comparison.result import MetricDifference
from ovbench.harness.generation.picture_parts import Made, make_parts, read_parts
from ovbench.harness.generation.picture_tasks import (
    against_pictures,
    headline_of,
    layers_of,
    score_pictures,
    score_values,
)
from ovbench.harness.generation.slots import Group
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.jackknife import paired_frechet_difference
from ovbench.harness.steps import Step, StepCache
from ovbench.results.record import RunRecord, StepRecord
from ovbench.results.store import RunStore
from ovbench.tasks.pictures import PictureTask, load_picture_task
from tests.results.conftest import TASK, record

COUNT, PASS = 48, 8
LABELS = np.arange(COUNT) % 10


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("wardrobe")


def _pictures(seed: int, noise: float) -> np.ndarray:
    """Pictures that share most of what they show and have noise of their own, uint8 [48, 32, 32, 3]."""
    base = np.random.default_rng(99).integers(0, 200, size=(COUNT, 32, 32, 1)).astype(float)
    own = np.random.default_rng(seed).normal(0, noise, size=base.shape)
    return np.repeat(np.clip(base + own, 0, 255), 3, axis=3).astype(np.uint8)


class Pictures:
    """A cache and a store, and runs of pictures in both.

    Args:
        root: Folder of both.
        extractor: Scores them.
    """

    def __init__(self, root: Path, extractor: Extractor) -> None:
        self.cache, self.store, self.extractor = StepCache(root / "cache"), RunStore(root / "runs"), extractor
        self.reference = _pictures(1000, 10.0)
        self.lost: tuple[StepRecord, ...] = ()  # steps of every run that the cache does not hold

    def step(
        self, name: str, images: np.ndarray, inputs: dict[str, Any], layers: tuple[str, ...], **values: Any
    ) -> Any:
        """Keeps pictures' features as a step does; returns the step and what it holds."""
        step = Step(name=name, version=2, inputs={**inputs, "extractor": self.extractor.info.fingerprint()})

        def make(group: Group) -> Made:
            filled = group.fill(torch.from_numpy(images[list(group.indices)])).numpy()
            return Made(images_u8=filled, values={key: part[list(group.indices)] for key, part in values.items()})

        def build(out: Path, work: Path) -> None:
            make_parts(out / f"passes-{PASS}", COUNT, PASS, make, self.extractor, layers=layers, num_kept=0)

        path = self.cache.obtain(step, build).path / f"passes-{PASS}"
        content = read_parts(
            path, COUNT, PASS, self.extractor.info, layers=layers, scratch=self.cache.root / "scratch", num_shown=0
        )
        return step, content

    def run(self, task: PictureTask, spec: str, images: np.ndarray, *, seed: int = 0, **values: Any) -> RunRecord:
        """Scores pictures as a run does and keeps its record."""
        layers = layers_of(task, self.extractor.info)
        of = "samples" if task.kind == "generation" else "reconstructions"
        moment = {"moment": None} if task.kind == "generation" else {}
        made, content = self.step("samples", images, {"of": of, "who": spec, "seed": seed, **moment}, layers, **values)
        real, against = self.step("features", self.reference, {"pictures": "test"}, layers)
        compared = against_pictures("test", against.features, purpose=task.kind, extractor=self.extractor)
        block_seed = seed if task.kind == "generation" else 0
        scores = score_pictures(task, compared, content.features, labels=values.get("labels"), seed=block_seed)
        scores += [score_values(name, values[name]) for name in task.pair_metrics]
        steps = [
            StepRecord(name=step.name, key=step.key, seconds=0.0, cached=False, made_in_s=0.0) for step in (made, real)
        ]
        about = dataclasses.replace(
            TASK, name=task.name, kind=task.kind, n=COUNT, num_total=COUNT, groups=(), chance=None,
            headline=headline_of(task, self.extractor.info),
        )  # fmt: skip
        metrics = [score.score.to_value(task.name, "none") for score in scores]
        made_record = record(spec, metrics, suite=task.kind, seed=seed, tasks=(about,), steps=(*self.lost, *steps))
        return self.store.keep(made_record, [], {"sheet.png": self.store_sheet()})

    def store_sheet(self) -> Path:
        """A file that stands for the sheet of a run."""
        path = self.cache.root / "sheet.png"
        path.write_bytes(b"a sheet")
        return path

    def compare(self, first: str, second: str) -> dict[str, MetricDifference]:
        """Compares two encoders; by the name of the score."""
        found = compare_runs(first, second, out=self.store.root, cache=self.cache.root, options=Options(num_draws=999))
        return {entry.metric: entry for task in found[0].tasks for entry in task.differences}


@pytest.fixture
def made(tmp_path: Path, extractor: Extractor) -> Pictures:
    return Pictures(tmp_path, extractor)


def _samples(
    made: Pictures, *, seed: int = 0, second_labels: np.ndarray = LABELS, second_seed: int | None = None
) -> None:
    task = load_picture_task("mini-images")
    made.run(task, "clip/mini", _pictures(seed, 20.0), seed=seed, labels=LABELS)
    other = seed if second_seed is None else second_seed
    made.run(task, "siglip/mini", _pictures(50 + seed, 60.0), seed=other, labels=second_labels)


def test_samples_of_one_seed_get_the_paired_jackknife(made: Pictures, extractor: Extractor) -> None:
    _samples(made)
    found = made.compare("clip/mini", "siglip/mini")
    entry = found["FD-wardrobe"]
    sides = [
        extractor.extract(images)[extractor.info.pool].cpu().numpy()
        for images in (_pictures(0, 20.0), _pictures(50, 60.0))
    ]
    real = extractor.extract(made.reference)[extractor.info.pool].cpu().numpy().astype(np.float64)
    oracle = paired_frechet_difference(
        sides[0], sides[1], real.mean(axis=0), np.cov(real, rowvar=False), COUNT, num_blocks=COUNT // 2
    )
    assert entry.difference == pytest.approx(oracle.value, rel=1e-4)
    assert entry.interval.low == pytest.approx(oracle.interval.low, rel=1e-3)
    assert entry.p is not None
    assert entry.p_method == f"t of the paired jackknife, {COUNT // 2} blocks"
    assert entry.verdict == ("better" if entry.p < 0.05 else "not separated")


def test_read_back_is_tested_sample_by_sample(made: Pictures) -> None:
    _samples(made)
    entry = made.compare("clip/mini", "siglip/mini")["class read-back"]
    assert entry.p_method == "McNemar's mid-p, one question an image"
    assert entry.exact_p is not None


def test_scores_without_a_paired_jackknife_say_so(made: Pictures) -> None:
    _samples(made)
    entry = made.compare("clip/mini", "siglip/mini")["Recall-wardrobe"]
    assert (entry.p, entry.verdict, entry.reason) == (None, "not tested", "this score has no paired jackknife")
    assert entry.difference is not None


def test_reconstructions_are_compared_picture_by_picture(made: Pictures) -> None:
    task = load_picture_task("mini-reconstruction")
    generator = np.random.default_rng(0)
    psnr, ssim = generator.normal(20, 3, COUNT), generator.uniform(0.5, 0.9, COUNT)
    made.run(task, "clip/mini", _pictures(0, 20.0), psnr=psnr, ssim=ssim)
    made.run(task, "siglip/mini", _pictures(1, 20.0), psnr=psnr - generator.normal(0.5, 0.2, COUNT), ssim=ssim)
    found = made.compare("clip/mini", "siglip/mini")
    assert found["PSNR"].difference == pytest.approx(0.5, abs=0.15)
    assert found["PSNR"].verdict == "better"
    assert (found["SSIM"].p, found["SSIM"].verdict) == (1.0, "not separated")
    assert found["FD-wardrobe"].p is not None


def test_several_seeds_are_paired_seed_by_seed(made: Pictures) -> None:
    for seed in (0, 1):
        _samples(made, seed=seed)
    entry = made.compare("clip/mini", "siglip/mini")["FD-wardrobe"]
    assert entry.seeds is not None
    assert len(entry.seeds.by_seed) == 2
    assert entry.p_method.startswith("t of 2 seeds and their pictures")


def test_other_seeds_have_no_noise_in_common(made: Pictures) -> None:
    _samples(made, second_seed=7)
    entry = made.compare("clip/mini", "siglip/mini")["FD-wardrobe"]
    assert entry.p is None
    assert entry.reason == "the samples have the seeds 0 and 7: no noise in common"
    assert entry.difference is not None


def test_other_classes_are_no_pairs(made: Pictures) -> None:
    _samples(made, second_labels=LABELS[::-1].copy())
    assert (
        made.compare("clip/mini", "siglip/mini")["FD-wardrobe"].reason == "the samples of one number have other classes"
    )


def test_samples_that_the_cache_lost_leave_the_recorded_values_with_the_reason(made: Pictures) -> None:
    _samples(made)
    for path in (made.cache.root / "samples").iterdir():
        (path / "manifest.json").unlink()
    entry = made.compare("clip/mini", "siglip/mini")["FD-wardrobe"]
    assert (entry.p, entry.verdict) == (None, "not tested")
    assert entry.reason is not None
    assert "is no longer in the cache" in entry.reason
    assert entry.difference == pytest.approx((entry.first or 0) - (entry.second or 0))


@pytest.mark.parametrize("name", ["samples", "features"])
def test_a_lost_step_that_the_test_does_not_need_is_passed_over(made: Pictures, name: str) -> None:
    made.lost = (StepRecord(name=name, key="0" * 64, seconds=0.0, cached=False, made_in_s=0.0),)
    _samples(made)
    assert made.compare("clip/mini", "siglip/mini")["FD-wardrobe"].p is not None


def test_a_damaged_entry_is_not_trusted(made: Pictures) -> None:
    _samples(made)
    path = next((made.cache.root / "samples").glob("*/passes-8/pass-000000.npz"))
    path.write_bytes(b"damaged")
    reason = made.compare("clip/mini", "siglip/mini")["FD-wardrobe"].reason
    assert reason is not None
    assert "is damaged: 'passes-8/pass-000000.npz' does not match its digest" in reason
