"""Everything that a generation run needs, found and checked before the first second of training."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import cache_dir
from ovbench.encoders.base import Encoder
from ovbench.encoders.registry import EncoderSpec, load_encoder
from ovbench.harness.generation.budget import GUIDE
from ovbench.harness.generation.config import Stage2Config
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.generation.dino import load_dino
from ovbench.harness.generation.given_parts import (
    check_guidance_of,
    given_decoder,
    given_digests,
    given_stats,
    named_network,
)
from ovbench.harness.generation.imagenet_hub import is_hub_id
from ovbench.harness.generation.input_sizes import at_the_grid, fold_of, is_native
from ovbench.harness.generation.latent_stats import LatentStats
from ovbench.harness.generation.losses import Perceptual
from ovbench.harness.generation.network_weights import load_network
from ovbench.harness.generation.open_data import Pictures, open_pictures
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.picture_data import PictureData
from ovbench.harness.generation.picture_tasks import check_adm, check_task, open_adm
from ovbench.harness.generation.recipe_config import GenerationRecipe, SampleConfig, read_recipe
from ovbench.harness.generation.sample_folders import check_space
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.lpips import Lpips, load_lpips
from ovbench.harness.parallel import Processes, open_processes
from ovbench.harness.plan import Job
from ovbench.tasks.pictures import PictureTask

log = logging.getLogger(__name__)
DEFAULT_BATCH_SIZE = 64  # of questions, where a command names none
_DINO = ("dino_vit_small_patch8_224.pth", "dino_deitsmall8_pretrain.pth")  # RAE's file, and DINO's own


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The parts of one run, ready."""

    job: Job
    recipe: GenerationRecipe
    options: GenerationOptions
    sampling: SampleConfig  # the recipe's with what the user set
    processes: Processes
    encoder: Encoder
    pictures: Pictures | None  # None: everything that would be made of them was given
    tasks: tuple[PictureTask, ...]
    extractors: dict[str, Extractor]  # by name
    lpips: Lpips | None
    dino: Path | None  # backbone of the discriminator; None: the decoder is trained without one, or not trained
    native: bool  # the encoder decodes its own latents
    fold: int  # cells along a side that become channels
    decoder: DecoderConfig | None  # None: native
    network: Stage2Config  # of stage 2
    guide: Stage2Config | None
    given: Mapping[str, str]  # digests of what was not made here, by name of the option

    @property
    def train(self) -> PictureData:
        """Pictures to train on."""
        assert self.pictures is not None, "open_setting opens them where a step needs them"
        return self.pictures.train

    @property
    def test(self) -> PictureData:
        """Pictures to reconstruct and to compare with."""
        assert self.pictures is not None, "open_setting opens them where a step needs them"
        return self.pictures.test

    @property
    def trains_decoder(self) -> bool:
        """Whether stage 1 is trained here."""
        return not self.native and self.options.decoder is None

    @property
    def perceptual(self) -> Perceptual | None:
        """The perceptual network that the decoder is trained with."""
        return None if self.lpips is None or self.recipe.decoder.loss.lpips_weight == 0 else self.lpips.distance

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) as the encoder gives them."""
        return (self.encoder.info.dim, *self.encoder.info.grid)

    @property
    def shift(self) -> float:
        """Of times, by the numbers in a latent."""
        return self.recipe.dit.transport.shift_of(self.latent_shape)

    def given_stats(self) -> LatentStats | None:
        """Returns the statistics that the user named; see `load_stats`."""
        path = self.options.stats
        return None if path is None else given_stats(path, self.encoder)


def open_setting(job: Job, *, quiet: bool = False) -> Setting:
    """Finds and checks everything that a run names.

    Args:
        job: What to run.
        quiet: Say nothing of settings without effect: they are opened once more when the run begins.

    Raises:
        OvbenchError: Something is missing, damaged or does not fit; nothing was computed.
    """
    options = job.generation or GenerationOptions()
    recipe = read_recipe(job.protocol.section(job.suite), where=f"protocol '{job.protocol.name}', generation")
    tasks = tuple(cast(PictureTask, task) for task in job.tasks)
    processes = open_processes(job.device)
    # What lies on this machine is looked at first: nothing is fetched from a hub for a run that lacks a file here.
    extractors = _scoring_networks(tasks, options, processes)
    pictures = _local_pictures(tasks, recipe, options)
    surely_trains = recipe.decoder.kind == "rae" and options.decoder is None  # whatever the encoder is
    dino = _backbone(recipe, options) if surely_trains else None
    encoder = encoder_for(job.encoder, recipe, device=str(processes.device), dtype=job.dtype)
    native = _is_native(encoder, recipe, options)
    trains = not native and options.decoder is None
    fold, network, guide, decoder = _networks(encoder, recipe, options, native=native)
    if pictures is None and _needs_pictures(tasks, options, job.suite, trains_decoder=trains):
        pictures = open_pictures(recipe.data, options)
    setting = Setting(
        job=job,
        recipe=recipe,
        options=options,
        sampling=_sampling(recipe, options),
        processes=processes,
        encoder=encoder,
        pictures=pictures,
        tasks=tasks,
        extractors=extractors,
        lpips=_lpips(tasks, recipe, options, processes, trains_decoder=trains),
        dino=_backbone(recipe, options) if trains and not surely_trains else dino,
        native=native,
        fold=fold,
        decoder=decoder,
        network=network,
        guide=guide,
        given=given_digests(options),
    )
    _check_parts(setting)
    if not quiet and processes.is_main:
        _say_what_has_no_effect(setting)
    if options.save_samples is not None and not options.save_samples.exists():
        check_space(options.save_samples, setting.sampling.num_samples, recipe.data.image_px)
    return setting


def _needs_pictures(
    tasks: Sequence[PictureTask], options: GenerationOptions, suite: str, *, trains_decoder: bool
) -> bool:
    """Whether a run reads pictures: to train, to reconstruct, or to compare samples with them."""
    made_elsewhere = suite == "generation" and options.dit is not None and not trains_decoder
    return not made_elsewhere or options.data is not None or any(task.reference == "test" for task in tasks)


def _local_pictures(
    tasks: Sequence[PictureTask], recipe: GenerationRecipe, options: GenerationOptions
) -> Pictures | None:
    """Returns ImageNet where it lies on this machine; None: what is left is asked for when the encoder is known."""
    if recipe.data.source == "world":
        if options.data is not None:
            open_pictures(recipe.data, options)  # refuses it
        return None
    if options.data is None:
        if options.dit is None or any(task.reference == "test" for task in tasks):
            open_pictures(recipe.data, options)  # says that nobody said where it is
        return None
    return None if is_hub_id(options.data) else open_pictures(recipe.data, options)


def _scoring_networks(
    tasks: Sequence[PictureTask], options: GenerationOptions, processes: Processes
) -> dict[str, Extractor]:
    """Returns the networks of all tasks by name, checked against what is measured and compared."""
    extractors = {task.extractor: _scoring_network(task, options, processes) for task in tasks}
    for task in tasks:
        info = extractors[task.extractor].info
        check_task(task, info)
        if task.reference != "adm":
            continue
        if options.reference is None:
            raise ConfigError(
                f"the task '{task.name}' compares with ADM's statistics of the training set",
                where="--reference",
                fix="name the file: --reference VIRTUAL_imagenet256_labeled.npz",
            )
        check_adm(open_adm(options.reference), info, options.reference)
    return extractors


def _backbone(recipe: GenerationRecipe, options: GenerationOptions) -> Path | None:
    """Returns the checked file of the discriminator's backbone; None where the recipe trains no discriminator."""
    if recipe.decoder.loss.gan_weight <= 0:
        return None
    path = find_dino(options.dino_weights)
    load_dino(path)
    return path


