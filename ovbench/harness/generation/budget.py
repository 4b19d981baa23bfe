"""Steps of the picture suites with their operations, from a protocol and the size of an encoder.

The counts are those of ovbench's own loops: one backward pass for the sum of the decoder's losses, and the encoder's
output is used by the discriminator's update too. On a GPU float32 means TF32, as `setting.fast_matmuls` has it; scoring
networks alone stay in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

from ovbench.harness.generation.config import Stage2Config, preset
from ovbench.harness.generation.cost import (
    FROZEN_PASSES,
    TRAINING_PASSES,
    decoder_flops,
    decoder_params,
    dino_flops,
    extractor_flops,
    heads_flops,
    vgg16_flops,
)
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.generation.flops import forward_flops
from ovbench.harness.generation.flow_config import SamplingConfig
from ovbench.harness.generation.guidance import in_interval
from ovbench.harness.generation.recipe_config import GenerationRecipe
from ovbench.harness.generation.solvers import TABLEAUS, is_adaptive, time_grid
from ovbench.harness.planning import PlannedStep, Precision, Work
from ovbench.tasks.pictures import PictureTask

IMAGENET_TRAIN, IMAGENET_TEST = 1_281_167, 50_000  # pictures (ILSVRC 2012, arXiv 1409.0575, table 2)
GUIDE = "dit-dh-s"  # RAE's guide (github.com/bytetriper/RAE, configs/stage2/sampling)


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCost:
    """What a run needs to know of an encoder."""

    name: str
    flops: int  # of one picture, without the front end
    params: int  # front end included
    shape: tuple[int, int, int]  # (C, h, w) of its latents
    fold: int = 1  # cells along a side that become channels before the transformer
    precision: Precision  # of the network; a VAE in front, or alone, stays in float32
    frontend_flops: int = 0  # of one picture, of a VAE in front or alone
    native_flops: int | None = None  # of its own decoder, whose parameters are among `params`; None: it has none

    @property
    def total_flops(self) -> int:
        """Operations of one picture."""
        return self.flops + self.frontend_flops

    def work(self, count: int) -> tuple[Work, ...]:
        """Returns the work of so many pictures."""
        parts = (
            Work(what="encoder", flops=count * self.flops, precision=self.precision),
            # Convolutions are run in TF32 by torch where nobody forbids it.
            Work(what="VAE in front" if self.flops else "VAE", flops=count * self.frontend_flops, precision="tf32"),
        )
        return tuple(part for part in parts if part.flops)


def on_gpu(precision: str) -> Precision:
    """Returns what a protocol's precision means in training and sampling on a GPU."""
    return "tf32" if precision == "float32" else "bfloat16"


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleCost:
    """Operations of one sample; None where the solver chooses its steps."""

    evaluations: int | None  # velocities that the solver asks for
    network: int | None  # operations of the network
    guide: int | None  # operations of the weaker network of autoguidance


def num_pictures(recipe: GenerationRecipe) -> tuple[int, int]:
    """Returns how many pictures a protocol trains on, and how many it reconstructs or compares with."""
    data = recipe.data
    if data.source == "world":
        assert data.num_train is not None
        assert data.num_test is not None  # DataConfig
        return data.num_train, data.num_test
    return data.num_train or IMAGENET_TRAIN, data.num_test or IMAGENET_TEST


def guided_evaluations(sampler: SamplingConfig, shift: float) -> tuple[int, int] | None:
    """Returns how often a sample asks for a velocity, and how many of these are guided; None: the solver decides.

    Args:
        sampler: Method, grid and guidance.
        shift: Of the times, see `TransportConfig.shift_of`.
    """
    if is_adaptive(sampler.method):
        return None
    times = torch.stack(
        [
            start + node * (end - start) if node < 1.0 else end
            for start, end in pairwise(time_grid(sampler.grid, sampler.num_steps, shift))
            for node in TABLEAUS[sampler.method].nodes
        ]
    )
    guided = int(in_interval(times, sampler.guidance.interval).sum()) if sampler.guidance.active else 0
    return len(times), guided


def sample_cost(network: Stage2Config, guide: Stage2Config, sampler: SamplingConfig, shift: float) -> SampleCost:
    """Returns the operations of the networks for one sample.

    Args:
        network: The transformer.
        guide: The weaker one; looked at under autoguidance alone.
        sampler: How a sample is made.
        shift: Of the times.
    """
    counts = guided_evaluations(sampler, shift)
    if counts is None:
        return SampleCost(evaluations=None, network=None, guide=None)
    evaluations, guided = counts
    twice = guided if sampler.guidance.kind == "cfg" else 0
    weaker = guided if sampler.guidance.kind == "auto" else 0
    return SampleCost(
        evaluations=evaluations,
        network=(evaluations + twice) * forward_flops(network).total,
        guide=weaker * forward_flops(guide).total,
    )


