from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder import ViTDecoder, unpatchify
from ovbench.harness.generation.decoder_config import DecoderLossConfig
from ovbench.harness.generation.losses import (
    balance,
    discriminator_loss,
    generator_loss,
    lambda_of,
    quantise_pm1,
    reconstruction_loss,
    to_pm1,
)
from tests.harness.generation.rae_data import assert_golden, golden, golden_names, pictures, randn, small_decoder


@pytest.mark.parametrize("name", golden_names("rae_disc"))
def test_adversarial_losses_are_the_references(name: str) -> None:
    tensors = golden(name).tensors
    real, fake = tensors["in.logits_real"], tensors["in.logits_fake"]
    assert_golden(discriminator_loss(real, fake, "hinge")[None], tensors["out.hinge_d"])
    assert_golden(discriminator_loss(real, fake, "vanilla")[None], tensors["out.vanilla_d"])
    assert_golden(generator_loss(fake)[None], tensors["out.g"])


def test_losses_are_their_formulas() -> None:
    real, fake = [-0.5, 2.0], [0.25, -3.0]
    hinge = 0.5 * (sum(max(0.0, 1 - x) for x in real) / 2 + sum(max(0.0, 1 + x) for x in fake) / 2)
    vanilla = 0.5 * (sum(math.log1p(math.exp(-x)) for x in real) / 2 + sum(math.log1p(math.exp(x)) for x in fake) / 2)
    saturating = sum(math.log1p(math.exp(-x)) for x in fake) / 2
    assert float(discriminator_loss(torch.tensor(real), torch.tensor(fake))) == pytest.approx(hinge)
    assert float(discriminator_loss(torch.tensor(real), torch.tensor(fake), "vanilla")) == pytest.approx(vanilla)
    assert float(generator_loss(torch.tensor(fake), "non_saturating")) == pytest.approx(saturating)
    assert float(generator_loss(torch.tensor(fake))) == pytest.approx(2.75 / 2)


def test_reconstruction_is_l1_in_0_1_and_the_perceptual_term_in_pm1() -> None:
    seen: list[Tensor] = []

    def perceptual(one: Tensor, other: Tensor) -> Tensor:
        seen.extend([one, other])
        return (one - other).square().mean(dim=(1, 2, 3))

    images, other = pictures(3), pictures(3, seed=1)
    config = DecoderLossConfig(l1_weight=2.0, lpips_weight=3.0)
    loss = reconstruction_loss(other, images, config, perceptual)
    l1 = float((images - other).abs().mean())
    lpips = 4.0 * float((images - other).square().mean())
    assert loss.lpips is not None
    assert float(loss.l1) == pytest.approx(l1)
    assert float(loss.lpips) == pytest.approx(lpips, rel=1e-5)
    assert float(loss.total) == pytest.approx(2 * l1 + 3 * lpips, rel=1e-5)
    assert torch.equal(seen[0], to_pm1(other))
    assert torch.equal(seen[1], to_pm1(images))


def test_a_perceptual_term_without_weight_is_not_computed() -> None:
    def perceptual(one: Tensor, other: Tensor) -> Tensor:
        raise AssertionError("must not be called")

    loss = reconstruction_loss(pictures(1), pictures(1), DecoderLossConfig(lpips_weight=0.0), perceptual)
    assert loss.lpips is None
    assert float(loss.total) == 0.0


def test_a_perceptual_term_with_weight_needs_a_function() -> None:
    with pytest.raises(ConfigError) as error:
        reconstruction_loss(pictures(1), pictures(1), DecoderLossConfig())
    assert error.value.what == "the loss has a perceptual term and nothing computes it"
    assert "set lpips_weight to 0" in error.value.fix


def test_pictures_of_two_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"\[1, 3, 8, 8\] has another shape than its original \[1, 3, 16, 16\]"):
        reconstruction_loss(pictures(1, 8), pictures(1), DecoderLossConfig(lpips_weight=0.0))


def test_the_discriminator_sees_levels_of_8_bits() -> None:
    values = torch.tensor([-1.5, -1.0, -0.999, 0.0, 0.3, 1.0, 2.0], requires_grad=True)
    levels = quantise_pm1(values)
    assert not levels.requires_grad
    expected = [round((min(max(v, -1.0), 1.0) + 1) * 127.5) / 127.5 - 1 for v in values.tolist()]
    torch.testing.assert_close(levels, torch.tensor(expected), rtol=0, atol=1e-6)
    torch.testing.assert_close((levels + 1) * 127.5, ((levels + 1) * 127.5).round(), rtol=0, atol=1e-4)
    assert float(levels.min()) == -1.0
    assert float(levels.max()) == 1.0


def test_lambda_is_a_clamped_ratio_of_norms() -> None:
    one, other = torch.tensor([[3.0, 4.0]], requires_grad=True), torch.tensor([[0.0, 2.0]])
    assert float(lambda_of(one, other)) == pytest.approx(2.5, rel=1e-6)
    assert not lambda_of(one, other).requires_grad
    assert float(lambda_of(one, torch.zeros(1, 2))) == pytest.approx(1e4)  # 5 / 1e-6, clamped
    assert float(lambda_of(one, other, max_lambda=1.0)) == 1.0
    assert float(lambda_of(torch.zeros(1, 2), other)) == 0.0


