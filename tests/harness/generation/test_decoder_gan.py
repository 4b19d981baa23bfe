from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder_batches import Batches
from ovbench.harness.generation.decoder_gan import AUGMENT, Adversary, evaluating, one_side
from ovbench.harness.generation.diffaug import diff_augment, draw_by_index
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.losses import discriminator_loss, generator_loss, quantise_pm1, to_pm1
from ovbench.harness.generation.rae import RAE
from ovbench.harness.parallel import ALONE, Processes
from tests.harness.generation.decoder_training import GAN, Memory, recipe
from tests.harness.generation.rae_data import patch_encoder, randn, small_decoder
from tests.harness.generation.test_discriminator import tiny


class Decoder(nn.Module):
    """Latents → pictures, beyond [0, 1] too; remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.rae = RAE(patch_encoder(), small_decoder())
        self.modes: list[bool] = []
        self.seen: list[Tensor] = []

    def forward(self, latents: Tensor) -> Tensor:
        self.modes.append(self.training)
        self.seen.append(latents)
        return 2.0 * self.rae.pixels(latents)


class Several(Processes):
    """Two processes of which the other was given another discriminator."""

    def gather(self, value: Any) -> list[Any]:
        return [value, "another"]


def adversary(discriminator: Discriminator, decoder: Decoder, micro: int | None = None) -> Adversary:
    batches = Batches(decoder.rae, Memory(), recipe(GAN, micro_batch=micro), seed=0, processes=ALONE)
    return Adversary(discriminator, GAN, batches, seed=0, processes=ALONE, low=False)


def gradients(discriminator: Discriminator) -> dict[str, Tensor]:
    return {key: value.grad for key, value in discriminator.heads.named_parameters() if value.grad is not None}


def augmented(images_pm1: Tensor, uses: Sequence[int], label: str) -> Tensor:
    return diff_augment(images_pm1, draw_by_index(AUGMENT, uses, 0, label), AUGMENT)


@pytest.mark.parametrize("kind", ["hinge", "vanilla"])
def test_the_two_sides_are_the_loss(kind: Any) -> None:
    real, fake = 2 * randn(3, 7), 2 * randn(3, 7, seed=1)
    whole = discriminator_loss(real, fake, kind)
    torch.testing.assert_close(one_side(real, kind, real=True) + one_side(fake, kind, real=False), whole)
    assert not torch.allclose(one_side(real, kind, real=True), one_side(real, kind, real=False))


@pytest.mark.parametrize("micro", [None, 3])
def test_an_update_is_the_written_loss_of_originals_and_new_reconstructions(micro: int | None) -> None:
    decoder, ours, theirs = Decoder().train(), tiny(), tiny().train()
    side = adversary(ours, decoder, micro)
    for step in (0, 1):  # the second begins with the moved power iterations of the first
        found = side.learn(step, decoder)
        (piece,) = Batches(decoder.rae, Memory(), recipe(GAN), seed=0, processes=ALONE)(step)
        with torch.no_grad():
            fresh = quantise_pm1(to_pm1(decoder(piece.raw)))
        assert float(fresh.max()) == 1.0  # clamped
        real = theirs(augmented(to_pm1(piece.images_01), piece.uses, "real"))
        fake = theirs(augmented(fresh, piece.uses, "fake"))
        loss = discriminator_loss(real, fake)
        theirs.zero_grad()
        loss.backward()
        torch.testing.assert_close(found["discriminator"], loss.detach())
        torch.testing.assert_close(found["logit_fake"], fake.detach().mean())
        torch.testing.assert_close(gradients(ours), gradients(theirs), rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(ours.head_state(), theirs.head_state())
        ours.zero_grad()


def test_reconstructions_are_made_in_eval_mode_without_noise_and_the_mode_comes_back() -> None:
    decoder = Decoder().train()
    side = adversary(tiny(), decoder)
    side.learn(0, decoder)
    (piece,) = Batches(decoder.rae, Memory(), recipe(GAN), seed=0, processes=ALONE)(0)
    assert decoder.modes == [False]
    assert torch.equal(decoder.seen[0], piece.raw)
    assert decoder.training
    assert all(parameter.grad is None for parameter in decoder.parameters())


def test_the_opinion_reaches_the_picture_and_leaves_the_heads_alone() -> None:
    decoder, discriminator = Decoder(), tiny()
    side = adversary(discriminator, decoder)
    before = {key: value.clone() for key, value in discriminator.head_state().items()}
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).requires_grad_()
    opinion = side.opinion(images, [4, 5])
    opinion.backward()
    assert images.grad is not None
    assert float(images.grad.abs().max()) > 0.0
    assert not gradients(discriminator)
    assert all(torch.equal(value, before[key]) for key, value in discriminator.head_state().items())
    with torch.no_grad():
        logits = discriminator.eval()(augmented(to_pm1(images), [4, 5], "generator"))
    torch.testing.assert_close(opinion.detach(), generator_loss(logits))


def test_different_discriminators_are_refused() -> None:
    batches = Batches(Decoder().rae, Memory(), recipe(GAN), seed=0, processes=ALONE)
    with pytest.raises(ConfigError, match="different discriminators"):
        Adversary(tiny(), GAN, batches, seed=0, processes=Several(world_size=2), low=False)


def test_a_norm_over_the_batch_is_refused_where_the_batch_is_seen_in_parts() -> None:
    decoder = Decoder()
    with pytest.raises(ConfigError, match="'sbn' is over the whole batch"):
        adversary(tiny(norm="sbn"), decoder, micro=4)
    assert adversary(tiny(norm="sbn"), decoder, micro=8).learn(0, decoder)


def test_eval_mode_is_undone_after_an_error() -> None:
    module = nn.Linear(1, 1).train()
    with pytest.raises(ZeroDivisionError), evaluating(module):
        assert not module.training
        raise ZeroDivisionError
    assert module.training


def test_bfloat16_logits_come_in_float32_near_those_of_float32() -> None:
    decoder = Decoder()
    batches = Batches(decoder.rae, Memory(), recipe(GAN), seed=0, processes=ALONE)
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    opinions = [
        Adversary(tiny(), GAN, batches, seed=0, processes=ALONE, low=low).opinion(images, [0, 1])
        for low in (False, True)
    ]
    assert opinions[1].dtype == torch.float32
    assert not torch.equal(opinions[0], opinions[1])
    torch.testing.assert_close(opinions[1], opinions[0], rtol=0.05, atol=0.02)
