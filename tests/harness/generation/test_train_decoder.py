"""Training of RAE's decoder: it learns, resumes exactly, does not depend on passes, and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.generation import train_decoder as train_decoder_module
from ovbench.harness.generation.decoder_config import DecoderLossConfig
from ovbench.harness.generation.decoder_weights import load_decoder
from ovbench.harness.generation.picture_data import to_01
from ovbench.harness.generation.rae import RAE
from ovbench.harness.metrics.lpips import load_lpips
from ovbench.harness.parallel import Processes
from ovbench.harness.training import Optimised
from tests.harness.generation.decoder_training import (
    DECODER,
    GAN,
    L1,
    SMOOTH,
    Killed,
    Memory,
    assert_close,
    assert_same_bits,
    killer,
    recipe,
    rows,
    smoothly,
    state,
    train,
)
from tests.harness.generation.rae_data import patch_encoder
from tests.harness.generation.test_discriminator import tiny


def test_the_loss_falls_and_reconstructions_become_better(tmp_path: Path) -> None:
    schedule = replace(recipe().optimiser.schedule, base_lr=1e-2, decay_end_epoch=75.0)
    train(tmp_path, recipe(tau=0.1, epochs=75.0, eps=1e-8, schedule=schedule))
    found = rows(tmp_path)
    assert sum(row["loss"] for row in found[-10:]) < 0.5 * sum(row["loss"] for row in found[:10])
    encoder, images = patch_encoder(), to_01(Memory().images_u8(range(20)))
    average = load_decoder(tmp_path / "decoder.safetensors", DECODER)
    error = (RAE(encoder, average).decode(RAE(encoder, average).encode(images)) - images).abs().mean()
    constant = (images.mean(dim=(0, 2, 3), keepdim=True) - images).abs().mean()  # the best single colour
    assert float(error) < 0.7 * float(constant)


def test_the_average_is_saved_and_is_not_the_live_decoder(tmp_path: Path) -> None:
    path = train(tmp_path)
    assert path == tmp_path / "decoder.safetensors"
    held, saved = state(tmp_path), load_decoder(path, DECODER).state_dict()
    assert_same_bits(saved, {key.removeprefix("model/ema/"): held[key] for key in held if key.startswith("model/ema/")})
    assert not torch.equal(held["model/decoder/decoder_pred.weight"], held["model/ema/decoder_pred.weight"])


def test_the_average_is_that_of_the_live_weights(tmp_path: Path) -> None:
    live: list[torch.Tensor] = []
    for steps in (0.5, 1.0, 1.5):  # epochs of 2 steps; a constant rate, so that the first steps are the same
        schedule = replace(recipe().optimiser.schedule, kind="constant", warmup_epochs=0.0)
        train(tmp_path / str(steps), recipe(epochs=steps, schedule=schedule))
        live.append(state(tmp_path / str(steps))["model/decoder/decoder_pred.weight"])
    averages = [state(tmp_path / name)["model/ema/decoder_pred.weight"] for name in ("0.5", "1.0", "1.5")]
    for step in (1, 2):
        torch.testing.assert_close(averages[step], 0.9 * averages[step - 1] + 0.1 * live[step])


@pytest.mark.parametrize("loss", [L1, GAN], ids=["l1", "gan"])
@pytest.mark.parametrize("after", [3, 4, 7])
def test_killed_and_continued_gives_the_same_bits(tmp_path: Path, after: int, loss: DecoderLossConfig) -> None:
    whole = train(tmp_path / "whole", recipe(loss))
    with pytest.raises(Killed):
        train(tmp_path / "parts", recipe(loss), progress=killer(after))
    parts = train(tmp_path / "parts", recipe(loss))
    assert parts.read_bytes() == whole.read_bytes()
    assert_same_bits(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert [row["step"] for row in rows(tmp_path / "parts")] == list(range(1, 11))


@pytest.mark.parametrize("micro", [4, 3, 1])
@pytest.mark.parametrize("loss", [replace(SMOOTH, gan_weight=0.0), SMOOTH], ids=["lpips", "gan"])
def test_passes_change_nothing(tmp_path: Path, loss: DecoderLossConfig, micro: int) -> None:
    for name, size in (("one", None), ("many", micro)):
        with smoothly() as arguments:
            train(tmp_path / name, recipe(loss, micro_batch=size), **arguments)
    assert_close(state(tmp_path / "many"), state(tmp_path / "one"))
    for one, many in zip(rows(tmp_path / "one"), rows(tmp_path / "many"), strict=True):
        assert one.keys() == many.keys()
        for key in one.keys() - {"elapsed_s"}:
            assert many[key] == pytest.approx(one[key], rel=1e-3, abs=1e-5), key


def test_the_loss_is_the_sum_that_the_recipe_says(tmp_path: Path) -> None:
    train(tmp_path, recipe(GAN))
    for row in rows(tmp_path):
        adversarial = 0.75 * row["lambda"] * row["adversarial"] if row["step"] > 4 else 0.0
        assert row["loss"] == pytest.approx(row["l1"] + row["lpips"] + adversarial, rel=1e-5)


def test_each_side_of_the_game_begins_at_its_epoch(tmp_path: Path) -> None:
    discriminator = tiny()
    fresh = {key: value.clone() for key, value in discriminator.head_state().items()}
    train(tmp_path / "before", recipe(GAN, epochs=1.0), discriminator=discriminator)
    assert_same_bits(discriminator.head_state(), fresh)
    train(tmp_path / "gan", recipe(GAN), discriminator=discriminator)
    moved = [key for key, value in discriminator.head_state().items() if not torch.equal(value, fresh[key])]
    assert "heads.0.0.0.weight_orig" in moved
    found = rows(tmp_path / "gan")
    assert [row["step"] for row in found if "discriminator" in row] == list(range(3, 11))
    assert [row["step"] for row in found if "adversarial" in row] == list(range(5, 11))


def test_the_decoder_does_not_hear_the_discriminator_before_its_epoch(tmp_path: Path) -> None:
    schedule = replace(recipe().optimiser.schedule, decay_end_epoch=9.0)
    for name, loss in (("with", GAN), ("without", replace(GAN, gan_weight=0.0))):
        for epochs in (2.0, 2.5):
            train(tmp_path / f"{name}-{epochs}", recipe(loss, epochs=epochs, schedule=schedule))
    key = "model/decoder/decoder_pred.weight"
    assert torch.equal(state(tmp_path / "with-2.0")[key], state(tmp_path / "without-2.0")[key])
    assert not torch.equal(state(tmp_path / "with-2.5")[key], state(tmp_path / "without-2.5")[key])


@pytest.mark.parametrize(("rate", "scale"), [(None, 1.0), (3e-4, 0.1)])
def test_the_discriminators_schedule_counts_from_its_first_update(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: float | None, scale: float
) -> None:
    parts: list[Optimised] = []
    original = train_decoder_module.train_parts
    monkeypatch.setattr(
        train_decoder_module, "train_parts", lambda **found: (parts.extend(found["parts"]), original(**found))[1]
    )
    train(tmp_path, replace(recipe(GAN), discriminator_lr=rate))
    decoder, discriminator = parts
    assert [discriminator.active(step) for step in range(10)] == [False] * 2 + [True] * 8
    for step in range(2, 10):
        assert discriminator.lr_at(step) == pytest.approx(scale * decoder.lr_at(step - 2))


@pytest.mark.slow
def test_the_network_of_lpips_is_trained_against(tmp_path: Path) -> None:
    pytest.importorskip("torchmetrics")
    pytest.importorskip("torchvision")
    loaded = load_lpips("random")
    train(tmp_path, recipe(DecoderLossConfig(gan_weight=0.0), epochs=1.0), lpips=loaded.network)
    train(tmp_path / "l1", recipe(L1, epochs=1.0))
    (first, _), (plain, _) = rows(tmp_path), rows(tmp_path / "l1")
    assert first["l1"] == pytest.approx(plain["l1"])
    assert first["loss"] == pytest.approx(first["l1"] + first["lpips"], rel=1e-5)
    assert first["grad_norm"] != plain["grad_norm"]


def test_bfloat16_trains_near_float32(tmp_path: Path) -> None:
    train(tmp_path / "32", recipe(GAN))
    train(tmp_path / "16", recipe(GAN, precision="bfloat16"))
    wide, low = rows(tmp_path / "32")[0], rows(tmp_path / "16")[0]
    assert low["loss"] != wide["loss"]
    assert low["loss"] == pytest.approx(wide["loss"], rel=0.02)
    assert all(value.dtype == torch.float32 for value in state(tmp_path / "16").values() if value.is_floating_point())


def test_cached_latents_stand_in_for_the_encoder(tmp_path: Path) -> None:
    class Still(Memory):
        def crops_u8(self, indices: Any, uses: Any, seed: int) -> Any:
            return self.images_u8(indices)

    data = Still()
    cache = patch_encoder().latents(to_01(data.images_u8(range(20))))
    train(tmp_path / "encoded", data=data)
    train(tmp_path / "cached", data=data, latents=lambda indices: cache[list(indices)])
    assert_close(state(tmp_path / "cached"), state(tmp_path / "encoded"))


def test_a_nan_loss_stops_with_the_last_checkpoint_kept(tmp_path: Path) -> None:
    seen: list[int] = []

    def distance(reconstruction: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        seen.append(len(images))
        return (reconstruction - images).square() * (float("nan") if len(seen) == 7 else 1.0)

    loss = DecoderLossConfig(gan_weight=0.0)
    with pytest.raises(OvbenchError, match="nan at step 7 of decoder") as caught:
        train(tmp_path, recipe(loss), lpips=distance)
    assert caught.value.where == str(tmp_path / "decoder.log.jsonl")
    kept = state(tmp_path)
    assert all(bool(value.isfinite().all()) for value in kept.values())
    assert not (tmp_path / "decoder.safetensors").exists()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("chosen", "arguments", "message"),
    [
        (recipe(DecoderLossConfig(gan_weight=0.0)), {"lpips": None}, "there is no network for it"),
        (recipe(DecoderLossConfig(lpips_weight=0.0)), {"discriminator": None}, "there is no discriminator"),
        (recipe(GAN, micro_batch=4), {"discriminator": tiny(norm="sbn")}, "'sbn' is over the whole batch"),
        (recipe(), {"config": replace(DECODER, latent_dim=8)}, "latents of width 8"),
        (recipe(), {"data": Memory(side=32)}, "makes pictures of 16 px"),
        (recipe(), {"encoder": patch_encoder(width=32)}, "4 x 8"),
        (recipe(), {"processes": Processes(world_size=3)}, "cannot be split over 3 processes"),
        (replace(recipe(), kind="native"), {}, "own decoder is not trained"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, chosen: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train(tmp_path, chosen, **arguments)
    assert not list(tmp_path.iterdir())


def test_cached_latents_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cached latents"):
        train(tmp_path, recipe(L1), latents=lambda indices: torch.zeros(len(indices), 6, 2, 2))
