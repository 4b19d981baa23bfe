from __future__ import annotations

import json
import runpy
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.health import (
    channel_scale,
    drift,
    effective_rank,
    latent_health,
    noise_sensitivity,
    token_covariance,
)
from ovbench.harness.generation.latent_stats import compute_stats
from ovbench.harness.generation.rae import RAE
from tests.harness.generation.rae_data import patch_encoder, pictures, randn, small_decoder

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "latents.py")))


def test_scale_of_a_channel_is_that_of_obvious_code() -> None:
    latents = randn(6, 4, 3, 3) * torch.tensor([0.1, 1.0, 2.0, 5.0]).view(1, 4, 1, 1) + 3.0
    np.testing.assert_allclose(channel_scale(latents).numpy(), ORACLE.channel_scale(latents.numpy()), rtol=1e-9)


def test_effective_rank_is_that_of_obvious_code() -> None:
    latents = randn(20, 5, 3, 3) @ randn(3, 3, seed=1)
    covariance = token_covariance(latents)
    rows = latents.permute(0, 2, 3, 1).reshape(-1, 5).double().numpy()
    np.testing.assert_allclose(covariance.numpy(), np.cov(rows, rowvar=False), rtol=1e-9)
    assert effective_rank(covariance) == pytest.approx(ORACLE.effective_rank(covariance.numpy()), rel=1e-9)


@pytest.mark.parametrize(
    ("values", "rank"), [([1.0, 1.0, 1.0, 1.0], 4.0), ([7.0, 0.0, 0.0, 0.0], 1.0), ([3.0, 3.0, 0.0, 0.0], 2.0)]
)
def test_effective_rank_counts_equal_directions(values: list[float], rank: float) -> None:
    assert effective_rank(torch.diag(torch.tensor(values))) == pytest.approx(rank, rel=1e-6)
    assert effective_rank(1e-3 * torch.diag(torch.tensor(values))) == pytest.approx(rank, rel=1e-6)  # scale-free


def test_latents_that_do_not_vary_have_no_rank() -> None:
    with pytest.raises(DataError, match="the latents do not vary at all"):
        effective_rank(torch.zeros(3, 3))
    with pytest.raises(DataError, match=r"must be a finite \[C, C\], got \[2, 3\]"):
        effective_rank(torch.zeros(2, 3))


def test_a_linear_decoder_is_as_sensitive_as_its_gain() -> None:
    latents, gain = randn(8, 3, 20, 20), 2.5
    found = noise_sensitivity(lambda z: gain * z, latents, (0.1, 1.0), seed=0)
    torch.testing.assert_close(found, torch.full((2, 8), gain, dtype=torch.float64), rtol=0.08, atol=0.0)
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=0.0)  # the same noise at each level
    deaf = noise_sensitivity(lambda z: torch.zeros_like(z), latents, (0.1,), seed=0)
    assert not deaf.any()


def test_sensitivity_of_a_picture_depends_on_its_index_alone() -> None:
    latents = randn(4, 3, 4, 4)
    whole = noise_sensitivity(torch.tanh, latents, (0.5,), seed=3)
    part = noise_sensitivity(torch.tanh, latents[2:], (0.5,), seed=3, indices=[2, 3])
    torch.testing.assert_close(part, whole[:, 2:])
    assert not torch.equal(noise_sensitivity(torch.tanh, latents, (0.5,), seed=4), whole)


def test_levels_and_indices_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"noise levels must be positive, got \[0.0\]"):
        noise_sensitivity(torch.tanh, randn(1, 1, 2, 2), (0.0,), seed=0)
    with pytest.raises(ConfigError, match="1 latents have 2 indices"):
        noise_sensitivity(torch.tanh, randn(1, 1, 2, 2), (1.0,), seed=0, indices=[0, 1])


def test_a_lossless_pair_does_not_drift() -> None:
    latents = randn(3, 2, 4, 4)
    none = drift(lambda x: x / 2.0, lambda z: 2.0 * z, latents)
    torch.testing.assert_close(none.relative, torch.zeros(3, dtype=torch.float64), rtol=0, atol=1e-7)
    torch.testing.assert_close(none.cosine, torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-7)


@pytest.mark.parametrize(("factor", "relative", "cosine"), [(3.0, 2.0, 1.0), (0.5, 0.5, 1.0), (-1.0, 2.0, -1.0)])
def test_drift_is_relative_to_the_latent(factor: float, relative: float, cosine: float) -> None:
    moved = drift(lambda x: factor * x, lambda z: z, randn(2, 2, 4, 4))
    assert moved.relative.tolist() == pytest.approx([relative] * 2, rel=1e-6)
    assert moved.cosine.tolist() == pytest.approx([cosine] * 2, rel=1e-6)


def test_drift_that_cannot_be_stated_is_refused() -> None:
    with pytest.raises(DataError, match="a latent is 0 everywhere"):
        drift(lambda x: x, lambda z: z, torch.zeros(1, 2, 2, 2))
    with pytest.raises(DataError, match=r"\[1, 2, 4, 4\] came back as \[1, 2, 2, 2\]"):
        drift(lambda x: x[..., ::2, ::2], lambda z: z, randn(1, 2, 4, 4))


def test_figures_of_an_autoencoder_go_into_a_record() -> None:
    encoder, images = patch_encoder(), pictures(12)
    rae = RAE(encoder, small_decoder(), compute_stats(encoder, [images], data="x", flips=False))
    health = latent_health(rae.encode, rae.decode, rae.encode(images), sigmas=(0.1, 0.5), seed=1)
    assert health.num_pictures == 12
    assert health.num_channels == 6
    assert 0.9 < health.scale_min <= health.scale_median <= health.scale_max < 1.1  # normalised
    assert 1.0 < health.effective_rank < 6.0
    assert list(health.sensitivity) == ["0.1", "0.5"]
    assert all(value > 0.0 for value in health.sensitivity.values())
    assert health.drift_relative > 0.1  # an untrained decoder loses the latent
    assert json.loads(json.dumps(asdict(health)))["drift_cosine"] == health.drift_cosine
    assert latent_health(rae.encode, rae.decode, rae.encode(images), seed=1) == health


def test_what_is_no_batch_of_latents_is_refused() -> None:
    with pytest.raises(DataError, match=r"latents must be \[B, C, h, w\], got \[2, 3\]"):
        channel_scale(torch.zeros(2, 3))
