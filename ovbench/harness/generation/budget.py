"""Steps of the picture suites with their operations, memory and disk, from a protocol and the size of an encoder.

The training counts are those of ovbench's own loops: one backward pass for the sum of the losses, and the encoder's
output is used by the discriminator's update too.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from ovbench.harness.generation.config import Stage2Config, preset
from ovbench.harness.generation.cost import (
    CHECKPOINT_BYTES,
    EXTRACTOR_FEATURES,
    VGG16_PARAMS,
    WEIGHT_BYTES,
    decoder_flops,
    decoder_params,
    dino_flops,
    dino_params,
    extractor_flops,
    heads_flops,
    heads_params,
    latent_bytes,
    network_params,
    picture_bytes,
    training_bytes,
    vgg16_flops,
)
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.generation.flops import forward_flops
from ovbench.harness.generation.flow_config import SamplingConfig
from ovbench.harness.generation.recipe_config import GenerationRecipe
from ovbench.harness.generation.solvers import TABLEAUS, is_adaptive, time_grid
from ovbench.harness.planning import Amount, Forecast, PlannedStep, Precision, Work
from ovbench.tasks.pictures import PictureTask

IMAGENET_TRAIN, IMAGENET_TEST = 1_281_167, 50_000  # pictures (ILSVRC 2012, arXiv 1409.0575, table 2)
GUIDE = "dit-dh-s"  # RAE's guide (github.com/bytetriper/RAE, configs/stage2/sampling)
TRAINING_PASSES = 3  # forward, and twice as much backward
FROZEN_PASSES = 2  # forward, and backward to the input alone


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderCost:
    """What a run needs to know of an encoder."""

    name: str
    flops: int  # of one picture, without the front end
    params: int  # front end included
    shape: tuple[int, int, int]  # (C, h, w) of the latents that the decoder and the transformer read
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
            # Convolutions: torch runs them in TF32 where nobody forbids it.
            Work(what="VAE in front" if self.flops else "VAE", flops=count * self.frontend_flops, precision="tf32"),
        )
        return tuple(part for part in parts if part.flops)


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
    nodes, (low, high) = TABLEAUS[sampler.method].nodes, sampler.guidance.interval
    times = [
        float(start + node * (end - start)) if node < 1.0 else float(end)
        for start, end in pairwise(time_grid(sampler.grid, sampler.num_steps, shift))
        for node in nodes
    ]
    guided = sum(low <= time <= high for time in times) if sampler.guidance.active else 0
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
        self._decode = decoder_flops(self.decoder) if self.decoder is not None else encoder.native_flops or 0
        self._decoder_params = decoder_params(self.decoder) if self.decoder is not None else 0
        self._has_gan = self.decoder is not None and recipe.decoder.loss.gan_weight > 0.0
        self._has_lpips = self.decoder is not None and recipe.decoder.loss.lpips_weight > 0.0

    # --- steps -----------------------------------------------------------------------------------------------------

    def decoder_step(self) -> PlannedStep | None:
        """Returns stage 1; None where the encoder has a decoder of its own."""
        if self.decoder is None:
            return None
        recipe, px = self.recipe.decoder, self.recipe.data.image_px
        optimiser, loss = recipe.optimiser, recipe.loss
        per_epoch = optimiser.steps_per_epoch(self.num_train) * optimiser.batch_size

        def images(from_epoch: int = 0) -> int:
            return round(max(0.0, optimiser.epochs - from_epoch) * per_epoch)

        low: Precision = optimiser.precision
        work = [
            *self.encoder.work(images()),
            Work(what="decoder", flops=TRAINING_PASSES * images() * self._decode, precision=low),
        ]
        if self._has_lpips:  # both pictures forward, the reconstruction's gradient
            flops = (1 + FROZEN_PASSES) * images() * vgg16_flops(px)
            work.append(Work(what="LPIPS", flops=flops, precision="tf32"))
        if self._has_gan:
            backbone, heads = dino_flops(), heads_flops()
            judged, heard = images(loss.discriminator_from_epoch), images(loss.gan_from_epoch)
            # Two pictures, a real and a made one; the backbone runs forward, the heads are trained. Then the decoder's
            # gradient goes through both.
            in_backbone = (2 * judged + FROZEN_PASSES * heard) * backbone
            in_heads = (2 * TRAINING_PASSES * judged + FROZEN_PASSES * heard) * heads
            work += [
                Work(what="decoder, for the discriminator", flops=judged * self._decode, precision=low),
                Work(what="discriminator's backbone", flops=in_backbone, precision="float32"),
                Work(what="discriminator's heads", flops=in_heads, precision="tf32"),
            ]
        what = f"{recipe.preset} decoder, {optimiser.epochs:g} epochs of {self.num_train:,} pictures"
        return PlannedStep(name="decoder", what=what, work=tuple(work), repeats=self.num_seeds)

    def stats_step(self) -> PlannedStep:
        """Returns the statistics of latents."""
        stats = self.recipe.stats
        count = min(stats.num_pictures or self.num_train, self.num_train) * (2 if stats.flips else 1)
        return PlannedStep(name="latent_stats", what=f"statistics of {count:,} latents", work=self.encoder.work(count))

    def latents_step(self) -> PlannedStep | None:
        """Returns the storing of latents; None where they are encoded when they are needed."""
        if self.recipe.dit.latent_cache == "none":
            return None
        count = self.num_train * (2 if self.recipe.dit.flips else 1)
        return PlannedStep(name="latents", what=f"{count:,} latents, stored", work=self.encoder.work(count))

    @property
    def network(self) -> Stage2Config:
        """The diffusion transformer."""
        return self.recipe.network(channels=self.encoder.shape[0], grid=self.encoder.shape[1])

    @property
    def guide(self) -> Stage2Config:
        """The weaker network that autoguidance would take."""
        channels, grid, _ = self.encoder.shape
        return preset(GUIDE, in_channels=channels, input_size=grid, num_classes=self.recipe.data.num_classes)

    def dit_step(self) -> PlannedStep:
        """Returns stage 2."""
        recipe = self.recipe.dit
        optimiser = recipe.optimiser
        images = optimiser.num_steps(self.num_train) * optimiser.batch_size
        flops = TRAINING_PASSES * images * forward_flops(self.network).total
        work = [Work(what="network", flops=flops, precision=optimiser.precision)]
        if recipe.latent_cache == "none":
            work += self.encoder.work(images)
        what = f"{recipe.preset}, {optimiser.epochs:g} epochs of {self.num_train:,} pictures"
        return PlannedStep(name="dit", what=what, work=tuple(work), repeats=self.num_seeds)

    @property
    def sample(self) -> SampleCost:
        """What the networks cost for one sample."""
        shift = self.recipe.dit.transport.shift_of(self.encoder.shape)
        return sample_cost(self.network, self.guide, self.recipe.sampling.sampler, shift)

    def samples_step(self, task: PictureTask) -> PlannedStep:
        """Returns sampling, decoding and the features of the samples, at the end and at each probe."""
        recipe, sample = self.recipe.sampling, self.sample
        count, low = recipe.num_samples, recipe.sampler.precision
        work = [
            Work(what="decoder", flops=count * self._decode, precision=low),
            self._features(task, count),
        ]
        if sample.network is not None:
            work.insert(0, Work(what="network", flops=count * sample.network, precision=low))
        if sample.guide:
            work.insert(1, Work(what="guide", flops=count * sample.guide, precision=low))
        epochs = [*self.recipe.dit.probes, self.recipe.dit.optimiser.epochs]
        at = ", ".join(f"{epoch:g}" for epoch in epochs)
        steps = "steps that it chooses" if sample.evaluations is None else f"{sample.evaluations} evaluations"
        return PlannedStep(
            name="samples",
            what=f"{count:,} samples after {at} epochs, {recipe.sampler.method}, {steps}",
            work=tuple(work),
            repeats=self.num_seeds * len(epochs),
            missing="" if sample.network is not None else f"{recipe.sampler.method} chooses its number of steps",
        )

    def reconstructions_step(self, task: PictureTask) -> PlannedStep:
        """Returns reconstructing the test pictures, and the features of both."""
        low = self.recipe.sampling.sampler.precision
        work = [
            *self.encoder.work(self.num_test),
            Work(what="decoder", flops=self.num_test * self._decode, precision=low),
            self._features(task, 2 * self.num_test),
        ]
        if "lpips" in task.metrics:
            flops = 2 * self.num_test * vgg16_flops(self.recipe.data.image_px)
            work.append(Work(what="LPIPS", flops=flops, precision="float32", fixed=True))
        what = f"{self.num_test:,} test pictures, reconstructed"
        return PlannedStep(name="reconstructions", what=what, work=tuple(work), repeats=self.num_seeds)

    def scores_step(self, task: PictureTask) -> PlannedStep:
        """Returns scoring; the distances themselves are not counted."""
        work = (self._features(task, self.num_test),) if task.kind == "generation" and task.reference == "test" else ()
        return PlannedStep(
            name="scores",
            what=f"{', '.join(task.metrics)} of {task.name}",
            work=work,
            missing="" if work else "distances are a matter of minutes, and not counted",
        )

    def _features(self, task: PictureTask, count: int) -> Work:
        flops = count * extractor_flops(task.extractor)
        return Work(what=task.extractor, flops=flops, precision="float32", fixed=True)

    # --- memory and disk -------------------------------------------------------------------------------------------

    def _decoder_memory(self) -> Amount:
        frozen = self.encoder.params + (VGG16_PARAMS if self._has_lpips else 0)
        total = training_bytes(self._decoder_params, frozen + (dino_params() if self._has_gan else 0))
        if self._has_gan:  # the heads have no moving average
            total += heads_params() * (4 + 4 + 8)
        return Amount(what="training the decoder", num_bytes=total)

    def _dit_memory(self) -> Amount:
        encoder = self.encoder.params if self.recipe.dit.latent_cache == "none" else 0
        total = training_bytes(network_params(self.network), encoder)
        return Amount(what="training the transformer", num_bytes=total)

    def _pictures_disk(self) -> list[Amount]:
        if self.recipe.data.source != "imagenet":
            return []
        px = self.recipe.data.image_px
        return [
            Amount(what=f"training pictures at {px} px", num_bytes=picture_bytes(self.num_train, px)),
            Amount(what=f"test pictures at {px} px", num_bytes=picture_bytes(self.num_test, px)),
        ]

    def _decoder_disk(self) -> list[Amount]:
        if self.decoder is None:
            return []
        heads = heads_params() if self._has_gan else 0
        checkpoint = self._decoder_params * CHECKPOINT_BYTES + heads * (4 + 8)
        return [
            Amount(what="weights of the decoder", num_bytes=self.num_seeds * self._decoder_params * WEIGHT_BYTES),
            Amount(what="checkpoint of the decoder, while it is trained", num_bytes=checkpoint),
        ]

    def _generation_disk(self, task: PictureTask) -> list[Amount]:
        recipe, params = self.recipe, network_params(self.network)
        count, scored = recipe.sampling.num_samples, self.num_seeds * (1 + len(recipe.dit.probes))
        cache = recipe.dit.latent_cache
        stored = "bfloat16" if cache == "none" else cache
        latents = latent_bytes(self.num_train, self.encoder.shape, stored, flips=recipe.dit.flips)
        px = recipe.data.image_px
        return [
            Amount(
                what=f"latents in {stored}" + (", if they are stored" if cache == "none" else ""),
                num_bytes=latents,
                optional=cache == "none",
            ),
            Amount(what="weights of the transformer", num_bytes=scored * params * WEIGHT_BYTES),
            Amount(what="checkpoint of the transformer, while it is trained", num_bytes=params * CHECKPOINT_BYTES),
            Amount(what="features of samples", num_bytes=scored * count * EXTRACTOR_FEATURES[task.extractor] * 4),
            Amount(what="samples as npz, on request", num_bytes=picture_bytes(count, px), optional=True),
        ]

    # --- the whole -------------------------------------------------------------------------------------------------

    def generation(self, task: PictureTask) -> Forecast:
        """Returns what the generation suite does."""
        steps = [
            self.decoder_step(),
            self.stats_step(),
            self.latents_step(),
            self.dit_step(),
            self.samples_step(task),
            self.scores_step(task),
        ]
        sample, guidance = self.sample, self.recipe.sampling.sampler.guidance
        flops = None if sample.network is None else sample.network + (sample.guide or 0) + self._decode
        params, forward = self._networks()
        params[self.recipe.dit.preset] = network_params(self.network)
        forward[self.recipe.dit.preset] = forward_flops(self.network).total
        notes = self._notes()
        if guidance.active and guidance.kind == "auto":
            params[f"guide {GUIDE}"] = network_params(self.guide)
            forward[f"guide {GUIDE}"] = forward_flops(self.guide).total
            notes.append(f"the guide is taken to be {GUIDE}, whose weights must be given; its training is not counted")
        return Forecast(
            encoder=self.encoder.name,
            steps=tuple(step for step in steps if step is not None),
            params=params,
            forward_flops=forward,
            sample_flops=flops,
            sample_precision=self.recipe.sampling.sampler.precision,
            memory=(*([] if self.decoder is None else [self._decoder_memory()]), self._dit_memory()),
            disk=(*self._pictures_disk(), *self._decoder_disk(), *self._generation_disk(task)),
            notes=tuple(notes),
        )

    def reconstruction(self, task: PictureTask) -> Forecast:
        """Returns what the reconstruction suite does."""
        steps = [self.decoder_step(), self.reconstructions_step(task), self.scores_step(task)]
        params, forward = self._networks()
        features = 2 * self.num_test * EXTRACTOR_FEATURES[task.extractor] * 4
        return Forecast(
            encoder=self.encoder.name,
            steps=tuple(step for step in steps if step is not None),
            params=params,
            forward_flops=forward,
            memory=() if self.decoder is None else (self._decoder_memory(),),
            disk=(
                *self._pictures_disk(),
                *self._decoder_disk(),
                Amount(what="features of pictures and reconstructions", num_bytes=features),
            ),
            notes=tuple(self._notes()),
        )

    def _networks(self) -> tuple[dict[str, int], dict[str, int]]:
        name = "its own decoder" if self.decoder is None else f"decoder {self.recipe.decoder.preset}"
        params = {"encoder": self.encoder.params, name: self._decoder_params}
        return {key: value for key, value in params.items() if value}, {
            "encoder": self.encoder.total_flops,
            name: self._decode,
        }

    def _notes(self) -> list[str]:
        notes: list[str] = []
        if self.decoder is None:
            notes.append("the encoder has a decoder of its own, so none is trained")
        if self.recipe.data.source == "world":
            notes.append("networks this small never reach such a share of a GPU's peak: go by what a step took once")
        return notes
