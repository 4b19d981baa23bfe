"""Training of RAE's decoder: it learns, resumes exactly, does not depend on passes, and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.generation.decoder_config import DecoderLossConfig
from ovbench.harness.generation.decoder_weights import load_decoder
from ovbench.harness.generation.picture_data import to_01
from ovbench.harness.generation.rae import RAE
from ovbench.harness.parallel import Processes
from tests.harness.generation.decoder_training import (
    DECODER,
    L1,
    Memory,
    Perceptual,
    assert_close,
    assert_same_bits,
    recipe,
    rows,
    state,
    train,
)
from tests.harness.generation.rae_data import patch_encoder


class Killed(Exception):
    pass


def killer(after: int) -> Any:
    def progress(done: int, total: int, **fields: float) -> None:
        if done == after:
            raise Killed

    return progress


def test_the_loss_falls_and_reconstructions_become_better(tmp_path: Path) -> None:
    schedule = replace(recipe().optimiser.schedule, decay_end_epoch=75.0)
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


@pytest.mark.parametrize("after", [3, 4, 7])
def test_killed_and_continued_gives_the_same_bits(tmp_path: Path, after: int) -> None:
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "parts", progress=killer(after))
    parts = train(tmp_path / "parts")
    assert parts.read_bytes() == whole.read_bytes()
    assert_same_bits(state(tmp_path / "parts"), state(tmp_path / "whole"))
    assert [row["step"] for row in rows(tmp_path / "parts")] == list(range(1, 11))


@pytest.mark.parametrize("micro", [4, 3, 1])
def test_passes_change_nothing(tmp_path: Path, micro: int) -> None:
    loss = DecoderLossConfig(gan_weight=0.0)
    train(tmp_path / "one", recipe(loss), lpips=Perceptual())
    train(tmp_path / "many", recipe(loss, micro_batch=micro), lpips=Perceptual())
    assert_close(state(tmp_path / "many"), state(tmp_path / "one"))
    for one, many in zip(rows(tmp_path / "one"), rows(tmp_path / "many"), strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert one["loss"] == pytest.approx(one["l1"] + one["lpips"], rel=1e-5)


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
        (recipe(DecoderLossConfig(gan_weight=0.0)), {}, "there is no network for it"),
        (recipe(DecoderLossConfig(lpips_weight=0.0)), {}, "there is no discriminator"),
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
