"""The path between data and noise and the times on it, against the reference's tensors and plain formulas."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.flow_config import TransportConfig, time_shift
from ovbench.harness.generation.interpolants import (
    data_from_velocity,
    interpolate,
    shift_time,
    times_from_uniforms,
    velocity,
)
from tests.harness.generation.dit_golden import golden

FILE = golden("transport_tiny")
SHIFT = FILE.document["shift"]


def test_path_and_velocity_equal_the_reference() -> None:
    data, noise, t = FILE["in.x1"], FILE["in.x0"], FILE["in.t"]
    torch.testing.assert_close(interpolate(data, noise, t), FILE["out.xt"], rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(velocity(data, noise), FILE["out.ut"], rtol=1e-4, atol=5e-5)


def test_time_zero_is_data_and_time_one_is_noise() -> None:
    data, noise = FILE["in.x1"], FILE["in.x0"]
    assert torch.equal(interpolate(data, noise, torch.zeros(4)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(4)), noise)


def test_data_comes_back_from_any_point_of_the_path() -> None:
    data, noise, t = FILE["in.x1"], FILE["in.x0"], FILE["in.t"]
    again = data_from_velocity(interpolate(data, noise, t), velocity(data, noise), t)
    torch.testing.assert_close(again, data, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "config", "shifted"),
    [
        ("logitnormal_0_1", TransportConfig(), False),
        ("logitnormal_0_1_shift", TransportConfig(), True),
        ("uniform", TransportConfig(time_distribution="uniform"), False),
        ("uniform_shift", TransportConfig(time_distribution="uniform"), True),
        ("logitnormal_m0.5_0.8_shift", TransportConfig(time_mean=-0.5, time_std=0.8), True),
    ],
)
def test_times_equal_the_reference(name: str, config: TransportConfig, shifted: bool) -> None:
    times = times_from_uniforms(FILE["in.u"], config, SHIFT if shifted else 1.0)
    assert times.dtype == torch.float32
    torch.testing.assert_close(times, FILE[f"out.t_{name}"], rtol=1e-4, atol=5e-5)


def test_times_are_the_quantiles_of_the_truncated_normal() -> None:
    normal = statistics.NormalDist(-0.5, 0.8)
    highest = normal.cdf(math.log(0.999 / 0.001))
    uniforms = [0.01, 0.2, 0.5, 0.9, 0.999]
    expected = [1 / (1 + math.exp(-normal.inv_cdf(u * highest))) for u in uniforms]
    config = TransportConfig(time_mean=-0.5, time_std=0.8)
    assert times_from_uniforms(torch.tensor(uniforms), config, 1.0).tolist() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("distribution", ["logit-normal", "uniform"])
def test_all_draws_give_a_time_up_to_0999(distribution: str) -> None:
    config = replace(TransportConfig(), time_distribution=distribution)
    times = times_from_uniforms(torch.tensor([0.0, 1.0]), config, 1.0).tolist()
    assert times == pytest.approx([0.0, 0.999], abs=1e-7)


def test_draws_outside_zero_to_one_are_refused() -> None:
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ConfigError, match=r"the draws must be in \[0, 1\]"):
            times_from_uniforms(torch.tensor([0.5, wrong]), TransportConfig(), 1.0)


def test_median_time_of_dinov2_latents_is_the_published_one() -> None:
    (median,) = times_from_uniforms(torch.tensor([0.5]), TransportConfig(), SHIFT).tolist()
    assert median == pytest.approx(0.874, abs=1e-3)


def test_shifts_equal_the_reference() -> None:
    shifts = [time_shift(dims.tolist()) for dims in FILE["in.latent_dims"]]
    assert shifts == pytest.approx(FILE["out.shift_base4096"].tolist(), rel=1e-12)
    moved = torch.stack([shift_time(FILE["in.t_grid"], shift) for shift in shifts])
    torch.testing.assert_close(moved, FILE["out.t_shifted"], rtol=1e-5, atol=1e-6)


def test_shift_follows_the_latent_and_the_base() -> None:
    assert TransportConfig().shift_of((768, 16, 16)) == pytest.approx(6.928, abs=1e-3)
    mini = TransportConfig(shift_base=512)
    assert mini.shift_of((128, 4, 4)) == 2.0
    assert mini.shift_of((8, 8, 8)) == 1.0
    assert TransportConfig(shifted=False).shift_of((8, 8, 8)) == 1.0


def test_shift_below_one_is_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        TransportConfig().shift_of((128, 4, 4))
    assert caught.value.what == "latents of 128 x 4 x 4 would have the time shift 0.707, and it must not be below 1"
    assert caught.value.where == "transport.shift_base"
    assert caught.value.fix == "set shift_base to at most 2048, or shifted to false"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"time_distribution": "beta"}, "unknown time_distribution 'beta'"),
        ({"time_std": 0.0}, "time_mean must be finite and time_std positive, got 0.0 and 0.0"),
        ({"shift_base": 0}, "shift_base must be a whole number from 1, got 0"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        replace(TransportConfig(), **changes)
    assert caught.value.what == text
