from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import write_json
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.understanding import train as training
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.conversation import Tokenized
from ovbench.harness.understanding.llava import build_llava, splice
from ovbench.harness.understanding.losses import Pass, TokenLoss, num_learnt, passes_of, scales
from tests.harness.understanding.llava_training import (
    DIM,
    config,
    largest_difference,
    open_tree,
    tokens,
    train,
    turn,
    write_tree,
)

STAGE = StageConfig(steps=1, batch_size=16, lr=1.0, template="v1", micro_batch=4)


def shape(passes: list[Pass]) -> list[tuple[int, int, int]]:
    return [(item.places.start, item.places.stop, item.group) for item in passes]


def test_passes_are_the_micro_batches() -> None:
    assert shape(passes_of(STAGE, range(16), pass_size=None)) == [(0, 4, 0), (4, 8, 1), (8, 12, 2), (12, 16, 3)]


def test_a_share_may_cut_a_micro_batch() -> None:
    whole = replace(STAGE, micro_batch=None)
    assert shape(passes_of(whole, range(8, 16), pass_size=None)) == [(8, 16, 0)]
    assert shape(passes_of(STAGE, range(6, 12), pass_size=None)) == [(6, 8, 1), (8, 12, 2)]


def test_smaller_passes_stay_inside_their_group() -> None:
    assert shape(passes_of(STAGE, range(8), pass_size=3)) == [(0, 3, 0), (3, 4, 0), (4, 7, 1), (7, 8, 1)]
    summed = replace(STAGE, loss_normalisation="global_tokens")
    assert shape(passes_of(summed, range(8), pass_size=3)) == [(0, 3, 0), (3, 6, 0), (6, 8, 0)]


def test_each_pass_is_divided_by_the_tokens_of_its_group_and_the_groups_in_use() -> None:
    passes = passes_of(STAGE, range(12), pass_size=2)
    assert scales(passes, [3, 2, 0, 0, 7, 1], 3, ALONE) == [10.0, 10.0, 2.0, 2.0, 16.0, 16.0]


def test_a_batch_that_teaches_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no token of this batch is learnt"):
        scales(passes_of(STAGE, range(16), pass_size=None), [0, 0, 0, 0], 4, ALONE)


def sample(*, learnt: bool, pictured: bool) -> Tokenized:
    ids = (1, 5, 6, 7)
    return Tokenized(
        ids=ids, labels=(-100, -100, *((6, 7) if learnt else (-100, -100))), image_at=1 if pictured else None
    )


@pytest.mark.parametrize(("learnt", "pictured"), [(True, False), (False, True), (False, False), (True, True)])
def test_every_parameter_has_a_gradient_after_every_pass(toy_language_model: str, learnt: bool, pictured: bool) -> None:
    model = build_llava(LlavaConfig(language_model=toy_language_model), DIM, seed=0)
    visual = tokens(["a"]) if pictured else None
    batch = splice([sample(learnt=learnt, pictured=pictured)], num_visual=4 * pictured, pad=0, max_length=99)
    assert num_learnt(batch) == 2 * learnt
    total = TokenLoss(model, autocast=False)(batch, visual)
    total.backward()
    assert (total.item() > 0) == learnt
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    moved = any(float(parameter.grad.abs().max()) > 0 for parameter in model.projector.parameters())  # type: ignore[union-attr]
    assert moved == (learnt and pictured)


def test_smaller_passes_give_the_same_weights(toy_language_model: str, tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    for normalisation in ("micro_batch", "global_tokens"):
        recipe = config(toy_language_model, both={"loss_normalisation": normalisation})
        whole = train(tmp_path / f"{normalisation}-whole", data, recipe, stage=2)
        parts = train(tmp_path / f"{normalisation}-parts", data, recipe, stage=2, pass_size=1)
        assert largest_difference(whole, parts) < 2e-4


def test_gradient_checkpointing_gives_the_same_bits(toy_language_model: str, tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    for stage in (1, 2):
        kept = train(tmp_path / "kept", data, config(toy_language_model), stage=stage)
        twice = train(tmp_path / "twice", data, config(toy_language_model, gradient_checkpointing=True), stage=stage)
        assert twice.read_bytes() == kept.read_bytes()


def test_what_a_thread_loads_ahead_is_what_is_loaded_on_time(
    toy_language_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tree(tmp_path / "data")
    on_time = train(tmp_path / "on time", data, config(toy_language_model), stage=2)
    monkeypatch.setattr(training, "_AHEAD", ("cpu",))
    ahead = train(tmp_path / "ahead", data, config(toy_language_model), stage=2)
    assert ahead.read_bytes() == on_time.read_bytes()


def test_a_batch_that_cannot_be_split_is_refused(toy_language_model: str, tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    with pytest.raises(ConfigError, match="a batch of 8 cannot be split over 3 processes"):
        train(tmp_path, data, config(toy_language_model), stage=2, processes=Processes(world_size=3))


def test_shards_on_one_process_are_said_to_do_nothing(
    toy_language_model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = write_tree(tmp_path / "data")
    train(tmp_path, data, config(toy_language_model, steps=1), stage=1, sharding="fsdp2")
    assert "has no effect on one process" in caplog.text


def test_a_missing_image_ends_the_training_with_its_name(toy_language_model: str, tmp_path: Path) -> None:
    """Where no preflight was made: never a black picture."""
    write_tree(tmp_path / "data")
    (tmp_path / "data" / "a" / "0004.png").unlink()
    data = open_tree(tmp_path / "data")

    def looks(image_ids: list[str]) -> torch.Tensor:
        for image_id in image_ids:
            data.image(image_id)
        return tokens(image_ids)

    with pytest.raises(DataError, match=r"'0004\.png' is missing"):
        training.train_llava(
            looks,  # type: ignore[arg-type]
            dim=DIM,
            data=data,
            config=config(toy_language_model),
            seed=0,
            folder=tmp_path,
            stage=1,
        )


def test_a_bad_row_ends_the_training_with_its_number(toy_language_model: str, tmp_path: Path) -> None:
    write_tree(tmp_path / "data")
    row = {"id": "1", "image": "a/0000.png", "conversations": [turn("user", "<image>"), turn("gpt", "a")]}
    write_json(tmp_path / "data" / "one.json", [row])
    with pytest.raises(DataError, match="row 1 cannot be trained on: unknown role"):
        train(tmp_path, open_tree(tmp_path / "data"), config(toy_language_model), stage=1)


def test_a_full_disk_ends_the_training_and_loses_nothing(
    toy_language_model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_tree(tmp_path / "data")
    whole = train(tmp_path / "whole", data, config(toy_language_model), stage=2)
    real, calls = os.replace, []

    def full(source: str, target: Path) -> None:
        if Path(target).name == "stage2.state.safetensors":
            calls.append(target)
            if len(calls) == 2:
                raise OSError(errno.ENOSPC, "no space left on device")
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(ConfigError, match="no space left on the device"):
            train(tmp_path / "cut", data, config(toy_language_model), stage=2)
    assert {path.name for path in (tmp_path / "cut").iterdir()} == {"stage2.state.safetensors", "stage2.log.jsonl"}
    steps: list[int] = []
    path = train(
        tmp_path / "cut",
        data,
        config(toy_language_model),
        stage=2,
        progress=lambda done, total, **fields: steps.append(done),
    )
    assert steps == [3, 4, 5, 6]
    assert path.read_bytes() == whole.read_bytes()
