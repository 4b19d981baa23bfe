"""OpenVision 3's objective (arXiv 2601.15369v2, Eq. 3-6), with CLIP's and SigLIP's as its special cases."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.harness.pretraining.data import Batch
from ovbench.harness.pretraining.model import Pretrainer

_MAX_LOG_SCALE = math.log(100.0)


def softmax_contrastive(image: Tensor, text: Tensor, scale: Tensor, allowed: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy (arXiv 2103.00020, Fig. 3).

    Args:
        image: Unit vectors [B, E].
        text: Unit vectors [B, E]; row i describes image i.
        scale: Inverse temperature.
        allowed: Bool [B, B]; pairs that are False (captions true of another image) are left out of the denominators.
    """
    logits = (scale * image @ text.T).masked_fill(~allowed, -math.inf)
    target = torch.arange(len(logits), device=logits.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def sigmoid_contrastive(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, allowed: Tensor) -> Tensor:
    """SigLIP's pairwise loss (arXiv 2303.15343, Eq. 2): summed over all allowed pairs, divided by the batch size."""
    logits = scale * image @ text.T + bias
    sign = 2.0 * torch.eye(len(logits), device=logits.device) - 1.0
    return -(F.logsigmoid(sign * logits) * allowed).sum() / len(logits)


def caption_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean cross-entropy of the next word, padding left out: logits [B, T, V] for ids [B, T]."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten(), ignore_index=0)


def noisy(tokens: Tensor, tau: float, generator: torch.Generator) -> Tensor:
    """Returns tokens + sigma * noise with sigma ~ U[0, tau] drawn once per image (Eq. 3)."""
    sigma = tau * torch.rand(len(tokens), 1, 1, generator=generator)
    noise = torch.randn(tokens.shape, generator=generator)
    return tokens + (sigma * noise).to(tokens)


def quadrant_rows(cells: Tensor, grid: int) -> Tensor:
    """Returns the position rows of each sample's quadrant, int64 [B, (grid / 2)²]: cells 0…3 in raster order."""
    half = grid // 2
    rows = torch.arange(grid * grid).view(grid, grid)
    quadrants = torch.stack([rows[y : y + half, x : x + half].flatten() for y in (0, half) for x in (0, half)])
    return quadrants[cells]


class Objective:
    """Turns a batch into named losses.

    Args:
        model: Trunk, text towers, decoders.
        vae: Frozen VAE with `encode` and `decode`; None for a trunk that reads pixels.
        lpips: Perceptual distance on images in [-1, 1]; needed when the weight of LPIPS is not zero.
    """

    def __init__(
        self,
        model: Pretrainer,
        vae: FrontEnd | None,
        lpips: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.model, self.vae, self.lpips = model, vae, lpips

    def __call__(self, batch: Batch, generator: torch.Generator, *, lambda_lpips: float) -> dict[str, Tensor]:
        """Returns `loss` and its parts, unweighted: `contrastive`, `caption`, `rec_pixels`, `rec_latents`, `lpips`."""
        model, config = self.model, self.model.objective
        inputs = batch.images_pm1
        if self.vae is not None:
            with torch.no_grad():
                inputs = self.vae.encode(inputs).float()
        grid = model.visual.config.grid
        positions = None if batch.cells is None else quadrant_rows(batch.cells, grid)
        if positions is None and inputs.shape[-1] != model.visual.config.image_size:
            side = inputs.shape[-1] // model.visual.config.patch_size
            positions = _centred_rows(len(inputs), grid, side)
        out = model.visual(inputs, positions=positions)
        terms: dict[str, Tensor] = {"contrastive": self._contrastive(out.pooled, batch)}
        und = config.alpha * terms["contrastive"]
        if config.caption > 0:
            ids = batch.captions[-1]
            terms["caption"] = caption_loss(model.captioner(ids, out.tokens), ids)
            und = und + config.caption * terms["caption"]
        loss = config.omega_und * und
        if config.omega_rec > 0:
            rec = self._reconstruction(batch, inputs, out.tokens, positions, generator, lambda_lpips, terms)
            loss = loss + config.omega_rec * rec
        return {**terms, "loss": loss}

    def _contrastive(self, pooled: Tensor, batch: Batch) -> Tensor:
        model, config = self.model, self.model.objective
        image = F.normalize(pooled.float(), dim=-1)
        scale = model.logit_scale.clamp(max=_MAX_LOG_SCALE).exp()
        losses = []
        for ids, allowed in zip(batch.captions, batch.allowed, strict=True):
            text = F.normalize(model.text(ids).float(), dim=-1)
            if config.contrastive == "softmax":
                losses.append(softmax_contrastive(image, text, scale, allowed))
            else:
                losses.append(sigmoid_contrastive(image, text, scale, model.logit_bias, allowed))
        return torch.stack(losses).mean()

    def _reconstruction(
        self,
        batch: Batch,
        latents: Tensor,
        tokens: Tensor,
        positions: Tensor | None,
        generator: torch.Generator,
        lambda_lpips: float,
        terms: dict[str, Tensor],
    ) -> Tensor:
        config = self.model.objective
        assert self.vae is not None, "PretrainRecipe refuses reconstruction without a VAE"
        count = max(1, round(config.rec_fraction * len(tokens)))
        rows = None if positions is None else positions[:count]
        decoded = self.model.decoder(noisy(tokens[:count].float(), config.noise_tau, generator), rows).float()
        pixels = self.vae.decode(decoded)
        target = batch.images_pm1[:count]
        terms["rec_pixels"] = F.l1_loss(pixels, target)
        terms["rec_latents"] = F.l1_loss(decoded, latents[:count])
        rec = terms["rec_pixels"] + config.beta * terms["rec_latents"]
        if lambda_lpips > 0:
            assert self.lpips is not None, "pretrain() refuses a weight of LPIPS without its network"
            terms["lpips"] = self.lpips(pixels, target).mean()
            rec = rec + lambda_lpips * terms["lpips"]
        return rec


def _centred_rows(batch: int, grid: int, side: int) -> Tensor:
    """Returns rows of the full table for a smaller grid, evenly spread over it: int64 [batch, side²]."""
    axis = ((torch.arange(side) + 0.5) * grid / side).floor().long()
    return (axis[:, None] * grid + axis[None, :]).flatten().expand(batch, -1)
