"""RAE's first stage: a ViT decoder learns to turn the latents of a frozen encoder back into pictures.

Source: github.com/bytetriper/RAE, src/train_stage1.py; arXiv 2510.11690, section 4.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import nn

from ovbench._base.errors import ConfigError
from ovbench._base.files import make_dir
from ovbench._base.fingerprint import fingerprint
from ovbench._base.seeding import derive
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.sources import seeded
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_batches import Batches, Latents
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.generation.decoder_gan import Adversary
from ovbench.harness.generation.decoder_steps import DecoderSteps, Pixels
from ovbench.harness.generation.decoder_weights import save_decoder
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.latent_stats import latent_fingerprint
from ovbench.harness.generation.losses import Perceptual
from ovbench.harness.generation.optimising import identity_of, loop_config
from ovbench.harness.generation.picture_data import PictureData
from ovbench.harness.generation.rae import RAE
from ovbench.harness.generation.recipe_config import DecoderRecipe
from ovbench.harness.generation.schedules import EMA, learning_rate
from ovbench.harness.parallel import ALONE, Processes
from ovbench.harness.training import LoopConfig, Optimised, Progress, no_progress, train_parts, trainable

NAME = "decoder"
FILE = f"{NAME}.safetensors"


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
    discriminator: Discriminator | None = None,
    latents: Latents | None = None,
    source: str = "",
    progress: Progress = no_progress,
) -> Path:
    """Trains a decoder and returns the file of its average; the same call again continues where it was killed.

    The discriminator is updated after the decoder in each step from `discriminator_from_epoch` on. Its learning rate is
    the recipe's schedule counted from its first update, as in the reference: it warms up then, and its decay does not
    end with the training. `discriminator_lr` scales the whole schedule.

    Contract: sample k of the training (step * batch + place) is picture `training_order(seed, "decoder/order", k)`, and
    its crop, its noise and the discriminator's augmentations are drawn by k. Number of processes and size of a pass
    change nothing but rounding.

    Args:
        encoder: The frozen encoder.
        data: Pictures, of the side that the decoder makes.
        recipe: Noise, losses and optimisation.
        config: The decoder's architecture.
        seed: Of the run: initial weights, order, crops, noise.
        folder: Holds checkpoint, log and result; the same for all processes.
        processes: All call this, and the main one writes.
        tap: Layer and norm of the latents; None: the encoder's own choice.
        lpips: Perceptual distance of two batches in [-1, 1], on the device, such as `load_lpips(…).network`; needed
            where its weight is not 0.
        discriminator: With fresh heads, equal on all processes; needed where `gan_weight` is not 0. Its heads are
            trained in place, and are part of the checkpoint.
        latents: Latents before statistics by number of the picture, where they are cached; no augmentation may be
            drawn then. None: crops are encoded.
        source: Names what this cannot see and what changes the result (weights of `lpips`, precision of `latents`), so
            that a checkpoint of another is not used.
        progress: Told after each step.

    Returns:
        `decoder.safetensors`, beside `decoder.log.jsonl` and `decoder.state.safetensors`.

    Raises:
        ConfigError: Encoder, pictures, decoder and losses do not fit.
        DataError: `latents` gave another shape than the encoder's.
        OvbenchError: A loss became NaN or infinite; the last checkpoint is kept.
    """
    _check(encoder, data, recipe, config, lpips, discriminator)
    make_dir(folder)
    device, settings, loss = processes.device, recipe.optimiser, recipe.loss
    low = settings.precision == "bfloat16"
    decoder = seeded(lambda: ViTDecoder(config), derive(seed, "decoder/init")).to(device)
    pixels = Pixels(RAE(encoder, decoder, tap=tap), low=low)
    batches = Batches(pixels.rae, data, recipe, seed=seed, processes=processes, latents=latents)
    average = EMA(decoder, settings.ema)
    modules: dict[str, nn.Module] = {"decoder": decoder, "ema": average.module}
    per_epoch = settings.steps_per_epoch(data.num_pictures)
    loop = loop_config(settings, data.num_pictures)
    adversary: Adversary | None = None
    if loss.gan_weight > 0.0 and discriminator is not None:
        adversary = Adversary(discriminator.to(device), loss, batches, seed=seed, processes=processes, low=low)
        modules["heads"] = adversary.heads
    steps = DecoderSteps(
        pixels=pixels,
        parallel=processes.data_parallel(pixels),
        batches=batches,
        loss=loss,
        processes=processes,
        lpips=lpips,
        adversary=adversary,
    )
    parts = [
        Optimised(
            config=loop,
            parameters=trainable({"decoder": decoder}),
            lr_at=lambda step: learning_rate(step, settings.schedule, per_epoch),
            backward=lambda step: steps.backward(step, gan=loss.uses_gan(step // per_epoch)),
        )
    ]
    if adversary is not None:
        parts.append(_discriminator_part(adversary, pixels, recipe, loop, per_epoch))
    identity = {
        "noise": recipe.noise,
        "loss": recipe.loss,
        "optimiser": identity_of(settings),
        "discriminator_lr": recipe.discriminator_lr,
        "decoder": config,
        "data": data.digest,
        "num_pictures": data.num_pictures,
        "encoder": encoder.fingerprint(tap),
        "seed": seed,
        "discriminator": None if adversary is None else adversary.digest,
        "source": source,
    }
    train_parts(
        modules=modules,
        parts=parts,
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
        save_decoder(path, average.module, encoder=latent_fingerprint(encoder, tap))
    processes.barrier()
    return path


def _check(
    encoder: Encoder,
    data: PictureData,
    recipe: DecoderRecipe,
    config: DecoderConfig,
    lpips: Perceptual | None,
    discriminator: Discriminator | None,
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
    if recipe.loss.gan_weight > 0.0 and discriminator is None:
        raise ConfigError(
            f"the adversarial loss has the weight {recipe.loss.gan_weight:g}, and there is no discriminator",
            where="generation.decoder.loss.gan_weight",
            fix="name its backbone by --dino-weights, or set the weight to 0",
        )


def _discriminator_part(
    adversary: Adversary, pixels: Pixels, recipe: DecoderRecipe, loop: LoopConfig, per_epoch: int
) -> Optimised:
    """Returns the discriminator's optimiser: the decoder's settings, and its schedule from the first update on."""
    schedule, first = recipe.optimiser.schedule, recipe.loss.discriminator_from_epoch * per_epoch
    if recipe.discriminator_lr is not None:
        scale = recipe.discriminator_lr / schedule.base_lr
        schedule = replace(schedule, base_lr=recipe.discriminator_lr, final_lr=scale * schedule.final_lr)
    return Optimised(
        config=loop,
        parameters=trainable({"heads": adversary.heads}),
        lr_at=lambda step: learning_rate(step - first, schedule, per_epoch),
        backward=lambda step: adversary.learn(step, pixels),
        active=lambda step: recipe.loss.trains_discriminator(step // per_epoch),
        loss="discriminator",
    )
