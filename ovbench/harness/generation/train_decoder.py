"""RAE's first stage: a ViT decoder learns to turn the latents of a frozen encoder back into pictures.

Source: github.com/bytetriper/RAE, src/train_stage1.py; arXiv 2510.11690, section 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir
from ovbench._base.fingerprint import fingerprint
from ovbench._base.seeding import derive
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.sources import seeded
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_batches import Batches, Latents
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.generation.decoder_weights import save_decoder
from ovbench.harness.generation.losses import Perceptual, reconstruction_loss
from ovbench.harness.generation.picture_data import PictureData
from ovbench.harness.generation.rae import RAE
from ovbench.harness.generation.recipe_config import DecoderRecipe, OptimiserConfig
from ovbench.harness.generation.schedules import EMA, learning_rate
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.training import LoopConfig, Optimised, Progress, no_progress, train_parts, trainable

NAME = "decoder"
FILE = f"{NAME}.safetensors"


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


def train_decoder(
    encoder: Encoder,
    data: PictureData,
    recipe: DecoderRecipe,
    config: DecoderConfig,
    *,
    seed: int,
    folder: Path,
    processes: Processes = ALONE,
    tap: Tap | None = None,
    lpips: Perceptual | None = None,
    latents: Latents | None = None,
    source: str = "",
    progress: Progress = no_progress,
) -> Path:
    """Trains a decoder and returns the file of its average; the same call again continues where it was killed.

    Contract: sample k of the training (step * batch + place) is picture `training_order(seed, "decoder/order", k)`, and
    its crop and noise are drawn by k. Number of processes and size of a pass change nothing but rounding.

    Args:
        encoder: The frozen encoder.
        data: Pictures, of the side that the decoder makes.
        recipe: Noise, losses and optimisation.
        config: The decoder's architecture.
        seed: Of the run: initial weights, order, crops, noise.
        folder: Holds checkpoint, log and result; the same for all processes.
        processes: All call this, and the main one writes.
        tap: Layer and norm of the latents; None: the encoder's own choice.
        lpips: Perceptual distance of two batches in [-1, 1], on the device; needed where its weight is not 0.
        latents: Latents before statistics by number of the picture, where they are cached; no augmentation may be
            drawn then. None: crops are encoded.
        source: Names what this cannot see and what changes the result (e.g. the perceptual network's weights), so that
            a checkpoint of another is not used.
        progress: Told after each step.

    Returns:
        `decoder.safetensors`, beside `decoder.log.jsonl` and `decoder.state.safetensors`.

    Raises:
        ConfigError: Encoder, pictures, decoder and losses do not fit.
        DataError: `latents` gave another shape than the encoder's.
        OvbenchError: A loss became NaN or infinite; the last checkpoint is kept.
    """
    _check(encoder, data, recipe, config, lpips)
    make_dir(folder)
    device, settings = processes.device, recipe.optimiser
    decoder = seeded(lambda: ViTDecoder(config), derive(seed, "decoder/init")).to(device)
    pixels = Pixels(RAE(encoder, decoder, tap=tap), low=settings.precision == "bfloat16")
    batches = Batches(pixels.rae, data, recipe, seed=seed, processes=processes, latents=latents)
    average = EMA(decoder, settings.ema)
    modules: dict[str, nn.Module] = {"decoder": decoder, "ema": average.module}
    steps_per_epoch = settings.steps_per_epoch(data.num_pictures)
    loop = _loop(settings, settings.num_steps(data.num_pictures))
    part = Optimised(
        config=loop,
        parameters=trainable({"decoder": decoder}),
        lr_at=lambda step: learning_rate(step, settings.schedule, steps_per_epoch),
        backward=_reconstruction(processes.data_parallel(pixels), batches, recipe, processes, lpips),
    )
    identity = {
        "recipe": replace(recipe, optimiser=replace(settings, micro_batch=None)),
        "decoder": config,
        "data": data.digest,
        "num_pictures": data.num_pictures,
        "encoder": encoder.fingerprint(tap),
        "seed": seed,
        "source": source,
    }
    train_parts(
        modules=modules,
        parts=(part,),
        config=loop,
        folder=folder,
        name=NAME,
        recipe=fingerprint(identity),
        processes=processes,
        progress=progress,
        before_save=lambda done: average.update(done - 1),
    )
    path = folder / FILE
    if processes.is_main:
        save_decoder(path, average.module)
    processes.barrier()
    return path


def _check(
    encoder: Encoder, data: PictureData, recipe: DecoderRecipe, config: DecoderConfig, lpips: Perceptual | None
) -> None:
    """Refuses what does not fit before anything is built."""
    info, (rows, columns) = encoder.info, encoder.info.grid
    if recipe.kind == "native":
        raise ConfigError(
            "an encoder's own decoder is not trained", where="generation.decoder.kind", fix="set it to rae"
        )
    if rows != columns:
        raise ConfigError(
            f"the latents of '{info.name}' are {rows} x {columns}, and a decoder of RAE needs a square",
            where="--encoder …?size=",
            fix="give the encoder a square size",
        )
    if config.latent_dim != info.dim:
        raise ConfigError(
            f"the decoder reads latents of width {config.latent_dim}, and those of '{info.name}' have {info.dim}",
            where="decoder latent_dim",
            fix=f"build it with latent_dim={info.dim}",
        )
    if data.side_px != config.output_px:
        raise ConfigError(
            f"the decoder makes pictures of {config.output_px} px, and those of '{data.name}' have {data.side_px} px",
            where="generation.data.image_px",
            fix="the decoder's patch times its grid must be the picture's side",
        )
    if recipe.loss.lpips_weight > 0.0 and lpips is None:
        raise ConfigError(
            f"LPIPS has the weight {recipe.loss.lpips_weight:g}, and there is no network for it",
            where="generation.decoder.loss.lpips_weight",
            fix="name its weights by --lpips-weights, or set the weight to 0",
        )
    if recipe.loss.gan_weight > 0.0:
        raise ConfigError(
            f"the adversarial loss has the weight {recipe.loss.gan_weight:g}, and there is no discriminator",
            where="generation.decoder.loss.gan_weight",
            fix="name its backbone by --dino-weights, or set the weight to 0",
        )


def _loop(settings: OptimiserConfig, steps: int) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        lr=settings.schedule.base_lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        clip_norm=settings.clip_norm,
        checkpoint_every=settings.checkpoint_every,
        log_every=settings.log_every,
    )


def _reconstruction(
    pixels: nn.Module, batches: Batches, recipe: DecoderRecipe, processes: Processes, lpips: Perceptual | None
) -> Callable[[int], Mapping[str, Tensor]]:
    """Returns the step of L1 and LPIPS: gradients of the mean over the whole batch, in passes."""

    def backward(step: int) -> Mapping[str, Tensor]:
        sums: dict[str, Tensor] = {}
        pieces = batches(step)
        for number, piece in enumerate(pieces):
            with processes.summing_later(pixels, number + 1 < len(pieces)):
                terms = reconstruction_loss(pixels(batches.noised(piece)), piece.images_01, recipe.loss, lpips)
                (terms.total * piece.weight).backward()
            found = {"loss": terms.total, "l1": terms.l1, "lpips": terms.lpips}
            for key, term in found.items():
                if term is not None:
                    sums[key] = sums.get(key, torch.zeros_like(term)) + term.detach() * piece.weight
        return sums

    return backward
