"""One step of the decoder's training: gradients of the whole batch's loss, in as many passes as memory asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ovbench.harness.generation.decoder_batches import Batches
from ovbench.harness.generation.decoder_config import DecoderLossConfig
from ovbench.harness.generation.decoder_gan import Adversary
from ovbench.harness.generation.losses import (
    Perceptual,
    ReconstructionLoss,
    balance,
    lambda_of,
    reconstruction_loss,
)
from ovbench.harness.generation.rae import RAE
from ovbench.harness.parallel import Processes


class Pixels(nn.Module):
    """Latents before statistics → pictures, as a module that DistributedDataParallel can wrap.

    Its only weights are the decoder's.

    Args:
        rae: Encoder and decoder.
        low: Compute in bfloat16 where autocast does; the weights stay float32.
    """

    def __init__(self, rae: RAE, *, low: bool) -> None:
        super().__init__()
        self.rae, self.low = rae, low

    def forward(self, raw_latents: Tensor) -> Tensor:
        """Returns pictures, float32 [B, 3, H, W], about [0, 1] and not clamped, of latents [B, C, h, w]."""
        with torch.autocast(raw_latents.device.type, torch.bfloat16, enabled=self.low):
            return self.rae.pixels(raw_latents)


@dataclass(frozen=True, kw_only=True)
class DecoderSteps:
    """Step → gradients of R, or of R + gan_weight * lambda * G, in the decoder's parameters, and named losses.

    Contract: R, G and lambda are those of the whole batch over all passes and processes. R and G are means over
    samples, so passes are weighted by their part. lambda is a ratio of two norms, of which the whole batch has to be
    known before any of it goes back through the decoder, see `_balanced_in_passes`.
    """

    pixels: Pixels
    parallel: nn.Module  # `pixels`, or its wrapper
    batches: Batches
    loss: DecoderLossConfig
    processes: Processes
    lpips: Perceptual | None
    adversary: Adversary | None

    def backward(self, step: int, *, gan: bool) -> Mapping[str, Tensor]:
        """Leaves the gradients of a step and returns `loss` and its terms; `gan`: with the adversarial term."""
        if not gan:
            return self._reconstructed(step)
        return self._balanced(step) if len(self.batches(step)) == 1 else self._balanced_in_passes(step)

    @property
    def _last_weight(self) -> Tensor:
        decoder = self.pixels.rae.decoder
        assert decoder is not None, "an encoder's own decoder is not trained"
        return decoder.decoder_pred.weight

    def _reconstructed(self, step: int) -> Mapping[str, Tensor]:
        sums = _Sums()
        pieces = self.batches(step)
        for number, piece in enumerate(pieces):
            with self.processes.summing_later(self.parallel, number + 1 < len(pieces)):
                recon = self.parallel(self.batches.noised(piece))
                terms = reconstruction_loss(recon, piece.images_01, self.loss, self.lpips)
                (terms.total * piece.weight).backward()
            sums.add(piece.weight, loss=terms.total, **_named(terms))
        return sums.terms

    def _balanced(self, step: int) -> Mapping[str, Tensor]:
        assert self.adversary is not None
        (piece,) = self.batches(step)
        recon = self.parallel(self.batches.noised(piece))
        terms = reconstruction_loss(recon, piece.images_01, self.loss, self.lpips)
        adversarial = self.adversary.opinion(recon, piece.uses)
        found = balance(recon, terms.total, adversarial, self._last_weight, self.loss, all_reduce=self.processes.mean)
        recon.backward(found.grad)
        named = {"loss": found.total, **_named(terms), "adversarial": adversarial.detach(), "lambda": found.weight}
        return named

    def _balanced_in_passes(self, step: int) -> Mapping[str, Tensor]:
        """The same in passes: first all losses are taken back to the pictures and, from there, to the last layer.

        Their two gradients by the last layer add up over passes and processes, so lambda is exactly that of the whole
        batch. What a pass leaves is its gradients by the pictures, 2 * 3 * H * W numbers a sample. Then each pass runs
        through the decoder once more, and back with R's gradient + gan_weight * lambda * G's. It costs one forward
        pass of the decoder on top of a single pass's work; LPIPS and the discriminator run once. Keeping both
        gradients of all parameters apart would cost a backward pass of the decoder and a copy of its gradients.
        """
        assert self.adversary is not None
        sums = _Sums()
        pieces = self.batches(step)
        noised = [self.batches.noised(piece) for piece in pieces]
        last_weight = self._last_weight
        norms = [torch.zeros_like(last_weight), torch.zeros_like(last_weight)]
        to_pictures: list[list[Tensor]] = []
        for piece, latents in zip(pieces, noised, strict=True):
            recon = self.pixels(latents)  # not through the wrapper: nothing goes back to the other parameters
            terms = reconstruction_loss(recon, piece.images_01, self.loss, self.lpips)
            adversarial = self.adversary.opinion(recon, piece.uses)
            parts = [torch.autograd.grad(loss * piece.weight, recon)[0] for loss in (terms.total, adversarial)]
            for norm, part in zip(norms, parts, strict=True):
                norm += torch.autograd.grad(recon, last_weight, grad_outputs=part, retain_graph=True)[0]
            to_pictures.append(parts)
            sums.add(piece.weight, loss=terms.total, **_named(terms), adversarial=adversarial)
            del recon, terms, adversarial  # the graph of a pass is gone before the next
        weight = lambda_of(
            *(self.processes.mean(norm) for norm in norms), max_lambda=self.loss.max_lambda, eps=self.loss.lambda_eps
        )
        factor = self.loss.gan_weight * weight
        for number, (latents, (reconstruction, adversarial)) in enumerate(zip(noised, to_pictures, strict=True)):
            with self.processes.summing_later(self.parallel, number + 1 < len(pieces)):
                self.parallel(latents).backward(reconstruction + factor * adversarial)
        found = sums.terms
        return {**found, "loss": found["loss"] + factor * found["adversarial"], "lambda": weight}


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of named losses."""

    terms: dict[str, Tensor] = field(default_factory=dict)

    def add(self, weight: float, **terms: Tensor) -> None:
        for key, term in terms.items():
            part = weight * term.detach()
            self.terms[key] = self.terms[key] + part if key in self.terms else part


def _named(terms: ReconstructionLoss) -> dict[str, Tensor]:
    found = {"l1": terms.l1, "lpips": terms.lpips}
    return {key: term.detach() for key, term in found.items() if term is not None}