class _Step:
    """One step of a decoder with two losses, as written and as `balance` computes it."""

    def __init__(self) -> None:
        self.decoder = small_decoder()
        self.critic = torch.nn.Conv2d(3, 2, 3)
        with torch.no_grad():
            self.critic.weight.copy_(randn(2, 3, 3, 3, seed=3))
        self.critic.requires_grad_(False)
        self.tokens, self.images = randn(4, 16, 6), pictures(4)
        self.config = DecoderLossConfig(lpips_weight=1.0)

    def losses(self, rows: slice = slice(None)) -> tuple[Tensor, Tensor, Tensor]:
        recon = unpatchify(self.decoder(self.tokens[rows]), 4)
        terms = reconstruction_loss(recon, self.images[rows], self.config, lambda a, b: (a - b).square())
        return recon, terms.total, generator_loss(self.critic(to_pm1(recon)))

    def grads(self) -> dict[str, Tensor]:
        found = {name: p.grad.clone() for name, p in self.decoder.named_parameters() if p.grad is not None}
        self.decoder.zero_grad()
        return found


def test_one_backward_pass_gives_the_gradients_of_the_written_loss() -> None:
    step = _Step()
    _, reconstruction, adversarial = step.losses()
    weight = step.decoder.decoder_pred.weight
    norms = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (reconstruction, adversarial)]
    factor = (norms[0] / (norms[1] + 1e-6)).clamp(0.0, 1e4)
    total = reconstruction + 0.75 * factor * adversarial
    total.backward()
    expected = step.grads()
    recon, reconstruction, adversarial = step.losses()
    balanced = balance(recon, reconstruction, adversarial, weight, step.config)
    recon.backward(balanced.grad)
    torch.testing.assert_close(balanced.weight, factor)
    torch.testing.assert_close(balanced.total, total.detach())
    found = step.grads()
    assert found.keys() == expected.keys()
    assert float(expected["decoder_pred.weight"].norm()) > 1e-3
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-4, atol=1e-6)


def test_two_halves_with_averaged_gradients_have_the_lambda_of_the_whole() -> None:
    step = _Step()
    weight = step.decoder.decoder_pred.weight
    whole = balance(*step.losses(), weight, step.config)
    kept: list[Tensor] = []

    def remember(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    alone = [balance(*step.losses(rows), weight, step.config, all_reduce=remember) for rows in (slice(2), slice(2, 4))]
    means = [(kept[0] + kept[2]) / 2, (kept[1] + kept[3]) / 2]
    calls = iter(means)
    reduced = balance(*step.losses(slice(2)), weight, step.config, all_reduce=lambda _tensor: next(calls))
    torch.testing.assert_close(reduced.weight, whole.weight, rtol=1e-4, atol=0.0)
    assert abs(float(alone[0].weight) - float(whole.weight)) > 1e-3 * float(whole.weight)


def test_nothing_of_the_critic_gets_a_gradient() -> None:
    step = _Step()
    recon, reconstruction, adversarial = step.losses()
    recon.backward(balance(recon, reconstruction, adversarial, step.decoder.decoder_pred.weight, step.config).grad)
    assert all(parameter.grad is None for parameter in step.critic.parameters())


@pytest.mark.parametrize(("epoch", "trains", "used"), [(5, False, False), (6, True, False), (8, True, True)])
def test_the_discriminator_learns_before_it_is_heard(epoch: int, trains: bool, used: bool) -> None:
    config = DecoderLossConfig()
    assert (config.trains_discriminator(epoch), config.uses_gan(epoch)) == (trains, used)
    off = DecoderLossConfig(gan_weight=0.0)
    assert not off.trains_discriminator(epoch)
    assert not off.uses_gan(epoch)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"discriminator_loss": "hing"}, "unknown discriminator_loss 'hing'"),
        ({"generator_loss": "hinge"}, "unknown generator_loss 'hinge'"),
        ({"gan_weight": -1.0}, "gan_weight must be 0 or more, got -1.0"),
        ({"l1_weight": 0.0, "lpips_weight": 0.0}, "the decoder has no reconstruction term"),
        ({"gan_from_epoch": 5}, "the discriminator must learn before the decoder hears it: epochs 6 and 5"),
    ],
)
def test_settings_are_checked(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DecoderLossConfig(**changes)  # pyright: ignore[reportArgumentType]


def test_minimising_the_reconstruction_loss_learns_the_pictures() -> None:
    images = pictures(8)
    decoder = ViTDecoder(small_decoder().config)
    decoder.load_state_dict(small_decoder().state_dict())
    tokens = F.avg_pool2d(images, 4).flatten(2).transpose(1, 2).repeat(1, 1, 2)  # [8, 16, 6]
    config = DecoderLossConfig(lpips_weight=0.0)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=5e-3)
    losses: list[float] = []
    for _ in range(120):
        loss = reconstruction_loss(unpatchify(decoder(tokens), 4), images, config).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    mean_picture = float((images - images.mean(dim=(0, 2, 3), keepdim=True)).abs().mean())
    assert losses[-1] < 0.5 * mean_picture < losses[0]
