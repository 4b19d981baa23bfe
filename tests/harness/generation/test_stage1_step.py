"""The pieces of a training step of the decoder together, with the discriminator, on a CPU and on a GPU."""

from __future__ import annotations

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from ovbench.harness.generation.decoder_config import AugmentConfig, DecoderLossConfig, NoiseConfig
from ovbench.harness.generation.diffaug import diff_augment, draw_by_index
from ovbench.harness.generation.latent_stats import compute_stats
from ovbench.harness.generation.losses import (
    balance,
    discriminator_loss,
    generator_loss,
    quantise_pm1,
    reconstruction_loss,
    to_pm1,
)
from ovbench.harness.generation.noise import noise_latents
from ovbench.harness.generation.rae import RAE
from tests.harness.generation.rae_data import patch_encoder, pictures, small_decoder
from tests.harness.generation.test_discriminator import tiny


class _Result(NamedTuple):
    weight: Tensor  # of the decoder's last layer, afterwards
    head: Tensor  # of the discriminator, afterwards
    latents: Tensor  # normalised
    levels: Tensor  # uint8


def _distance(one: Tensor, other: Tensor) -> Tensor:
    return (one - other).square()


def _train(device: str, steps: int = 3) -> _Result:
    """A few steps as rae.md has them: noise, reconstruction + lambda * GAN, then the discriminator on new pictures."""
    encoder, images = patch_encoder(device=device), pictures(6).to(device)
    rae = RAE(encoder, small_decoder().train(), compute_stats(encoder, images.split(2), data="x")).to(device)
    discriminator = tiny().to(device).train()
    assert rae.decoder is not None
    losses, augment, noise = DecoderLossConfig(gan_from_epoch=6), AugmentConfig(cutout=0.2), NoiseConfig()
    optimizers = [torch.optim.SGD(module.parameters(), lr=1e-3) for module in (rae.decoder, discriminator.heads)]
    for step in range(steps):
        indices = range(6 * step, 6 * step + 6)
        raw = rae.raw_latents(images)
        recon = rae.pixels(noise_latents(raw, indices, 0, noise))
        terms = reconstruction_loss(recon, images, losses, _distance)
        with discriminator.heads_frozen():
            fake = diff_augment(to_pm1(recon), draw_by_index(augment, indices, 0, "generator"), augment)
            adversarial = generator_loss(discriminator(fake), losses.generator_loss)
        optimizers[0].zero_grad()
        recon.backward(balance(recon, terms.total, adversarial, rae.decoder.decoder_pred.weight, losses).grad)
        optimizers[0].step()
        with torch.no_grad():
            fresh = quantise_pm1(to_pm1(rae.pixels(raw)))
        logits = [
            discriminator(diff_augment(part, draw_by_index(augment, indices, 0, label), augment))
            for label, part in (("real", to_pm1(images)), ("fake", fresh))
        ]
        optimizers[1].zero_grad()
        discriminator_loss(*logits).backward()
        optimizers[1].step()
    latents = rae.encode(images)
    head = discriminator.head_state()["heads.0.0.0.weight_orig"]
    return _Result(rae.decoder.decoder_pred.weight.detach(), head, latents, rae.reconstruct_u8(images))


def test_the_same_seeds_give_the_same_weights() -> None:
    before = torch.random.get_rng_state()
    one, other = _train("cpu"), _train("cpu")
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    untouched = _train("cpu", steps=0)
    assert not torch.equal(one.weight, untouched.weight)
    assert not torch.equal(one.head, untouched.head)


@pytest.mark.gpu
def test_a_gpu_gives_the_weights_of_a_cpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    cpu, gpu = _train("cpu"), _train("cuda")
    for name in ("weight", "head", "latents"):
        torch.testing.assert_close(getattr(gpu, name).cpu(), getattr(cpu, name), rtol=1e-3, atol=1e-3)
    assert int((gpu.levels.cpu().int() - cpu.levels.int()).abs().max()) <= 1
