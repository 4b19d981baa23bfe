from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import DataError, OvbenchError
from ovbench._base.files import read_json, read_jsonl
from ovbench._base.paths import asset_folder
from ovbench.harness.understanding.config import GateConfig, LlavaConfig, StageConfig
from ovbench.harness.understanding.data import TokenSource, WorldTrainingData
from ovbench.harness.understanding.gate import (
    GateReport,
    check_stage1,
    distinct_share,
    failures_of,
    held_out_rows,
    training_rows,
)
from ovbench.harness.understanding.llava import Llava, build_llava, load_llava
from ovbench.harness.understanding.train import train_llava
from ovbench.tasks.world.scene import COLOURS, GARMENTS, make_scene

DATA = WorldTrainingData(seed=0, num_scenes=256, num_turns=4)
DIM = len(GARMENTS) + len(COLOURS) + 1
GATE = GateConfig(num_images=16, max_loss=1.5, min_drop=0.1, min_gain=0.02, max_new_tokens=12)
SOUND: dict[str, Any] = {
    "mode": "refuse",
    "num_images": 16,
    "first_loss": 5.0,
    "final_loss": 2.0,
    "held_out_loss": 2.0,
    "shuffled_loss": 2.5,
    "blind_loss": 4.0,
    "share_empty": 0.0,
    "distinct_captions": 1.0,
    "distinct_bigrams": 0.5,
    "captions": ("a shirt",),
    "failures": (),
}


def seeing(image_ids: Sequence[str]) -> torch.Tensor:
    """Tokens that tell what is in each cell of a scene: garment and colour, one-hot; the last number is always 1."""
    rows = torch.zeros(len(image_ids), 4, DIM)
    for place, image_id in enumerate(image_ids):
        for item in make_scene(0, "train", int(image_id.rpartition("-")[2])).items:
            rows[place, item.cell, GARMENTS.index(item.garment)] = 1.0
            rows[place, item.cell, len(GARMENTS) + COLOURS.index(item.colour)] = 1.0
    rows[..., -1] = 1.0
    return 4 * rows


def blindfolded(image_ids: Sequence[str]) -> torch.Tensor:
    """Tokens that are the same for every image."""
    return torch.ones(len(image_ids), 4, DIM)


def recipe(steps: int = 80) -> LlavaConfig:
    return LlavaConfig(
        language_model=str(asset_folder("lm/mini")),
        stage1=StageConfig(steps=steps, batch_size=8, lr=2e-2, template="plain"),
        precision="float32",
        gate=GATE,
    )


def stage1(folder: Path, tokens: TokenSource, steps: int) -> tuple[Llava, list[dict[str, Any]]]:
    path = train_llava(tokens, dim=DIM, data=DATA, config=recipe(steps), seed=0, folder=folder, stage=1)
    return load_llava(path, recipe(), dim=DIM, stage=1), read_jsonl(folder / "stage1.log.jsonl")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Llava, list[dict[str, Any]]]:
    return stage1(tmp_path_factory.mktemp("trained"), seeing, 80)


def test_a_trained_projector_passes(trained: tuple[Llava, list[dict[str, Any]]], tmp_path: Path) -> None:
    model, rows = trained
    report = check_stage1(model, seeing, DATA, log_rows=rows, config=GATE, report=tmp_path / "gate.json")
    assert report.failures == ()
    assert report.num_images == 16
    assert report.held_out_loss + 0.1 < report.shuffled_loss
    assert report.held_out_loss + 0.02 < report.blind_loss  # this language model knows such captions by itself
    assert report.final_loss < report.first_loss == rows[0]["loss"]
    assert "items" in report.captions[0]
    report.enforce()
    stored = read_json(tmp_path / "gate.json")
    assert stored == report.to_json()
    assert stored["passed"] is True


