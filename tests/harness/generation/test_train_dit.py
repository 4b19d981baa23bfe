"""The transformer's training: it learns, resumes exactly, does not depend on passes, and stops when it breaks."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.harness.generation import train_dit as train_dit_module
from ovbench.harness.generation.network_weights import load_network
from ovbench.harness.generation.optimising import identity_of
from ovbench.harness.generation.train_dit import weights_name
from ovbench.harness.parallel import Processes
from tests.harness.generation.decoder_training import Killed, assert_close, assert_same_bits, killer
from tests.harness.generation.dit_training import COUNT, NETWORK, latents, recipe, rows, state, train


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted training."""
    folder = tmp_path_factory.mktemp("whole")
    train(folder)
    return folder


def test_the_loss_falls(tmp_path: Path) -> None:
    schedule = replace(recipe().optimiser.schedule, base_lr=2e-2, decay_end_epoch=60.0)
    train(tmp_path, recipe(epochs=60.0, eps=1e-8, schedule=schedule))
    losses = [row["loss"] for row in rows(tmp_path)]
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])


def test_the_average_is_saved_and_is_not_the_live_network(whole: Path) -> None:
    held = state(whole)
    saved = load_network(whole / "dit.safetensors", NETWORK).state_dict()
    assert_same_bits(saved, {key.removeprefix("model/ema/"): held[key] for key in held if key.startswith("model/ema/")})
    assert not torch.equal(held["model/network/x_embedder.proj.weight"], held["model/ema/x_embedder.proj.weight"])


@pytest.mark.parametrize("after", [1, 4, 5, 7, 8, 9])
def test_killed_and_continued_gives_the_same_bits(tmp_path: Path, whole: Path, after: int) -> None:
    with pytest.raises(Killed):
        train(tmp_path, progress=killer(after))
    train(tmp_path)
    names = ["dit.safetensors", "dit-2ep.safetensors", "dit-3.5ep.safetensors"]
    assert all((tmp_path / name).read_bytes() == (whole / name).read_bytes() for name in names)
    assert_same_bits(state(tmp_path), state(whole))  # live, average and optimiser
    assert [row["step"] for row in rows(tmp_path)] == list(range(1, 11))


def test_killed_after_the_last_step_only_the_result_is_written(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, progress=killer(10))
    done: list[int] = []
    train(tmp_path, progress=lambda number, total, **fields: done.append(number))
    assert not done
    assert (tmp_path / "dit.safetensors").read_bytes() == (whole / "dit.safetensors").read_bytes()


