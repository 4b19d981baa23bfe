"""`ovbench pretrain --smoke` for each recipe: it trains, its losses fall, and it says how the file was made."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import folder_lock
from ovbench.encoders.registry import load_encoder
from ovbench.harness.events import ignore
from ovbench.harness.pretraining.command import PretrainRequest, run_pretraining


@pytest.mark.parametrize(
    ("recipe", "terms"),
    [
        ("clip", {"contrastive"}),
        ("siglip", {"contrastive"}),
        ("ovis3", {"contrastive", "caption", "rec_pixels", "rec_latents"}),
    ],
)
def test_smoke_training_learns_and_its_weights_load(tmp_path: Path, recipe: str, terms: set[str]) -> None:
    note = run_pretraining(PretrainRequest(recipe=recipe, smoke=True, out=tmp_path), ignore)
    rows = [
        json.loads(line) for line in (tmp_path / f"{recipe}-seed0-smoke" / "low.log.jsonl").read_text().splitlines()
    ]
    assert terms <= set(rows[0])
    for name in ("loss", *terms):
        assert rows[-1][name] < rows[0][name], f"{name} did not fall"
    written = json.loads((tmp_path / f"{recipe}-seed0-smoke" / f"{recipe}.training.json").read_text())
    assert written["command"] == f"ovbench pretrain --recipe {recipe} --protocol mini --seed 0 --smoke"
    assert written["sha256"] == note["sha256"]
    assert written["figures"]["probe_class"] > 0.125
    decoder = Path(note["weights"]).with_name(f"{recipe}-mini-decoder.safetensors")
    assert decoder.is_file() == (recipe == "ovis3")
    encoder = load_encoder(f"{recipe}/mini:{note['weights']}")
    assert encoder.info.weights_digest != load_encoder(f"{recipe}/mini").info.weights_digest


def test_smoke_training_of_the_vae(tmp_path: Path) -> None:
    note = run_pretraining(PretrainRequest(recipe="vae", smoke=True, out=tmp_path), ignore)
    rows = [json.loads(line) for line in (tmp_path / "vae-seed0-smoke" / "vae.log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert note["figures"]["psnr_32px_db"] > 10.0


def test_the_same_seed_gives_the_same_weights(tmp_path: Path) -> None:
    notes = [
        run_pretraining(PretrainRequest(recipe="clip", smoke=True, out=tmp_path / name, fraction=1.0), ignore)
        for name in ("a", "b")
    ]
    assert notes[0]["sha256"] == notes[1]["sha256"]


def test_a_paper_recipe_on_the_embedded_world_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="256-pixel photographs"):
        run_pretraining(PretrainRequest(recipe="ovis3-base-256", protocol="openvision3", out=tmp_path), ignore)


def test_two_trainings_in_one_folder_are_refused(tmp_path: Path) -> None:
    with folder_lock(tmp_path / "clip-seed0-smoke"), pytest.raises(RecordError, match="another training"):
        run_pretraining(PretrainRequest(recipe="clip", smoke=True, out=tmp_path), ignore)


@pytest.mark.parametrize("fields", [{"seed": -1}, {"threads": 0}, {"fraction": 0.0}])
def test_numbers_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        PretrainRequest(recipe="clip", **fields)  # pyright: ignore[reportArgumentType]


def test_a_setting_without_effect_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    request = PretrainRequest(recipe="clip", smoke=True, fraction=0.5, vae=tmp_path, out=tmp_path)
    with caplog.at_level(logging.WARNING), folder_lock(tmp_path / "clip-seed0-smoke"), pytest.raises(RecordError):
        run_pretraining(request, ignore)
    assert "--vae has no effect" in caplog.text
    assert "--fraction (with --smoke) has no effect" in caplog.text


@pytest.mark.parametrize("recipe", ["vae", "lm", "clip"])
def test_an_unknown_protocol_is_refused_for_every_recipe(tmp_path: Path, recipe: str) -> None:
    with pytest.raises(ConfigError, match="unknown protocol"):
        run_pretraining(PretrainRequest(recipe=recipe, protocol="nonsense", out=tmp_path), ignore)


def test_smoke_training_of_the_language_model(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    note = run_pretraining(PretrainRequest(recipe="lm", smoke=True, out=tmp_path), ignore)
    assert note["figures"]["loss_last"] < note["figures"]["loss_first"]
    folder = tmp_path / "lm-seed0-smoke"
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    assert len(tokenizer) == model.config.vocab_size
    assert json.loads((folder / "lm.training.json").read_text())["data"] == "text of the garment world"