class Budget:
    """Steps, memory and disk of one encoder under a recipe.

    Args:
        recipe: The protocol's `generation` section, with what the user changed.
        encoder: The encoder.
        num_seeds: Runs; what does not depend on the seed is done once.
    """

    def __init__(self, recipe: GenerationRecipe, encoder: EncoderCost, *, num_seeds: int = 1) -> None:
        self.recipe, self.encoder, self.num_seeds = recipe, encoder, num_seeds
        self.num_train, self.num_test = num_pictures(recipe)
        channels, grid, _ = encoder.shape
        kind = recipe.decoder.kind
        self.is_native = kind == "native" or (kind == "auto" and encoder.native_flops is not None)
        self.decoder: DecoderConfig | None = None
        if not self.is_native:
            self.decoder = recipe.decoder_config(channels=channels, num_tokens=grid * grid)
        self.decode_flops = decoder_flops(self.decoder) if self.decoder is not None else encoder.native_flops or 0
        self.decoder_params = decoder_params(self.decoder) if self.decoder is not None else 0
        self.has_gan = self.decoder is not None and recipe.decoder.loss.gan_weight > 0.0
        self.has_lpips = self.decoder is not None and recipe.decoder.loss.lpips_weight > 0.0

    def decoder_step(self) -> PlannedStep | None:
        """Returns stage 1; None where the encoder has a decoder of its own."""
        if self.decoder is None:
            return None
        recipe, px = self.recipe.decoder, self.recipe.data.image_px
        optimiser, loss = recipe.optimiser, recipe.loss
        per_epoch = optimiser.steps_per_epoch(self.num_train) * optimiser.batch_size

        def images(from_epoch: int = 0) -> int:
            return round(max(0.0, optimiser.epochs - from_epoch) * per_epoch)

        low = on_gpu(optimiser.precision)
        work = [
            *(() if self._reads_stored else self.encoder.work(images())),
            Work(what="decoder", flops=TRAINING_PASSES * images() * self.decode_flops, precision=low),
        ]
        if self.has_lpips:  # both pictures forward, the reconstruction's gradient
            flops = (1 + FROZEN_PASSES) * images() * vgg16_flops(px)
            work.append(Work(what="LPIPS", flops=flops, precision="tf32"))
        if self.has_gan:
            backbone, heads = dino_flops(), heads_flops()
            judged, heard = images(loss.discriminator_from_epoch), images(loss.gan_from_epoch)
            # Two pictures, a real and a made one; the backbone runs forward, the heads are trained. Then the decoder's
            # gradient goes through both.
            in_backbone = (2 * judged + FROZEN_PASSES * heard) * backbone
            in_heads = (2 * TRAINING_PASSES * judged + FROZEN_PASSES * heard) * heads
            work += [
                Work(what="decoder, for the discriminator", flops=judged * self.decode_flops, precision=low),
                Work(what="discriminator's backbone", flops=in_backbone, precision="tf32"),
                Work(what="discriminator's heads", flops=in_heads, precision="tf32"),
            ]
        what = f"{recipe.preset} decoder, {optimiser.epochs:g} epochs of {self.num_train:,} pictures"
        return PlannedStep(name="decoder", what=what, work=tuple(work), repeats=self.num_seeds)

    @property
    def has_latents(self) -> bool:
        """Whether latents are stored."""
        return self.recipe.dit.latent_cache != "none"

    @property
    def _reads_stored(self) -> bool:
        """Whether the decoder learns on stored latents: the world alone draws no crops."""
        return self.has_latents and self.recipe.data.source == "world"

    @property
    def num_stored(self) -> int:
        """How many latents would be stored."""
        return self.num_train * (2 if self.recipe.dit.flips or self.recipe.stats.flips else 1)

    def stats_step(self) -> PlannedStep:
        """Returns the statistics of latents, of the stored ones where they are stored."""
        stats = self.recipe.stats
        count = min(stats.num_pictures or self.num_train, self.num_train) * (2 if stats.flips else 1)
        return PlannedStep(
            name="latent_stats",
            what=f"statistics of {count:,} latents",
            work=() if self.has_latents else self.encoder.work(count),
        )

    def latents_step(self) -> PlannedStep | None:
        """Returns the storing of latents; None where they are encoded when they are needed."""
        if not self.has_latents:
            return None
        count = self.num_stored
        return PlannedStep(name="latents", what=f"{count:,} latents, stored", work=self.encoder.work(count))

    @property
    def network(self) -> Stage2Config:
        """The diffusion transformer."""
        channels, grid = self._folded
        return self.recipe.network(channels=channels, grid=grid)

    @property
    def _folded(self) -> tuple[int, int]:
        """Channels and cells along a side that the transformer reads."""
        (channels, side, _), fold = self.encoder.shape, self.encoder.fold
        return channels * fold * fold, side // fold

    @property
    def guide(self) -> Stage2Config:
        """The weaker network that autoguidance would take."""
        channels, grid = self._folded
        return preset(GUIDE, in_channels=channels, input_size=grid, num_classes=self.recipe.data.num_classes)

    def dit_step(self) -> PlannedStep:
        """Returns stage 2."""
        recipe = self.recipe.dit
        optimiser = recipe.optimiser
        images = optimiser.num_steps(self.num_train) * optimiser.batch_size
        flops = TRAINING_PASSES * images * forward_flops(self.network).total
        work = [Work(what="network", flops=flops, precision=on_gpu(optimiser.precision))]
        if not self.has_latents:
            work += self.encoder.work(images)
        what = f"{recipe.preset}, {optimiser.epochs:g} epochs of {self.num_train:,} pictures"
        return PlannedStep(name="dit", what=what, work=tuple(work), repeats=self.num_seeds)

    @property
    def sample(self) -> SampleCost:
        """What the networks cost for one sample."""
        shift = self.recipe.dit.transport.shift_of(self.encoder.shape)
        return sample_cost(self.network, self.guide, self.recipe.sampling.sampler, shift)

    def samples_step(self, task: PictureTask) -> PlannedStep:
        """Returns sampling, decoding and the features of the samples: at the end, at each probe, and untrained.

        A network that never learnt gives zero everywhere, so its samples take one evaluation.
        """
        recipe, sample = self.recipe.sampling, self.sample
        low = on_gpu(recipe.sampler.precision)
        epochs = [*self.recipe.dit.probes, self.recipe.dit.optimiser.epochs]
        trained = recipe.num_samples * len(epochs)
        count = trained + recipe.num_samples
        work: list[Work] = []
        if sample.network is not None:
            flops = trained * sample.network + recipe.num_samples * forward_flops(self.network).total
            work.append(Work(what="network", flops=flops, precision=low))
        if sample.guide:
            work.append(Work(what="guide", flops=trained * sample.guide, precision=low))
        work += [self._decoding(count), self._features(task, count)]
        at = ", ".join(f"{epoch:g}" for epoch in epochs)
        steps = "steps that it chooses" if sample.evaluations is None else f"{sample.evaluations} evaluations"
        return PlannedStep(
            name="samples",
            what=f"{recipe.num_samples:,} samples untrained and after {at} epochs, {recipe.sampler.method}, {steps}",
            work=tuple(work),
            repeats=self.num_seeds,
            missing="" if sample.network is not None else f"{recipe.sampler.method} chooses its number of steps",
        )

    def reconstructions_step(self, task: PictureTask) -> PlannedStep:
        """Returns reconstructing the test pictures, with the features of the reconstructions."""
        count = self.num_test
        work = [*self.encoder.work(count), self._decoding(count), self._features(task, count)]
        if "lpips" in task.metrics:
            flops = 2 * count * vgg16_flops(self.recipe.data.image_px)
            work.append(Work(what="LPIPS", flops=flops, precision="float32", fixed=True))
        what = f"{count:,} test pictures, reconstructed"
        return PlannedStep(name="samples", what=what, work=tuple(work), repeats=self.num_seeds)

    def features_step(self, task: PictureTask) -> PlannedStep | None:
        """Returns the features of the test pictures; None where a file of statistics stands for them."""
        if task.reference != "test":
            return None
        return PlannedStep(
            name="features", what=f"{self.num_test:,} test pictures", work=(self._features(task, self.num_test),)
        )

    def scores_step(self, task: PictureTask) -> PlannedStep:
        """Returns scoring, which is not counted."""
        return PlannedStep(
            name="scores",
            what=f"{', '.join(task.metrics)} of {task.name}",
            repeats=self.num_seeds,
            missing="distances are a matter of minutes, and not counted",
        )

    def _decoding(self, count: int) -> Work:
        # No autocast outside of training.
        return Work(what="decoder", flops=count * self.decode_flops, precision="tf32")

    def _features(self, task: PictureTask, count: int) -> Work:
        flops = count * extractor_flops(task.extractor)
        return Work(what=task.extractor, flops=flops, precision="float32", fixed=True)
