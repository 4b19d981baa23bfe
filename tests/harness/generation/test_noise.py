from __future__ import annotations

import math

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder_config import NoiseConfig
from ovbench.harness.generation.latent_stats import LatentStats
from ovbench.harness.generation.noise import add_noise, noise_latents, sigma_of
from tests.harness.generation.rae_data import assert_golden, golden, golden_names, randn


@pytest.mark.parametrize("name", golden_names("rae_decoder"))
def test_noise_goes_on_tokens_before_the_statistics(name: str) -> None:
    case = golden(name)
    draws = case.tensors["in.noise_u"]
    sigma = sigma_of(draws, NoiseConfig(tau=case.config["tau"]))
    noised = add_noise(case.tensors["out.encoder_tokens"], sigma, case.tensors["in.noise_n"])
    mean, var = case.tensors["in.latent_mean"], case.tensors["in.latent_var"]
    stats = LatentStats(mean=mean, var=var, eps=case.config["eps"], encoder="e")
    expected = case.tensors["out.encode_noised"]
    assert_golden(stats.normalise(noised.transpose(1, 2).reshape(expected.shape)), expected)


def test_noise_depends_on_seed_and_index_alone() -> None:
    config, latents = NoiseConfig(), randn(6, 3, 2, 2)
    whole = noise_latents(latents, range(6), 5, config)
    for size in (1, 2, 4):
        parts = [noise_latents(latents[i : i + size], range(6)[i : i + size], 5, config) for i in range(0, 6, size)]
        assert torch.equal(torch.cat(parts), whole)
    backwards = noise_latents(latents.flip(0), list(range(6))[::-1], 5, config)
    assert torch.equal(backwards.flip(0), whole)
    assert not torch.equal(noise_latents(latents, range(6), 6, config), whole)
    assert not torch.equal(noise_latents(latents, range(1, 7), 5, config), whole)


def test_the_callers_generator_is_left_alone() -> None:
    before = torch.random.get_rng_state()
    noise_latents(randn(2, 3, 2, 2), [0, 1], 0, NoiseConfig())
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize(("kind", "rms"), [("uniform", 0.8 / math.sqrt(3)), ("halfnormal", 0.8)])
def test_levels_have_the_stated_distribution(kind: str, rms: float) -> None:
    count = 2000
    config = NoiseConfig(tau=0.8, kind=kind)  # pyright: ignore[reportArgumentType]
    noise = noise_latents(torch.zeros(count, 1024), range(count), 0, config)
    levels = noise.square().mean(dim=1).sqrt()  # of each picture, up to a few per cent
    assert float(levels.square().mean().sqrt()) == pytest.approx(rms, rel=0.05)
    largest = float(levels.max())
    assert largest < 1.1 * 0.8 if kind == "uniform" else largest > 2.0
    mean = 0.4 if kind == "uniform" else 0.8 * math.sqrt(2 / math.pi)
    assert float(levels.mean()) == pytest.approx(mean, rel=0.05)


def test_one_level_serves_a_whole_picture() -> None:
    noise = noise_latents(torch.zeros(40, 50, 10, 10), range(40), 0, NoiseConfig())
    halves = noise.flatten(1).unflatten(1, (2, -1)).square().mean(dim=2).sqrt()
    torch.testing.assert_close(halves[:, 0], halves[:, 1], rtol=0.1, atol=0.0)
    assert float(halves.std()) > 0.1


def test_tau_zero_changes_nothing() -> None:
    latents = randn(2, 3, 2, 2)
    assert noise_latents(latents, [0, 1], 0, NoiseConfig(tau=0.0)) is latents


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 latents have 1 indices"):
        noise_latents(randn(2, 3, 2, 2), [0], 0, NoiseConfig())
    with pytest.raises(ConfigError, match=r"noise \[2, 4\] and levels \[2\] do not fit latents \[2, 3\]"):
        add_noise(torch.zeros(2, 3), torch.zeros(2), torch.zeros(2, 4))


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="tau must be 0 or more, got -0.1"):
        NoiseConfig(tau=-0.1)
    with pytest.raises(ConfigError, match="unknown noise kind 'normal'"):
        NoiseConfig(kind="normal")  # pyright: ignore[reportArgumentType]
