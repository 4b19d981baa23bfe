"""The recipe `wardrobe`: it learns, it goes on where it was killed, and its features have the scale that is stated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ovbench._base.fingerprint import file_sha256
from ovbench.encoders.modeling.weights_file import read_tensors
from ovbench.harness.events import ignore
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.wardrobe import Wardrobe, WardrobeConfig, load_wardrobe, to_input
from ovbench.harness.pretraining.command import PretrainRequest, run_pretraining
from ovbench.harness.pretraining.config import WardrobeRecipe
from ovbench.harness.pretraining.train_wardrobe import labelled, measure, rescale, train_wardrobe
from ovbench.tasks.world.draw import embedded_sprites
from ovbench.tasks.world.scene import make_single

SHORT = WardrobeRecipe(steps=12, batch_size=16, warmup_steps=2, num_measured=200, checkpoint_every=5)


class Killed(Exception):
    pass


def train(folder: Path, *, stop_after: int | None = None, seed: int = 0) -> Path:
    def progress(done: int, total: int, **fields: float) -> None:
        if done == stop_after:
            raise Killed

    folder.mkdir(exist_ok=True)
    train_wardrobe(
        folder,
        train_sprites=embedded_sprites("train"),
        test_sprites=embedded_sprites("test"),
        recipe=SHORT,
        seed=seed,
        progress=progress,
    )
    return folder / "wardrobe.safetensors"


def test_smoke_training_learns_and_its_weights_score_under_another_name(tmp_path: Path) -> None:
    note = run_pretraining(PretrainRequest(recipe="wardrobe", smoke=True, out=tmp_path), ignore)
    folder = tmp_path / "wardrobe-seed0-smoke"
    rows = [json.loads(line) for line in (folder / "wardrobe.log.jsonl").read_text().splitlines()]
    for name in ("loss", "garment", "tint"):
        assert rows[-1][name] < rows[0][name], f"{name} did not fall"
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    assert note["figures"]["garment_accuracy"] > 2 / 8
    assert note["figures"]["tint_accuracy"] > 3 / 6
    written = json.loads((folder / "wardrobe.training.json").read_text())
    assert written["command"] == "ovbench pretrain --recipe wardrobe --protocol mini --seed 0 --smoke"
    assert written["sha256"] == note["sha256"] == file_sha256(folder / "wardrobe.safetensors")
    assert load_extractor("wardrobe", weights=note["weights"]).info.title == "FD-OtherWardrobe"


@pytest.mark.parametrize("stop_after", [3, 7])
def test_killed_and_continued_gives_the_same_file(tmp_path: Path, stop_after: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "parts", stop_after=stop_after)
    assert not (tmp_path / "parts" / "wardrobe.safetensors").exists()
    assert train(tmp_path / "parts").read_bytes() == whole.read_bytes()


def test_another_seed_gives_other_weights(tmp_path: Path) -> None:
    assert train(tmp_path / "a").read_bytes() != train(tmp_path / "b", seed=1).read_bytes()


def test_the_scale_of_the_features_is_set_without_changing_an_answer() -> None:
    torch.manual_seed(0)
    network, sprites = Wardrobe(WardrobeConfig()).eval(), embedded_sprites("train")
    scenes = [make_single(1, "train", index) for index in range(400)]  # those it measures
    x = to_input(labelled(scenes, sprites)[0])
    with torch.no_grad():
        before = network(x)
        rescale(network, sprites, count=400)
        after = network(x)
    assert torch.allclose(after.garment_logits, before.garment_logits, atol=1e-5)
    assert torch.allclose(after.tint_logits, before.tint_logits, atol=1e-5)
    assert float(after.features.double().var(dim=0).sum()) == pytest.approx(268.0, rel=1e-4)


def test_accuracies_are_shares_of_single_pictures(tmp_path: Path) -> None:
    network, sprites = load_wardrobe(train(tmp_path)), embedded_sprites("test")
    garments: dict[int, list[bool]] = {}
    tints: list[bool] = []
    for index in range(120):
        image, garment, tint = labelled([make_single(1, "test", index)], sprites)
        reading = network(to_input(image))
        garments.setdefault(int(garment), []).append(int(reading.garment_logits.argmax()) == int(garment))
        tints.append(int(reading.tint_logits.argmax()) == int(tint))
    figures = measure(network, sprites, count=120)
    hits = [hit for row in garments.values() for hit in row]
    assert figures["garment_accuracy"] == pytest.approx(sum(hits) / 120)
    assert figures["garment_accuracy_worst"] == pytest.approx(min(sum(row) / len(row) for row in garments.values()))
    assert figures["tint_accuracy"] == pytest.approx(sum(tints) / 120)


def test_the_header_says_what_the_outputs_stand_for(tmp_path: Path) -> None:
    _, metadata = read_tensors(train(tmp_path))
    assert metadata["recipe"] == "wardrobe"
    config = json.loads(metadata["config"])
    assert config["garments"] == ["tshirt", "trouser", "pullover", "dress", "sandal", "sneaker", "bag", "boot"]
    assert config["tints"] == ["red", "green", "blue", "yellow", "magenta", "white"]
