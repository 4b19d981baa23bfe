"""Records made by hand for the tests of `results`, handed out by the fixture `make`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from ovbench.results.record import (
    EncoderRecord,
    Environment,
    Measurement,
    MetricValue,
    ProtocolRecord,
    RunRecord,
    SourceRecord,
    StepRecord,
    TaskRecord,
)

TASK = TaskRecord(
    name="mini-seed",
    version=1,
    title="four-choice questions on garment scenes",
    kind="choice",
    family="mini",
    scorer="likelihood, option_text, choice-1",
    headline="accuracy",
    chance=0.25,
    groups=("identity", "location"),
    data_digest="d" * 64,
    n=1400,
    num_total=1400,
    citation="after SEED-Bench (arXiv 2307.16125)",
    licence="Apache-2.0",
)
POPE = dataclasses.replace(
    TASK,
    name="mini-pope",
    title="yes/no questions on garment scenes",
    kind="yesno",
    scorer="greedy, yesno_strict, yesno-1",
    chance=0.5,
    groups=("random", "popular"),
    n=1800,
    num_total=1800,
)


def encoder(spec: str = "ovis3/mini", **changes: Any) -> EncoderRecord:
    family, _, variant = spec.partition("/")
    fields: dict[str, Any] = {
        "spec": spec,
        "family": family,
        "variant": variant,
        "title": f"{family}, miniature",
        "objective": "softmax contrastive",
        "control": family == "random",
        "weights": "embedded weights",
        "untrained": False,
        "identity": "i" * 64,
        "weights_digest": "w" * 64,
        "adapter_version": 1,
        "num_params": 812_000,
        "num_params_frontend": 390_000 if family == "ovis3" else 0,
        "resolution_px": (64, 64),
        "grid": (8, 8),
        "num_tokens": 64,
        "dim": 128,
        "depth": 4,
        "num_prefix": 1,
        "tap": "final, native",
        "licence": "Apache-2.0",
        "training_data": "garment world",
        "citation": "arXiv 2601.15369v2",
    }
    return EncoderRecord(**{**fields, **changes})


def metric(
    value: float | None,
    *,
    task: str = "mini-seed",
    name: str = "accuracy",
    control: str = "none",
    group: str | None = None,
    half: float | None = 0.02,
    n: int = 1400,
    **changes: Any,
) -> MetricValue:
    low, high = (None, None) if value is None or half is None else (value - half, value + half)
    fields: dict[str, Any] = {
        "task": task,
        "name": name,
        "control": control,
        "group": group,
        "value": value,
        "unit": "fraction",
        "higher_is_better": True,
        "n": n,
        "low": low,
        "high": high,
        "interval": "clustered by image, CR1, t with 899 degrees of freedom"
        if low is not None
        else "none: made by hand",
        "reason": None if value is not None else "no question was answered yes",
    }
    return MetricValue(**{**fields, **changes})


def environment(**changes: Any) -> Environment:
    fields: dict[str, Any] = {
        "ovbench_version": "0.1.0",
        "git_commit": "c" * 40,
        "git_dirty": False,
        "python": "3.11.7",
        "packages": {"torch": "2.13.0", "timm": None},
        "platform": "Linux-6.1-x86_64",
        "cpu": "a processor",
        "num_cores": 2,
        "device": "cpu",
        "device_name": None,
        "dtype": "float32",
        "num_threads": 1,
    }
    return Environment(**{**fields, **changes})


def record(
    spec: str = "ovis3/mini",
    metrics: Sequence[MetricValue] | float = 0.6,
    *,
    day: int = 1,
    encoder_changes: Mapping[str, Any] | None = None,
    **changes: Any,
) -> RunRecord:
    """A record; `metrics` may be one number: the accuracy of mini-seed. `day` decides which record is newer."""
    fields: dict[str, Any] = {
        "suite": "understanding",
        "seed": 0,
        "limit": None,
        "encoder": encoder(spec, **(encoder_changes or {})),
        "protocol": ProtocolRecord(
            name="mini", version=1, content={"name": "mini", "version": 1, "stage": {"lr": 0.002}}
        ),
        "tasks": (TASK,),
        "metrics": tuple(metrics) if isinstance(metrics, Sequence) else (metric(metrics),),
        "steps": (StepRecord(name="features", key="k" * 64, seconds=1.5, cached=False, made_in_s=1.5),),
        "measurements": (
            Measurement(name="peak_rss", value=5.0e8, unit="bytes", reason=None),
            Measurement(name="peak_device_memory", value=None, unit="bytes", reason="runs on the CPU"),
        ),
        "environment": environment(),
        "started_utc": f"2026-01-{day:02d}T10:00:00Z",
        "finished_utc": f"2026-01-{day:02d}T10:02:30Z",
        "complete": True,
        "warnings": (),
        "sources": (SourceRecord(role="training pictures", name="a world", digest="s" * 64, count=8192),),
    }
    return RunRecord.new(**{**fields, **changes})


def rows(count: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "task": "mini-seed",
            "control": "none",
            "item_id": f"q{index}",
            "image_id": f"scene{index // 2}",
            "group": "identity",
            "question": "what at top-left",
            "answer": "bag",
            "raw": "bag",
            "parsed": "bag" if index else None,
            "chosen": "bag",
            "correct": True,
            "options": ["a", "b", "c", "d"],
            "option_scores": [-0.1, -2.0, -3.0, -4.0] if index else None,
            "answers": ["bag", "a bag"] if index else [],
            "extra": {"question_id": f"{index}"} if index else {},
            "score": 0.6 if index else None,
        }
        for index in range(count)
    ]


def two_tasks(seed_accuracy: float, pope_accuracy: float | None, *, half: float = 0.02) -> list[MetricValue]:
    """Metrics of mini-seed and mini-pope as a run gives them: controls, groups, other metrics."""
    pope = {"task": "mini-pope", "n": 1800}
    found = [
        metric(seed_accuracy, half=half),
        metric(seed_accuracy - 0.1, group="identity", n=200, half=0.06),
        metric(seed_accuracy + 0.1, group="location", n=200, half=0.06),
        metric(0.251, control="shuffled"),
        metric(0.249, control="blind"),
        metric(0.012, name="unparsed_rate", higher_is_better=False, half=0.005),
        metric(pope_accuracy, half=half, **pope),
        metric(0.503, control="shuffled", **pope),
        metric(0.5, control="blind", half=None, **pope),
        metric(pope_accuracy, name="f1", half=0.03, **pope),
        metric(0.47, name="yes_rate", higher_is_better=None, **pope),
    ]
    for group in POPE.groups:
        found.append(metric(pope_accuracy, group=group, half=0.03, task="mini-pope", n=600))
    return found


def example() -> list[RunRecord]:
    """Records whose tables show everything: controls, two seeds, a missing value, a tie, a best, a limit, markup."""
    both: dict[str, Any] = {"tasks": (TASK, POPE)}
    return [
        record("ovis3/mini", two_tasks(0.62, 0.71), **both),
        record("clip/mini", two_tasks(0.55, 0.70), **both),
        record("clip/mini", two_tasks(0.57, 0.72), seed=1, **both),
        record("siglip/mini?note=a_b|c&d", two_tasks(0.54, None), **both),
        record("random/mini", two_tasks(0.30, 0.52), **both),
        record("ovis3/mini", (metric(0.7, n=100),), limit=100, tasks=(dataclasses.replace(TASK, n=100),)),
    ]


@pytest.fixture
def make() -> SimpleNamespace:
    """The functions of this file."""
    names = ("encoder", "environment", "example", "metric", "record", "rows", "two_tasks", "TASK", "POPE")
    return SimpleNamespace(**{name: globals()[name] for name in names})