def _lpips(
    tasks: Sequence[PictureTask],
    recipe: GenerationRecipe,
    options: GenerationOptions,
    processes: Processes,
    *,
    trains_decoder: bool,
) -> Lpips | None:
    """Returns the perceptual network; None where nothing is trained or scored with it."""
    trained = trains_decoder and recipe.decoder.loss.lpips_weight > 0
    if not trained and not any("lpips" in task.metrics for task in tasks):
        return None
    return load_lpips(options.lpips_weights, device=str(processes.device))


def _check_parts(setting: Setting) -> None:
    """Refuses given weights, probes and guidance that do not fit; what does not is said before anything is trained."""
    options, decoder, network = setting.options, setting.decoder, setting.network
    _ = setting.shift, setting.given_stats()
    if setting.pictures is not None and options.dit is None:
        setting.recipe.dit.probe_steps(setting.train.num_pictures)
    if options.decoder is not None and decoder is not None:
        given_decoder(options.decoder, setting.encoder, decoder)
    if options.dit is not None:
        load_network(options.dit, network)
    if options.guide is not None and setting.guide is not None:
        load_network(options.guide, setting.guide)
    check_guidance_of(setting.sampling.sampler.guidance, network)


def _scoring_network(task: PictureTask, options: GenerationOptions, processes: Processes) -> Extractor:
    try:
        return load_extractor(task.extractor, weights=options.extractor_weights, device=str(processes.device))
    except DataError as error:
        fix = error.fix.replace("--weights", "--extractor-weights")
        raise DataError(error.what, where=error.where, fix=fix) from error


