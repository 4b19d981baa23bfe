"""Learning rates pinned by the reference, and the moving average."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.flow_config import EMAConfig, ScheduleConfig
from ovbench.harness.generation.schedules import EMA, learning_rate
from tests.conftest import GOLDEN

PINNED = json.loads((GOLDEN / "rae_misc.json").read_text(encoding="utf-8"))["lr"]


def config_of(fields: dict[str, object]) -> ScheduleConfig:
    return replace(ScheduleConfig(), kind=fields["type"], **{key: fields[key] for key in fields if key != "type"})


@pytest.mark.parametrize("name", [key for key in PINNED if key != "note"])
def test_learning_rate_is_the_pinned_one_at_every_step(name: str) -> None:
    config = config_of(PINNED[name]["config"])
    for step, expected in PINNED[name]["values"]:
        assert learning_rate(step, config, 10) == pytest.approx(expected, rel=1e-9)


def test_default_schedule_is_that_of_stage_two() -> None:
    assert ScheduleConfig() == config_of(PINNED["stage2_linear"]["config"])


def test_constant_rate_stays_after_the_warm_up() -> None:
    config = ScheduleConfig(kind="constant", base_lr=0.1, warmup_epochs=2, warmup_from_zero=True)
    assert [learning_rate(step, config, 2) for step in range(6)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1, 0.1])


def test_no_warm_up_begins_at_the_peak() -> None:
    config = ScheduleConfig(kind="cosine", warmup_epochs=0, decay_end_epoch=1, warmup_from_zero=True)
    assert learning_rate(0, config, 4) == config.base_lr
    assert learning_rate(2, config, 4) == pytest.approx((config.base_lr + config.final_lr) / 2)
    assert learning_rate(4, config, 4) == pytest.approx(config.final_lr)


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"kind": "step"}, "unknown kind 'step'"),
        ({"base_lr": 0.0}, "base_lr must be positive and final_lr at least 0, got 0.0 and 2e-05"),
        ({"warmup_epochs": -1.0}, "warmup_epochs must be at least 0, got -1.0"),
        ({"decay_end_epoch": 30.0}, "the decay ends at epoch 30, which is not after the warm-up of 40"),
    ],
)
def test_impossible_schedules_are_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(ScheduleConfig(), **fields)
    assert caught.value.what == text


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="got -1 and 10"):
        learning_rate(-1, ScheduleConfig(), 10)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 3)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x))


def network() -> Net:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net()


def test_average_follows_its_formula_step_by_step() -> None:
    live = network()
    average = EMA(live, EMAConfig(decay=0.9))
    expected = live.linear.weight.detach().clone()
    for step in range(3):
        with torch.no_grad():
            live.linear.weight.add_(1.0)
        average.update(step)
        expected = 0.9 * expected + 0.1 * live.linear.weight.detach()
        torch.testing.assert_close(average.module.linear.weight, expected)


def test_warm_up_lets_early_steps_count_more() -> None:
    config = EMAConfig(decay=0.99, warmup=True)
    assert [config.decay_at(step) for step in (0, 1, 90)] == pytest.approx([1 / 10, 2 / 11, 91 / 100])
    assert config.decay_at(10_000) == 0.99
    assert EMAConfig().decay_at(0) == 0.9995


def test_average_is_frozen_and_apart_from_the_live_weights() -> None:
    live = network().train()
    average = EMA(live, EMAConfig(decay=0.5))
    assert not average.module.training
    assert not any(p.requires_grad for p in average.module.parameters())
    before = average.module.linear.weight.clone()
    with torch.no_grad():
        live.linear.weight.add_(1.0)
    assert torch.equal(average.module.linear.weight, before)
    assert live.training
    assert all(p.requires_grad for p in live.parameters())


def test_buffers_are_copied() -> None:
    live = network().train()
    average = EMA(live, EMAConfig())
    live(torch.ones(4, 2))
    average.update(0)
    copied, own = dict(average.module.named_buffers()), dict(live.named_buffers())
    assert int(own["norm.num_batches_tracked"]) == 1
    assert all(torch.equal(copied[name], value) for name, value in own.items())


def test_equal_weights_stay_as_they_are_to_the_bit() -> None:
    live = network()
    average = EMA(live, EMAConfig())
    for step in range(5):
        average.update(step)
    assert all(torch.equal(a, b) for a, b in zip(average.module.parameters(), live.parameters(), strict=True))


def test_wrapped_module_is_refused() -> None:
    with pytest.raises(ConfigError, match="the average is taken of a plain module, got a OptimizedModule"):
        EMA(torch.compile(network()), EMAConfig())  # pyright: ignore[reportArgumentType]


def test_impossible_decay_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"the decay must be in \[0, 1\), got 1.0"):
        EMAConfig(decay=1.0)
