"""The discriminator's side of the decoder's training: what the decoder hears from it, and its own updates.

Source: github.com/bytetriper/RAE, src/train_stage1.py, but for one fault: there the update does not go through
DistributedDataParallel, so that every process trains a discriminator of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench.encoders.modeling.frozen import weights_digest
from ovbench.harness.generation.decoder_batches import Batches, Piece
from ovbench.harness.generation.decoder_config import AugmentConfig, DecoderLossConfig, DiscriminatorLoss
from ovbench.harness.generation.diffaug import diff_augment, draw_by_index
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.losses import discriminator_loss, generator_loss, quantise_pm1, to_pm1
from ovbench.harness.parallel import Processes

AUGMENT = AugmentConfig()


class Judge(nn.Module):
    """Pictures in [-1, 1] → logits, as a module that DistributedDataParallel can wrap.

    Args:
        discriminator: Backbone and heads.
        low: Compute in bfloat16 where autocast does; the weights stay float32.
    """

    def __init__(self, discriminator: Discriminator, *, low: bool) -> None:
        super().__init__()
        self.discriminator, self.low = discriminator, low

    def forward(self, images_pm1: Tensor) -> Tensor:
        """Returns logits, float32 [B, heads * N], of [B, 3, H, W]."""
        with torch.autocast(images_pm1.device.type, torch.bfloat16, enabled=self.low):
            return self.discriminator(images_pm1).float()


class Adversary:
    """A discriminator in training.

    Contract: its heads are equal on all processes, before and after each update. Its draws depend on (seed, number of
    the sample) alone.

    Args:
        discriminator: On the device; its heads are trained in place.
        loss: Kinds of the adversarial losses.
        batches: What it sees.
        seed: Of the run.
        processes: Its gradients are means over all of them.
        low: See `Judge`.

    Raises:
        ConfigError: The processes hold different discriminators, or its norm is over a batch that is seen in parts.
    """

    def __init__(
        self,
        discriminator: Discriminator,
        loss: DecoderLossConfig,
        batches: Batches,
        *,
        seed: int,
        processes: Processes,
        low: bool,
    ) -> None:
        if discriminator.config.norm == "sbn" and (processes.several or batches.num_passes > 1):
            raise ConfigError(
                "the discriminator's norm 'sbn' is over the whole batch, which is seen in parts",
                where="discriminator norm",
                fix="use norm bn, or one process without micro_batch",
            )
        self.digest = weights_digest(discriminator)  # of the initial weights
        if len(set(processes.gather(self.digest))) > 1:
            raise ConfigError(
                "the processes were given different discriminators", where="discriminator", fix="build it from the seed"
            )
        self._loss, self._batches, self._seed, self._processes = loss, batches, seed, processes
        self._discriminator = discriminator.train()
        discriminator.heads.requires_grad_(True)
        self._judge = Judge(discriminator, low=low)
        self._parallel = processes.data_parallel(self._judge)

    @property
    def heads(self) -> nn.Module:
        """What is trained."""
        return self._discriminator.heads

    def opinion(self, reconstruction_01: Tensor, uses: Sequence[int]) -> Tensor:
        """Returns the decoder's adversarial loss, a scalar; the heads are frozen and in eval mode.

        Args:
            reconstruction_01: The decoder's pictures, [B, 3, H, W], about [0, 1], not clamped; gradients reach them.
            uses: Numbers of the samples.
        """
        with self._discriminator.heads_frozen():
            logits = self._judge(self._augmented(to_pm1(reconstruction_01), uses, "generator"))
            return generator_loss(logits, self._loss.generator_loss)

    def learn(self, step: int, pixels: nn.Module) -> Mapping[str, Tensor]:
        """Leaves the gradients of a step in the heads and returns named losses: originals against reconstructions.

        The reconstructions are made anew by the decoder as it is: in eval mode, without noise, clamped and on the 256
        levels of a picture; the latents are those of the decoder's own step.

        Contract: one power iteration for the originals and one for the reconstructions, as in a single pass, however
        many passes there are. So all originals go first, and only the first pass of each kind is in train mode.

        Trap: rounding to 256 levels is a jump. Where sums of another order move a pixel over the edge between two
        levels, the update differs by what one level of one pixel makes.

        Args:
            step: Of the training.
            pixels: Latents → pictures, not wrapped.
        """
        pieces = self._batches(step)
        heads = self._discriminator.heads
        sums: dict[str, Tensor] = {}
        for label in ("real", "fake"):
            for number, piece in enumerate(pieces):
                images = to_pm1(piece.images_01) if label == "real" else _fresh(pixels, piece)
                images = self._augmented(images, piece.uses, label)
                last = label == "fake" and number + 1 == len(pieces)
                heads.train(number == 0)
                with self._processes.summing_later(self._parallel, not last):
                    logits = self._parallel(images)
                    loss = piece.weight * one_side(logits, self._loss.discriminator_loss, real=label == "real")
                    loss.backward()
                found = {"discriminator": loss.detach(), f"logit_{label}": piece.weight * logits.detach().mean()}
                for key, term in found.items():
                    sums[key] = sums[key] + term if key in sums else term
        heads.train()
        return sums

    def _augmented(self, images_pm1: Tensor, uses: Sequence[int], label: str) -> Tensor:
        return diff_augment(images_pm1, draw_by_index(AUGMENT, uses, self._seed, label), AUGMENT)


def one_side(logits: Tensor, kind: DiscriminatorLoss, *, real: bool) -> Tensor:
    """Returns the half of `discriminator_loss` that its originals, or its reconstructions, make.

    Both kinds of loss treat a reconstruction's logit as an original's of the other sign.
    """
    signed = logits if real else -logits
    return 0.5 * discriminator_loss(signed, -signed, kind)


@torch.no_grad()
def _fresh(pixels: nn.Module, piece: Piece) -> Tensor:
    with evaluating(pixels):
        return quantise_pm1(to_pm1(pixels(piece.raw)))


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Within it a module is in eval mode; then as before."""
    training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(training)