def test_a_projector_whose_images_say_nothing_does_not(tmp_path: Path) -> None:
    model, rows = stage1(tmp_path, blindfolded, 12)
    report = check_stage1(model, blindfolded, DATA, log_rows=rows, config=GATE)
    assert report.shuffled_loss == report.held_out_loss
    assert any("own images help by 0.000 nats a token over the images of others" in text for text in report.failures)
    with pytest.raises(OvbenchError, match="stage 1 did not pass the gate") as caught:
        report.enforce(where="here")
    assert "0.000 nats" in caught.value.what
    assert "gate: warn" in caught.value.fix


def test_an_untrained_projector_does_not(trained: tuple[Llava, list[dict[str, Any]]]) -> None:
    model = build_llava(recipe(), DIM, seed=0, stage=1).eval()
    flat = [{**row, "loss": 3.0} for row in trained[1]]
    report = check_stage1(model, seeing, DATA, log_rows=flat, config=GATE)
    words = " ".join(report.failures)
    assert "the loss ended at 3.000, above 1.5" in words
    assert "the loss fell from 3.000 to 3.000, by less than 10%" in words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"final_loss": 2.0}, ""),
        ({"final_loss": 3.5}, "the loss ended at 3.500, above 3"),
        ({"first_loss": 2.1}, "the loss fell from 2.100 to 2.000, by less than 20%"),
        ({"shuffled_loss": 2.01}, "help by 0.010 nats a token over the images of others, less than 0.05"),
        ({"blind_loss": 1.9}, "help by -0.100 nats a token over no images, less than 0.05"),
        ({"share_empty": 0.25}, "25% of the captions are empty, more than 0%"),
        ({"distinct_captions": 0.02}, "2% of the captions differ, less than 10%"),
        ({"distinct_bigrams": 0.01}, "1% of the word pairs differ, less than 2%"),
        ({"final_loss": math.nan}, "the loss ended at nan"),
    ],
)
def test_each_bound_speaks_for_itself(change: dict[str, float], message: str) -> None:
    found = failures_of({**SOUND, **change}, GateConfig())
    if not message:
        assert found == []
    else:
        assert any(message in text for text in found)


def test_a_warning_lets_stage_two_begin(caplog: pytest.LogCaptureFixture) -> None:
    report = GateReport(**{**SOUND, "mode": "warn", "captions": (), "failures": ("the loss is high",)})
    with caplog.at_level(logging.WARNING):
        report.enforce()
    assert "the loss is high" in caplog.text
    assert not report.passed


def test_held_out_rows_are_never_trained_on() -> None:
    held, kept = held_out_rows(256, GATE), training_rows(256, GATE)
    assert len(held) == 16
    assert sorted([*held, *kept]) == list(range(256))
    assert held.tolist() == held_out_rows(256, replace(GATE, max_loss=9.0)).tolist()


def test_the_training_never_asks_for_a_held_out_image(tmp_path: Path) -> None:
    data = WorldTrainingData(seed=0, num_scenes=32, num_turns=4)
    seen: set[str] = set()

    def noting(image_ids: Sequence[str]) -> torch.Tensor:
        seen.update(image_ids)
        return seeing(image_ids)

    train_llava(noting, dim=DIM, data=data, config=recipe(4), seed=0, folder=tmp_path, stage=1)  # two passes
    assert seen == {data.scene(int(row)).image_id for row in training_rows(32, GATE)}


def test_a_gate_that_is_off_trains_on_everything() -> None:
    assert training_rows(5, GateConfig(mode="off")).tolist() == [0, 1, 2, 3, 4]


def test_more_held_out_than_there_are_is_refused() -> None:
    with pytest.raises(DataError, match="16 of 16 conversations cannot be held out"):
        training_rows(16, GATE)


def test_a_stage_without_a_log_is_refused(trained: tuple[Llava, list[dict[str, Any]]]) -> None:
    with pytest.raises(DataError, match="left no log"):
        check_stage1(trained[0], seeing, DATA, log_rows=[], config=GATE)


def test_distinct_shares() -> None:
    assert distinct_share(["a b a b", "a b"]) == 2 / 4
    assert distinct_share(["a", ""]) == 1.0
    assert distinct_share(["x x x x x"]) == 1 / 4
