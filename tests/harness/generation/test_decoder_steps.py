"""Gradients of a step against the loss as it is written, and passes of the batch against the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ovbench.harness.generation.decoder_batches import Batches
from ovbench.harness.generation.decoder_config import DecoderLossConfig
from ovbench.harness.generation.decoder_gan import Adversary
from ovbench.harness.generation.decoder_steps import DecoderSteps, Pixels
from ovbench.harness.generation.losses import reconstruction_loss
from ovbench.harness.generation.rae import RAE
from ovbench.harness.parallel import ALONE
from tests.harness.generation.decoder_training import GAN, Memory, Perceptual, recipe
from tests.harness.generation.rae_data import patch_encoder, small_decoder
from tests.harness.generation.test_discriminator import tiny


def steps_of(micro: int | None, loss: DecoderLossConfig = GAN) -> DecoderSteps:
    pixels = Pixels(RAE(patch_encoder(), small_decoder().train()), low=False)
    batches = Batches(pixels.rae, Memory(), recipe(loss, micro_batch=micro), seed=0, processes=ALONE)
    adversary = Adversary(tiny(), loss, batches, seed=0, processes=ALONE, low=False)
    return DecoderSteps(
        pixels=pixels, parallel=pixels, batches=batches, loss=loss, processes=ALONE, lpips=Perceptual(),
        adversary=adversary,
    )  # fmt: skip


def gradients(steps: DecoderSteps) -> dict[str, Tensor]:
    return {key: value.grad for key, value in steps.pixels.named_parameters() if value.grad is not None}


def written(steps: DecoderSteps, step: int, *, gan: bool) -> dict[str, Tensor]:
    """Backward of R + gan_weight * lambda * G as one scalar, with lambda by two passes to the last layer."""
    assert steps.adversary is not None
    assert steps.pixels.rae.decoder is not None
    (piece,) = steps.batches(step)
    recon = steps.pixels(steps.batches.noised(piece))
    terms = reconstruction_loss(recon, piece.images_01, steps.loss, steps.lpips)
    if not gan:
        terms.total.backward()
        return {"loss": terms.total.detach()}
    adversarial = steps.adversary.opinion(recon, piece.uses)
    weight = steps.pixels.rae.decoder.decoder_pred.weight
    norms = [torch.autograd.grad(part, weight, retain_graph=True)[0].norm() for part in (terms.total, adversarial)]
    factor = (norms[0] / (norms[1] + 1e-6)).clamp(0.0, steps.loss.max_lambda).detach()
    loss = terms.total + steps.loss.gan_weight * factor * adversarial
    loss.backward()
    return {"loss": loss.detach(), "lambda": factor, "adversarial": adversarial.detach()}


@pytest.mark.parametrize("gan", [False, True])
@pytest.mark.parametrize("micro", [None, 4, 3, 1])
def test_gradients_are_those_of_the_written_loss(micro: int | None, gan: bool) -> None:
    ours, theirs = steps_of(micro), steps_of(None)
    for step in (0, 3):
        found, expected = ours.backward(step, gan=gan), written(theirs, step, gan=gan)
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6)
        assert set(found) == {"l1", "lpips", *expected}
        torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-3, atol=1e-6)
        for steps in (ours, theirs):
            steps.pixels.zero_grad()


def test_the_weight_of_the_whole_batch_is_not_that_of_its_parts() -> None:
    whole = steps_of(4).backward(0, gan=True)["lambda"]
    part = steps_of(None)
    pieces = steps_of(4).batches(0)
    part.batches._newest = (0, [pieces[0]])
    assert float(part.backward(0, gan=True)["lambda"]) != pytest.approx(float(whole), rel=1e-2)


def test_the_largest_weight_holds_in_passes_too() -> None:
    loss = DecoderLossConfig(discriminator_from_epoch=1, gan_from_epoch=2, max_lambda=0.01)
    assert float(steps_of(3, loss).backward(0, gan=True)["lambda"]) == pytest.approx(0.01)


@pytest.mark.parametrize("micro", [None, 3])
def test_the_heads_take_no_gradients_in_the_decoders_step(micro: int | None) -> None:
    steps = steps_of(micro)
    assert steps.adversary is not None
    steps.backward(0, gan=True)
    assert all(parameter.grad is None for parameter in steps.adversary.heads.parameters())
    assert all(parameter.requires_grad for parameter in steps.adversary.heads.parameters())