def _say_what_has_no_effect(setting: Setting) -> None:
    options, loss = setting.options, setting.recipe.decoder.loss
    if options.reference is not None and all(task.reference == "test" for task in setting.tasks):
        log.warning("--reference has no effect: samples are compared with the protocol's test pictures")
    if options.lpips_weights is not None and setting.lpips is None and loss.lpips_weight == 0:
        log.warning("--lpips-weights has no effect: the protocol uses no LPIPS")
    if options.dino_weights is not None and loss.gan_weight == 0:
        log.warning("--dino-weights has no effect: the protocol trains no discriminator")
    if setting.job.batch_size != DEFAULT_BATCH_SIZE:
        log.warning("--batch-size has no effect on samples and reconstructions: it is of questions")
    if options.dit is not None:
        for flag, is_set in (("--compile", options.compile), ("--sharding", options.sharding != "none")):
            if is_set:
                log.warning("%s has no effect: the diffusion transformer is given, so none is trained", flag)


def encoder_for(spec: EncoderSpec, recipe: GenerationRecipe, *, device: str, dtype: Any) -> Encoder:
    """Returns the encoder at the input size that makes the recipe's grid; a size that the user asked for stays.

    Raises:
        ConfigError: See `at_the_grid`.
    """
    return at_the_grid(spec, recipe, lambda wanted: load_encoder(wanted, device=device, dtype=dtype))


def _is_native(encoder: Encoder, recipe: GenerationRecipe, options: GenerationOptions) -> bool:
    native = is_native(encoder.info, recipe)
    if native and options.decoder is not None:
        raise ConfigError(f"{encoder.info.name} decodes its own latents", where="--decoder", fix="leave --decoder out")
    return native


def _networks(
    encoder: Encoder, recipe: GenerationRecipe, options: GenerationOptions, *, native: bool
) -> tuple[int, Stage2Config, Stage2Config | None, DecoderConfig | None]:
    """Returns fold, second stage, guide and decoder for an encoder's latents."""
    channels, side = encoder.info.dim, encoder.info.grid[0]
    fold = fold_of(encoder.info, recipe)
    channels, grid = channels * fold**2, side // fold
    sizes = {"channels": channels, "grid": grid, "num_classes": recipe.data.num_classes}
    network = recipe.network(channels=channels, grid=grid)
    if options.dit_network is not None:
        network = named_network(options.dit_network, "--dit-network", **sizes)
    guide = None
    if options.guide is not None:
        guide = named_network(options.guide_network or GUIDE, "--guide-network", **sizes)
    decoder = None if native else recipe.decoder_config(channels=encoder.info.dim, num_tokens=side * side)
    return fold, network, guide, decoder


def find_dino(path: Path | None) -> Path:
    """Returns the file of DINO ViT-S/8 that was named, else one in ovbench's cache or in torch hub's folder.

    Raises:
        DataError: There is none.
    """
    if path is not None:
        return path
    folders = (cache_dir() / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        for name in _DINO:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"the backbone of the decoder's discriminator, DINO ViT-S/8, is not on this machine: '{_DINO[0]}'",
        where=" or ".join(str(folder) for folder in folders),
        fix=f"get it from the RAE collection of the hub or from DINO's page, put it into {folders[0]}, or name it: "
        "--dino-weights PATH",
    )


def _sampling(recipe: GenerationRecipe, options: GenerationOptions) -> SampleConfig:
    sampling = recipe.sampling
    if options.num_samples is not None:
        sampling = replace(sampling, num_samples=options.num_samples)
    if options.guidance is not None:
        sampling = replace(sampling, sampler=replace(sampling.sampler, guidance=options.guidance))
    return sampling


def fast_matmuls(processes: Processes) -> None:
    """Lets a GPU multiply float32 matrices in TF32 in training and sampling, as RAE does; scores never do."""
    if processes.device.type == "cuda":
        torch.set_float32_matmul_precision("high")