@pytest.mark.parametrize("micro", [1, 3, 8])
def test_passes_change_nothing(tmp_path: Path, whole: Path, micro: int) -> None:
    train(tmp_path, recipe(micro_batch=micro))
    assert_close(state(tmp_path), state(whole))
    for one, many in zip(rows(whole), rows(tmp_path), strict=True):
        assert many["loss"] == pytest.approx(one["loss"], rel=1e-4)
        assert many["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_probes_are_the_averages_of_their_steps(tmp_path: Path, whole: Path) -> None:
    for probe, steps in ((2.0, 4), (3.5, 7)):
        with pytest.raises(Killed):  # a checkpoint of the step itself
            train(tmp_path / str(probe), recipe(checkpoint_every=1, probes=()), progress=killer(steps))
        held = state(tmp_path / str(probe))
        average = {key.removeprefix("model/ema/"): held[key] for key in held if key.startswith("model/ema/")}
        assert_same_bits(load_file(whole / weights_name(probe)), average)


def test_a_probe_is_there_when_the_kill_falls_between_it_and_the_next_checkpoint(tmp_path: Path, whole: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path, progress=killer(7))  # the probe of step 7 is written, the last checkpoint is of step 4
    probe = tmp_path / "dit-3.5ep.safetensors"
    assert probe.exists()
    probe.unlink()  # as if the kill had come before
    train(tmp_path)
    assert probe.read_bytes() == (whole / probe.name).read_bytes()


def test_the_probe_of_a_checkpointed_step_is_written_before_the_checkpoint(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr("ovbench.harness.training.save_state", full)  # killed while the checkpoint of step 4 is written
        train(tmp_path)
    assert (tmp_path / "dit-2ep.safetensors").read_bytes() == (whole / "dit-2ep.safetensors").read_bytes()
    assert not (tmp_path / "dit.state.safetensors").exists()


def test_pictures_and_flips_depend_on_the_number_of_the_sample_alone(tmp_path: Path) -> None:
    def seen(name: str, **changes: Any) -> list[tuple[int, bool]]:
        found: list[tuple[int, bool]] = []

        def watched(indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
            found.extend((int(index), bool(flag)) for index, flag in zip(indices, mirrored, strict=True))
            return latents(indices, mirrored)

        train(tmp_path / name, recipe(**changes), latents=watched)
        return found

    first = seen("whole")
    assert seen("passes", micro_batch=3) == first
    assert seen("batches", batch_size=4, epochs=4.0) == first  # 5 steps of 4 an epoch: the same 80 samples
    assert sorted(index for index, _ in first[:COUNT]) == list(range(COUNT))  # an epoch is a permutation
    flips = [flag for _, flag in first]
    assert 20 < sum(flips) < 60
    assert not any(flag for _, flag in seen("plain", flips=False))


def test_a_nan_stops_with_the_last_checkpoint_and_names_the_log(tmp_path: Path) -> None:
    calls: list[int] = []

    def broken(indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
        calls.append(len(indices))
        return latents(indices, mirrored) * (float("nan") if len(calls) == 7 else 1.0)

    with pytest.raises(OvbenchError, match="nan at step 7 of dit") as caught:
        train(tmp_path, latents=broken)
    assert caught.value.where == str(tmp_path / "dit.log.jsonl")
    assert all(bool(value.isfinite().all()) for value in state(tmp_path).values())
    assert not (tmp_path / "dit.safetensors").exists()
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]


def test_bfloat16_trains_near_float32(tmp_path: Path, whole: Path) -> None:
    train(tmp_path, recipe(precision="bfloat16"))
    for low, wide in zip(rows(tmp_path), rows(whole), strict=True):
        assert low["loss"] == pytest.approx(wide["loss"], rel=0.02)
    assert [row["loss"] for row in rows(tmp_path)] != [row["loss"] for row in rows(whole)]
    assert all(value.dtype == torch.float32 for value in state(tmp_path).values())
    shapes = {key: value.shape for key, value in load_file(whole / "dit.safetensors").items()}
    assert {key: value.shape for key, value in load_file(tmp_path / "dit.safetensors").items()} == shapes


def steps_done(folder: Path, **arguments: Any) -> int:
    """Returns how many steps a call had to make after a training that was stopped at step 5."""
    with pytest.raises(Killed):
        train(folder, progress=killer(5))
    done: list[int] = []
    train(folder, progress=lambda number, total, **fields: done.append(number), **arguments)
    return len(done)


@pytest.mark.parametrize("changes", [{"checkpoint_every": 3}, {"log_every": 5}, {"micro_batch": 2}, {"probes": ()}])
def test_what_changes_no_weight_does_not_discard_a_checkpoint(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert steps_done(tmp_path, chosen=recipe(**changes)) == 6


@pytest.mark.parametrize(
    "arguments",
    [
        {"chosen": recipe(betas=(0.9, 0.99))},
        {"chosen": recipe(precision="bfloat16")},
        {"chosen": recipe(flips=False)},
        {"chosen": replace(recipe(), transport=replace(recipe().transport, shifted=False))},
        {"seed": 1},
        {"source": "other latents"},
    ],
    ids=["optimiser", "precision", "flips", "transport", "seed", "source"],
)
def test_a_checkpoint_of_another_training_is_not_continued(tmp_path: Path, arguments: dict[str, Any]) -> None:
    assert steps_done(tmp_path, **arguments) == 10


def test_the_identity_leaves_out_what_changes_no_weight() -> None:
    one, other = recipe().optimiser, recipe(checkpoint_every=7, log_every=9, micro_batch=2).optimiser
    assert identity_of(one) == identity_of(other)
    assert identity_of(one) != identity_of(recipe(clip_norm=None).optimiser)


def test_a_batch_that_cannot_be_split_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a batch of 8 cannot be split over 3 processes"):
        train(tmp_path, processes=Processes(world_size=3))
    assert not list(tmp_path.iterdir())


def test_latents_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="latents must be"):
        train(tmp_path, latents=lambda indices, mirrored: torch.zeros(len(indices), 4, 3, 3))


@pytest.mark.parametrize("micro", [None, 3])
def test_loading_ahead_changes_no_bit_and_leaves_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro: int | None
) -> None:
    train(tmp_path / "plain", recipe(micro_batch=micro))
    monkeypatch.setattr(train_dit_module, "LOADED_AHEAD", ("cpu",))
    names: set[str] = set()

    def watched(indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
        names.add(threading.current_thread().name.split("_")[0])
        return latents(indices, mirrored)

    with pytest.raises(Killed):
        train(tmp_path / "ahead", recipe(micro_batch=micro), latents=watched, progress=killer(6))
    train(tmp_path / "ahead", recipe(micro_batch=micro), latents=watched)
    assert names == {"MainThread", "prefetch"}
    assert_same_bits(state(tmp_path / "ahead"), state(tmp_path / "plain"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_an_error_of_loading_ahead_is_raised_at_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_dit_module, "LOADED_AHEAD", ("cpu",))
    calls: list[int] = []

    def broken(indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
        calls.append(len(indices))
        if len(calls) == 6:
            raise Killed
        return latents(indices, mirrored)

    with pytest.raises(Killed):
        train(tmp_path, latents=broken)
    assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_sharding_over_one_process_is_said_to_have_no_effect(
    tmp_path: Path, whole: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(tmp_path, sharding="fsdp2")
    assert "--sharding fsdp2 has no effect on one process" in caplog.text
    assert_same_bits(state(tmp_path), state(whole))
