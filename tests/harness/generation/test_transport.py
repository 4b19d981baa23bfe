"""The loss of stage 2 against the reference's, from given and from indexed draws."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.config import LightningDiTConfig
from ovbench.harness.generation.draws import TrainingDraws, training_draws
from ovbench.harness.generation.flow_config import TransportConfig
from ovbench.harness.generation.interpolants import interpolate, velocity
from ovbench.harness.generation.network_weights import build_network
from ovbench.harness.generation.transport import transport_loss, velocity_loss
from tests.harness.generation.dit_golden import golden

FILE = golden("transport_tiny")
PLAIN = TransportConfig(time_distribution="uniform", shifted=False)


def given_draws() -> TrainingDraws:
    """The file's own times: uniforms that become them, and no dropped label."""
    return TrainingDraws(
        uniforms=FILE["in.t"].double() / 0.999, drop=torch.zeros(4, dtype=torch.bool), noise=FILE["in.x0"]
    )


def test_prediction_loss_and_its_mean_equal_the_reference() -> None:
    network = FILE.network()
    predicted = network(FILE["out.xt"], FILE["in.t"], FILE["in.y"])
    torch.testing.assert_close(predicted, FILE["out.pred"], rtol=1e-4, atol=5e-5)
    per_image = velocity_loss(predicted, FILE["out.ut"])
    torch.testing.assert_close(per_image, FILE["out.loss_per_sample"], rtol=1e-4, atol=5e-5)
    torch.testing.assert_close(per_image.mean(), FILE["out.loss"][0], rtol=1e-4, atol=5e-5)


def test_gradients_of_the_loss_equal_the_reference() -> None:
    network, draws = FILE.network(), given_draws()
    # 0.9995 of the file is above the highest time, so the times go in as they are.
    predicted = network(interpolate(FILE["in.x1"], draws.noise, FILE["in.t"]), FILE["in.t"], FILE["in.y"])
    velocity_loss(predicted, velocity(FILE["in.x1"], draws.noise)).mean().backward()
    parameters = dict(network.named_parameters())
    expected = FILE.group("out.grad.")
    assert expected
    for key, value in expected.items():
        gradient = parameters[key].grad
        assert gradient is not None
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=5e-5)


def test_transport_loss_is_that_of_its_own_draws() -> None:
    network, data, labels = FILE.network(), FILE["in.x1"], FILE["in.y"]
    draws = replace(given_draws(), uniforms=torch.tensor([0.03, 0.4, 0.874, 0.99]))
    result = transport_loss(network, data, labels, draws, PLAIN)
    times = torch.tensor([0.03, 0.4, 0.874, 0.99]) * 0.999
    torch.testing.assert_close(result.times, times)
    predicted = network(interpolate(data, draws.noise, times), times, labels)
    torch.testing.assert_close(result.per_image, velocity_loss(predicted, velocity(data, draws.noise)))
    assert torch.equal(result.loss, result.per_image.mean())


def test_transport_loss_shifts_times_by_the_size_of_the_latents() -> None:
    config = replace(PLAIN, shifted=True, shift_base=48)  # latents of 192 numbers: the shift is 2
    draws = replace(given_draws(), uniforms=torch.full((4,), 0.5))
    times = transport_loss(FILE.network(), FILE["in.x1"], FILE["in.y"], draws, config).times
    torch.testing.assert_close(times, torch.full((4,), 2 * 0.4995 / (1 + 0.4995)))


def test_dropped_labels_change_only_their_images() -> None:
    network, labels = FILE.network(), FILE["in.y"]
    draws = replace(given_draws(), uniforms=torch.full((4,), 0.5))
    kept = transport_loss(network, FILE["in.x1"], labels, draws, PLAIN)
    dropped = replace(draws, drop=torch.tensor([False, True, False, True]))
    some = transport_loss(network, FILE["in.x1"], labels, dropped, PLAIN)
    nulls = torch.where(dropped.drop, network.null_label, labels)
    torch.testing.assert_close(some.per_image, transport_loss(network, FILE["in.x1"], nulls, draws, PLAIN).per_image)
    torch.testing.assert_close(some.per_image[::2], kept.per_image[::2])
    assert not torch.isclose(some.per_image[1::2], kept.per_image[1::2]).any()


def test_network_without_null_label_trains_when_nothing_is_dropped() -> None:
    config = LightningDiTConfig(
        input_size=4, in_channels=12, hidden_size=16, depth=1, num_heads=2, num_classes=10, class_dropout_prob=0.0
    )
    network = build_network(config, seed=0)
    draws = training_draws(0, range(4), (12, 4, 4), drop_probability=config.class_dropout_prob)
    assert transport_loss(network, FILE["in.x1"], FILE["in.y"], draws, PLAIN).loss > 0
    every = replace(draws, drop=torch.ones(4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="no label for 'no class'"):
        transport_loss(network, FILE["in.x1"], FILE["in.y"], every, PLAIN)


def test_training_lowers_the_loss_and_uses_the_label() -> None:
    """Two classes of constant latents: a few steps must tell them apart."""
    config = LightningDiTConfig(
        input_size=2, in_channels=4, hidden_size=32, depth=2, num_heads=2, num_classes=2, label_init_std=1.0
    )
    network = build_network(config, seed=0)
    transport = TransportConfig(shifted=False)
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for step in range(80):
        numbers = range(step * 32, (step + 1) * 32)
        labels = torch.tensor([number % 2 for number in numbers])
        data = (2.0 * labels - 1.0).reshape(-1, 1, 1, 1).expand(-1, 4, 2, 2)
        draws = training_draws(0, numbers, (4, 2, 2), drop_probability=0.1)
        loss = transport_loss(network, data, labels, draws, transport).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-10:]) < 0.6 * sum(losses[:10])
    noise, times = torch.randn(64, 4, 2, 2, generator=torch.Generator().manual_seed(0)), torch.full((64,), 0.95)
    with torch.no_grad():
        first, second = (network(noise, times, torch.full((64,), label)).mean() for label in (0, 1))
    assert first - second > 1.0  # noise - data: the class at -1 pulls up, the class at +1 down
