"""Training with two optimisers: each moves its own weights in its own steps, and both go on after a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import OvbenchError
from ovbench._base.seeding import torch_generator
from ovbench.harness.training import LoopConfig, Optimised, train_parts, trainable

CONFIG = LoopConfig(steps=9, lr=0.05, checkpoint_every=4, log_every=3)


class Killed(Exception):
    pass


class Pair:
    """Two linear maps: the first learns a target, the second learns the first."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Linear(3, 1), torch.nn.Linear(3, 1)
        self.average = torch.nn.Linear(3, 1).requires_grad_(False)
        self.seen: list[tuple[str, int]] = []

    def batch(self, step: int) -> torch.Tensor:
        return torch.randn(8, 3, generator=torch_generator(0, "x", step))

    def learn_first(self, step: int) -> dict[str, torch.Tensor]:
        self.seen.append(("first", step))
        x = self.batch(step)
        loss = (self.first(x) - x.sum(dim=1, keepdim=True)).square().mean()
        loss.backward()
        return {"loss": loss}

    def learn_second(self, step: int) -> dict[str, torch.Tensor]:
        self.seen.append(("second", step))
        x = self.batch(step)
        loss = (self.second(x) - self.first(x).detach()).square().mean()
        loss.backward()
        return {"chase": loss}

    def move_average(self, done: int) -> None:
        del done
        with torch.no_grad():
            self.average.weight.lerp_(self.first.weight, 0.5)

    def train(self, folder: Path, *, stop_after: int | None = None, config: LoopConfig = CONFIG) -> None:
        def after_step(done: int) -> None:
            if done == stop_after:
                raise Killed

        train_parts(
            modules={"first": self.first, "second": self.second, "average": self.average},
            parts=(
                Optimised(
                    config=config,
                    parameters=trainable({"first": self.first}),
                    lr_at=lambda step: 0.05,
                    backward=self.learn_first,
                ),
                Optimised(
                    config=replace(config, betas=(0.5, 0.9)),
                    parameters=trainable({"second": self.second}),
                    lr_at=lambda step: 0.02,
                    backward=self.learn_second,
                    active=lambda step: step >= 3,
                    loss="chase",
                ),
            ),
            config=config,
            folder=folder,
            name="pair",
            recipe="r",
            before_save=self.move_average,
            after_step=after_step,
        )

    def state(self) -> dict[str, torch.Tensor]:
        modules = {"first": self.first, "second": self.second, "average": self.average}
        return {f"{name}.{key}": value for name, m in modules.items() for key, value in m.state_dict().items()}


@pytest.mark.parametrize("stop_after", [2, 4, 6])
def test_both_go_on_after_a_kill_with_the_same_bits(tmp_path: Path, stop_after: int) -> None:
    whole = Pair()
    whole.train(tmp_path / "whole")
    with pytest.raises(Killed):
        Pair().train(tmp_path / "parts", stop_after=stop_after)
    parts = Pair()
    parts.train(tmp_path / "parts")
    assert all(torch.equal(value, parts.state()[key]) for key, value in whole.state().items())


def test_each_is_moved_in_its_own_steps(tmp_path: Path) -> None:
    pair = Pair()
    before = pair.second.weight.clone()
    pair.train(tmp_path, config=replace(CONFIG, steps=3))
    assert torch.equal(before, pair.second.weight)
    assert pair.seen == [("first", 0), ("first", 1), ("first", 2)]
    other = Pair()
    other.train(tmp_path / "longer")
    assert not torch.equal(before, other.second.weight)
    assert other.seen[3:5] == [("first", 3), ("second", 3)]


def test_the_log_holds_the_losses_of_both(tmp_path: Path) -> None:
    Pair().train(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "pair.log.jsonl").read_text().splitlines()]
    assert ["chase" in row for row in rows] == [False, True, True]
    assert all({"loss", "lr", "grad_norm"} <= set(row) for row in rows)


def test_a_loss_of_the_second_that_breaks_stops_all(tmp_path: Path) -> None:
    pair = Pair()
    healthy = pair.learn_second

    def broken(step: int) -> dict[str, torch.Tensor]:
        found = healthy(step)
        return {"chase": found["chase"] * float("nan")} if step == 6 else found

    pair.learn_second = broken  # type: ignore[method-assign]
    with pytest.raises(OvbenchError, match="the term 'chase' became nan at step 7 of pair"):
        pair.train(tmp_path)
    assert (tmp_path / "pair.state.safetensors").is_file()


def test_how_often_it_is_saved_does_not_make_it_another_run(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        Pair().train(tmp_path, stop_after=6)
    pair = Pair()
    pair.train(tmp_path, config=replace(CONFIG, checkpoint_every=2, log_every=1))
    assert pair.seen[0] == ("first", 4)
