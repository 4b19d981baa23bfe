"""The decoder's objective: L1, a perceptual term from outside, adversarial terms and the weight that balances them.

Source: github.com/bytetriper/RAE, src/train_stage1.py and src/disc/gan_loss.py; the adaptive weight is VQGAN's
(arXiv 2012.09841, equation 7). Pictures are [B, 3, H, W]; reconstructions are not clamped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.decoder_config import DecoderLossConfig, DiscriminatorLoss, GeneratorLoss

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (reconstruction, original), both in [-1, 1] → distances, any shape
AllReduce = Callable[[Tensor], Tensor]  # a tensor of this process → its mean over all processes


def unreduced(tensor: Tensor) -> Tensor:
    """Returns the tensor: the all-reduce of one process."""
    return tensor


def to_pm1(images_01: Tensor) -> Tensor:
    """Turns [0, 1] into [-1, 1]; nothing is clamped."""
    return 2.0 * images_01 - 1.0


def quantise_pm1(images_pm1: Tensor) -> Tensor:
    """Returns pictures in [-1, 1] on the 256 levels of uint8, as the discriminator sees them: clamped, then rounded.

    round((x + 1) * 127.5) / 127.5 - 1; no gradient passes.
    """
    return ((images_pm1.detach().clamp(-1.0, 1.0) + 1.0) * 127.5).round() / 127.5 - 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionLoss:
    """Terms of the reconstruction; `total` is what is minimised."""

    l1: Tensor  # mean |x - x'| with pictures in [0, 1]
    lpips: Tensor | None  # mean perceptual distance; None where its weight is 0
    total: Tensor


def reconstruction_loss(
    reconstruction_01: Tensor, images_01: Tensor, config: DecoderLossConfig, perceptual: Perceptual | None = None
) -> ReconstructionLoss:
    """Returns l1_weight * L1 + lpips_weight * mean(perceptual).

    Args:
        reconstruction_01: [B, 3, H, W], about [0, 1], not clamped.
        images_01: [B, 3, H, W] in [0, 1].
        config: Weights.
        perceptual: LPIPS or another distance of pictures in [-1, 1].

    Raises:
        ConfigError: The shapes differ, or a perceptual term has a weight and no function.
    """
    if reconstruction_01.shape != images_01.shape:
        raise ConfigError(
            f"the reconstruction {list(reconstruction_01.shape)} has another shape than its original "
            f"{list(images_01.shape)}",
            where="reconstruction_loss",
            fix="the decoder's patch times its grid must be the picture's side",
        )
    l1 = F.l1_loss(reconstruction_01, images_01)
    total = config.l1_weight * l1
    if config.lpips_weight == 0.0:
        return ReconstructionLoss(l1=l1, lpips=None, total=total)
    if perceptual is None:
        raise ConfigError(
            "the loss has a perceptual term and nothing computes it",
            where="lpips_weight",
            fix="pass an LPIPS network, or set lpips_weight to 0",
        )
    lpips = perceptual(to_pm1(reconstruction_01), to_pm1(images_01)).mean()
    return ReconstructionLoss(l1=l1, lpips=lpips, total=total + config.lpips_weight * lpips)


def discriminator_loss(real: Tensor, fake: Tensor, kind: DiscriminatorLoss = "hinge") -> Tensor:
    """Returns the discriminator's loss of logits of any shape, a scalar.

    hinge: (mean relu(1 - D(real)) + mean relu(1 + D(fake))) / 2 (arXiv 1705.02894);
    vanilla: (mean softplus(-D(real)) + mean softplus(D(fake))) / 2, the binary cross-entropy.
    """
    if kind == "hinge":
        return 0.5 * (F.relu(1.0 - real).mean() + F.relu(1.0 + fake).mean())
    return 0.5 * (F.softplus(-real).mean() + F.softplus(fake).mean())


def generator_loss(fake: Tensor, kind: GeneratorLoss = "mean") -> Tensor:
    """Returns the decoder's adversarial loss of logits of any shape, a scalar.

    mean: -mean D(fake), which RAE uses with either discriminator loss; non_saturating: mean softplus(-D(fake)).
    """
    return -fake.mean() if kind == "mean" else F.softplus(-fake).mean()


def lambda_of(
    reconstruction_grad: Tensor, adversarial_grad: Tensor, *, max_lambda: float = 1e4, eps: float = 1e-6
) -> Tensor:
    """Returns lambda = clamp(|gR| / (|gG| + eps), 0, max_lambda) of two gradients, detached.

    Args:
        reconstruction_grad: Of the reconstruction loss by the last layer's weight; Frobenius norms are taken.
        adversarial_grad: Of the adversarial loss by the same weight.
        max_lambda: Upper bound.
        eps: Added to the adversarial norm.
    """
    ratio = reconstruction_grad.float().norm() / (adversarial_grad.float().norm() + eps)
    return ratio.clamp(0.0, max_lambda).detach()


@dataclass(frozen=True, kw_only=True, slots=True)
class Balance:
    """What the decoder's step is made of once both losses have been taken back to the picture."""

    grad: Tensor  # dL/d reconstruction, [B, 3, H, W], of total = R + gan_weight * lambda * G
    weight: Tensor  # lambda
    total: Tensor  # detached


def balance(
    reconstruction: Tensor,
    reconstruction_loss: Tensor,
    adversarial_loss: Tensor,
    last_weight: Tensor,
    config: DecoderLossConfig,
    *,
    all_reduce: AllReduce = unreduced,
) -> Balance:
    """Balances R + gan_weight * lambda * G; the step is then one backward pass, `reconstruction.backward(grad)`.

    Both losses go back to the picture once, and from there to the last layer for lambda, so that LPIPS and the
    discriminator's backbone run backwards once each instead of twice; the gradients are those of the written loss.

    Contract: lambda is that of the losses over all processes. Their gradients by the last layer are averaged before
    norms are taken, so that it does not depend on how a batch is spread; the reference has one per process.

    Trap: a decoder compiled as one graph goes back as a whole for each of the two norms. Compile its blocks instead.

    Args:
        reconstruction: The decoder's pictures, in the graph of both losses.
        reconstruction_loss: R, a scalar; it must depend on the decoder through `reconstruction` alone.
        adversarial_loss: G, likewise.
        last_weight: `decoder_pred.weight`.
        config: Weights.
        all_reduce: Averages a tensor over processes.
    """
    to_picture = torch.autograd.grad(reconstruction_loss, reconstruction)[0]
    adversarial = torch.autograd.grad(adversarial_loss, reconstruction)[0]
    norms = [
        all_reduce(torch.autograd.grad(reconstruction, last_weight, grad_outputs=part, retain_graph=True)[0])
        for part in (to_picture, adversarial)
    ]
    weight = lambda_of(*norms, max_lambda=config.max_lambda, eps=config.lambda_eps)
    factor = config.gan_weight * weight
    return Balance(
        grad=to_picture + factor.to(adversarial.dtype) * adversarial,
        weight=weight,
        total=(reconstruction_loss + factor * adversarial_loss).detach(),
    )
