"""The training loop: resume is exact, schedules are what they say, a broken loss stops it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.seeding import torch_generator
from ovbench.harness.training import LoopConfig, train_loop

CONFIG = LoopConfig(steps=12, lr=0.05, warmup_steps=2, checkpoint_every=5, log_every=2)


class Killed(Exception):
    pass


def run(
    folder: Path, *, stop_after: int | None = None, config: LoopConfig = CONFIG, recipe: str = "a"
) -> torch.nn.Module:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))

    def losses(step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(16, 4, generator=torch_generator(0, "x", step))
        error = (model(x) - x.sum(dim=1, keepdim=True)).square().mean()
        return {"loss": error, "twice": 2 * error}

    def after_step(done: int) -> None:
        if done == stop_after:
            raise Killed

    train_loop(
        modules={"m": model},
        losses=losses,
        config=config,
        folder=folder,
        name="fit",
        recipe=recipe,
        after_step=after_step,
    )
    return model


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("stop_after", [3, 5, 7, 11])
def test_killed_and_continued_gives_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    whole = state(run(tmp_path / "whole"))
    with pytest.raises(Killed):
        run(tmp_path / "parts", stop_after=stop_after)
    parts = state(run(tmp_path / "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_the_log_of_a_continued_run_has_every_row_once(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run(tmp_path, stop_after=7)
    run(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "fit.log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == sorted({row["step"] for row in rows})
    assert rows[-1]["step"] == 12
    assert all(row["twice"] == pytest.approx(2 * row["loss"], rel=1e-5) for row in rows)


def test_the_loss_falls(tmp_path: Path) -> None:
    run(tmp_path, config=LoopConfig(steps=60, lr=0.05, log_every=10))
    rows = [json.loads(line) for line in (tmp_path / "fit.log.jsonl").read_text().splitlines()]
    assert rows[-1]["loss"] < 0.3 * rows[0]["loss"]


def test_a_checkpoint_of_another_recipe_is_not_used(tmp_path: Path) -> None:
    first = state(run(tmp_path, recipe="a"))
    other = LoopConfig(steps=1, lr=1e-9)
    fresh = state(run(tmp_path, recipe="b", config=other))
    assert not torch.equal(first["0.weight"], fresh["0.weight"])


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    whole = state(run(tmp_path))
    again = state(run(tmp_path, stop_after=1))
    assert all(torch.equal(whole[key], again[key]) for key in whole)


def test_a_nan_loss_stops_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    weight = torch.nn.Linear(1, 1)

    def losses(step: int) -> dict[str, torch.Tensor]:
        return {"loss": weight(torch.ones(1, 1)).sum() * (float("nan") if step == 7 else 1.0)}

    with pytest.raises(OvbenchError, match="nan at step 8"):
        train_loop(modules={"m": weight}, losses=losses, config=CONFIG, folder=tmp_path, name="fit", recipe="a")
    assert (tmp_path / "fit.state.safetensors").is_file()


def test_warm_up_then_cosine_to_zero() -> None:
    config = LoopConfig(steps=100, lr=1.0, warmup_steps=10)
    assert config.lr_at(0) == pytest.approx(0.1)
    assert config.lr_at(9) == config.lr_at(10) == 1.0
    assert config.lr_at(55) == pytest.approx(0.5)
    assert config.lr_at(99) < 0.001
    assert LoopConfig(steps=100, lr=1.0, schedule="constant").lr_at(99) == 1.0


@pytest.mark.parametrize("fields", [{"steps": 0}, {"lr": 0.0}, {"checkpoint_every": 0}])
def test_schedules_that_make_no_sense_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LoopConfig(**{"steps": 1, "lr": 1.0, **fields})  # pyright: ignore[reportArgumentType]


def test_an_infinite_gradient_is_never_applied(tmp_path: Path) -> None:
    weight = torch.nn.Linear(1, 1)

    def losses(step: int) -> dict[str, torch.Tensor]:
        value = weight(torch.ones(1, 1)).sum()
        return {"loss": value if step < 3 else (value - value.detach()).abs().sqrt()}  # d sqrt(0) is infinite

    with pytest.raises(OvbenchError, match="gradient became"):
        train_loop(modules={"m": weight}, losses=losses, config=CONFIG, folder=tmp_path, name="fit", recipe="a")
    assert all(bool(value.isfinite().all()) for value in weight.parameters())


def test_a_damaged_checkpoint_is_set_aside_and_training_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = state(run(tmp_path / "whole"))
    with pytest.raises(Killed):
        run(tmp_path / "parts", stop_after=7)
    path = tmp_path / "parts" / "fit.state.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    parts = state(run(tmp_path / "parts"))
    assert "is damaged" in caplog.text
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
