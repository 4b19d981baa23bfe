"""The autoencoder of a generation run as cached steps: latents, statistics, decoder, reconstructions, health."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ovbench._base.files import read_json, write_json
from ovbench._base.fingerprint import file_sha256
from ovbench._base.seeding import derive
from ovbench.encoders.modeling.sources import seeded
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DiscriminatorConfig
from ovbench.harness.generation.decoder_weights import load_decoder
from ovbench.harness.generation.dino import load_dino
from ovbench.harness.generation.discriminator import Discriminator
from ovbench.harness.generation.given_parts import given_decoder
from ovbench.harness.generation.health import latent_health
from ovbench.harness.generation.latent_stats import LatentMoments, LatentStats, latent_fingerprint
from ovbench.harness.generation.latents import PASS, LatentEncoder, LatentStore, fold, store_latents
from ovbench.harness.generation.optimising import identity_of
from ovbench.harness.generation.picture_data import to_01
from ovbench.harness.generation.picture_parts import Content, Made
from ovbench.harness.generation.rae import RAE
from ovbench.harness.generation.setting import Setting
from ovbench.harness.generation.slots import Group, default_group_size, share_of_rank
from ovbench.harness.generation.stats_files import load_stats, save_stats
from ovbench.harness.generation.step_runner import Counted, PictureRunner
from ovbench.harness.generation.train_decoder import train_decoder
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.lpips import Lpips
from ovbench.harness.metrics.reconstruction import psnr, ssim
from ovbench.harness.steps import Step, StepResult
from ovbench.harness.training import Progress

STATS, DECODER, HEALTH = "stats.safetensors", "decoder.safetensors", "health.json"
SHEET_PAIRS = 16  # pictures that are kept to be looked at
_HEALTH_PICTURES = 128
_TEST_PASS = 32  # pictures of one pass of the scoring network over the test pictures


class AutoencoderSteps:
    """Encoder, statistics and decoder of one run.

    Args:
        setting: The parts of the run.
        runner: Obtains the steps.
    """

    def __init__(self, setting: Setting, runner: PictureRunner) -> None:
        self.setting, self.runner = setting, runner
        self._stats_by_device: dict[torch.device, LatentStats] = {}

    # --- latents and their statistics ---------------------------------------------------------------------------------

    @cached_property
    def _fingerprint(self) -> str:
        return latent_fingerprint(self.setting.encoder)

    @cached_property
    def _latents_step(self) -> Step | None:
        """The stored latents; None where they are encoded when they are needed."""
        recipe = self.setting.recipe
        if recipe.dit.latent_cache == "none":
            return None
        return Step(
            name="latents",
            version=1,
            inputs={
                "encoder": self._fingerprint,
                "data": self.setting.train.digest,
                "dtype": recipe.dit.latent_cache,
                "flips": recipe.dit.flips or recipe.stats.flips,
                "pass": PASS,
            },
        )

    @cached_property
    def _latents(self) -> LatentStore | LatentEncoder:
        """Raw latents of the training pictures."""
        processes = self.setting.processes
        self.setting.train.prepare(rank=processes.rank, num_ranks=processes.world_size)
        processes.barrier()
        source, step = LatentEncoder(self.setting.encoder, self.setting.train), self._latents_step
        if step is None:
            return source
        recipe = self.setting.recipe

        def build(out: Path, work: Path, progress: Progress) -> None:
            began = time.monotonic()
            encoded = store_latents(
                source,
                work / "latents",
                dtype="bfloat16" if recipe.dit.latent_cache == "bfloat16" else "float32",
                flips=recipe.dit.flips or recipe.stats.flips,
                processes=self.setting.processes,
                progress=progress,
            )
            self.runner.speed("encode", sum(self.setting.processes.gather(encoded)), began, "images/s")
            self.runner.take_over(work / "latents", out / "latents")

        return LatentStore(self.runner.obtain(step, "latents", (), build).path / "latents")

    @cached_property
    def stats_step(self) -> Step:
        """Statistics of the training pictures' latents, or the given ones."""
        recipe = self.setting.recipe.stats
        if (given := self.setting.given.get("stats")) is not None:
            return Step(name="latent_stats", version=1, inputs={"given": given, "encoder": self._fingerprint})
        return Step(
            name="latent_stats",
            version=1,
            inputs={"encoder": self._fingerprint, "data": self.setting.train.digest, **asdict(recipe)},
            parents=() if self._latents_step is None else (self._latents_step.key,),
        )

    @cached_property
    def stats(self) -> LatentStats:
        """What latents are normalised by."""

        def build(out: Path, work: Path, progress: Progress) -> None:
            del work
            stats = self.setting.given_stats() or self._computed_stats(progress)
            if self.setting.processes.is_main:
                save_stats(out / STATS, stats)

        parents = () if self.setting.options.stats is not None else (lambda: self._latents,)
        return load_stats(
            self.runner.obtain(self.stats_step, "latent_stats", parents, build).path / STATS, self.setting.encoder
        )

    def _computed_stats(self, progress: Progress) -> LatentStats:
        recipe, data = self.setting.recipe.stats, self.setting.train
        count = min(recipe.num_pictures or data.num_pictures, data.num_pictures)
        moments, done = LatentMoments(), 0
        processes = self.setting.processes
        own = share_of_rank(count, PASS, processes.rank, processes.world_size)
        for mirrored in (False, True) if recipe.flips else (False,):
            for indices, latents in self._latents.passes(own, mirrored=mirrored):
                moments.add(latents)
                done += len(indices)
                progress(done, len(own) * (1 + recipe.flips))
        total = LatentMoments()
        for state in self.setting.processes.gather(moments.state()):
            total.merge(LatentMoments.from_state(state))
        stats = total.stats(
            encoder=self._fingerprint,
            num_pictures=count,
            provenance={
                "data": data.name,
                "flips": recipe.flips,
                "encoder": self.setting.encoder.info.name,
                "estimator": "population, float64",
            },
        )
        return stats if recipe.use_mean else stats.without_mean()

    def normalised(self, indices: Sequence[int], mirrored: Sequence[bool]) -> Tensor:
        """Returns latents as stage 2 reads them: normalised and folded."""
        latents = self._latents(indices, mirrored)
        return fold(self._stats_on(latents.device).normalise(latents), self.setting.fold)

    def _stats_on(self, device: torch.device) -> LatentStats:
        if device not in self._stats_by_device:  # they move once
            self._stats_by_device[device] = self.stats.to(device)
        return self._stats_by_device[device]

    # --- the decoder -------------------------------------------------------------------------------------------------

    @cached_property
    def decoder_step(self) -> Step:
        """The trained decoder, the given one, or the encoder's own."""
        setting, recipe = self.setting, self.setting.recipe.decoder
        if setting.native:
            return Step(name="decoder", version=1, inputs={"native": self._fingerprint})
        if (given := setting.given.get("decoder")) is not None:
            return Step(name="decoder", version=1, inputs={"given": given})
        assert setting.decoder is not None
        return Step(
            name="decoder",
            version=1,
            inputs={
                "encoder": self._fingerprint,
                "data": setting.train.digest,
                "decoder": asdict(setting.decoder),
                "noise": asdict(recipe.noise),
                "loss": asdict(recipe.loss),
                "optimiser": identity_of(recipe.optimiser),
                "discriminator_lr": recipe.discriminator_lr,
                "perceptual": self._perceptual,
                "discriminator": "" if setting.dino is None else file_sha256(setting.dino),
                "seed": self.setting.job.seed,
                "threads": self.setting.recipe.cpu_threads,
            },
            parents=() if self._latents_step is None else (self._latents_step.key,),
        )

    @property
    def _perceptual(self) -> str:
        """The digest of the perceptual network that the decoder is trained with; empty without one."""
        network = self.setting.lpips if self.setting.recipe.decoder.loss.lpips_weight > 0 else None
        return "" if network is None else f"{network.weights_sha256} {network.heads_sha256}"

    @cached_property
    def _own_decoder(self) -> ViTDecoder | Literal["native"]:
        """The decoder, trained or given; or the encoder's own."""
        setting = self.setting
        if setting.native:
            return "native"
        assert setting.decoder is not None
        if (path := setting.options.decoder) is not None:
            decoder = given_decoder(path, setting.encoder, setting.decoder)
        else:
            decoder = load_decoder(self._decoder().path / DECODER, setting.decoder)
        return decoder.to(setting.processes.device)

    @cached_property
    def rae(self) -> RAE:
        """Encoder, statistics and decoder as one autoencoder: latents as the second stage has them."""
        return RAE(self.setting.encoder, self._own_decoder, self.stats)

    @cached_property
    def reconstructor(self) -> RAE:
        """Encoder and decoder alone: what is normalised and back again needs no statistics."""
        return RAE(self.setting.encoder, self._own_decoder)

    def _prepare_test(self) -> None:
        processes = self.setting.processes
        self.setting.test.prepare(rank=processes.rank, num_ranks=processes.world_size)
        processes.barrier()

    def _decoder(self) -> StepResult:
        setting = self.setting
        recipe, config = setting.recipe.decoder, setting.decoder
        assert config is not None

        def build(out: Path, work: Path, progress: Progress) -> None:
            stored = self._latents if isinstance(self._latents, LatentStore) else None
            began, counted = time.monotonic(), Counted(progress)
            weights = train_decoder(
                setting.encoder,
                setting.train,
                recipe,
                config,
                seed=self.setting.job.seed,
                folder=work,
                processes=self.setting.processes,
                lpips=setting.perceptual,
                discriminator=self._discriminator(),
                # The world draws no crops, so its decoder can read what is stored.
                latents=stored if setting.recipe.data.source == "world" else None,
                source=self._perceptual,
                progress=counted,
            )
            self.runner.keep_training(out, work, [weights])
            self.runner.speed("train decoder", counted.count * recipe.optimiser.batch_size, began, "images/s")

        return self.runner.obtain(self.decoder_step, "decoder", (lambda: self._latents,), build)

    def _discriminator(self) -> Discriminator | None:
        """Returns a discriminator that has learnt nothing yet; None where the decoder is trained without one."""
        setting = self.setting
        if setting.dino is None:
            return None
        dino = load_dino(setting.dino)
        seed = derive(setting.job.seed, "discriminator/init")
        return seeded(lambda: Discriminator(dino, DiscriminatorConfig()), seed).to(setting.processes.device)

    # --- reconstructions ---------------------------------------------------------------------------------------------

    @property
    def group_size(self) -> int:
        """Pictures of one pass through the decoder."""
        grid = self.setting.encoder.info.grid
        return default_group_size(grid[0] * grid[1], self.setting.processes.device)

    def test_features_step(self, extractor: Extractor, layers: Sequence[str]) -> Step:
        """Features of the test pictures."""
        return Step(
            name="features",
            version=2,
            inputs={
                "pictures": self.setting.test.digest,
                "extractor": extractor.info.fingerprint(),
                "layers": sorted(layers),
            },
        )

    def test_features(self, extractor: Extractor, layers: Sequence[str]) -> Content:
        """Returns the features of the test pictures, and the first of them."""
        data = self.setting.test

        def make(group: Group) -> Made:
            images = group.fill(torch.from_numpy(data.images_u8(group.indices)))
            return Made(images_u8=images.numpy(), values={})

        step = self.test_features_step(extractor, layers)
        return self.runner.passes(
            step,
            "features (test)",
            (self._prepare_test,),
            make,
            num_items=data.num_pictures,
            group_size=_TEST_PASS,
            num_kept=SHEET_PAIRS,
            num_shown=SHEET_PAIRS,
            extractor=extractor,
            layers=layers,
        )

    @property
    def _scoring_lpips(self) -> Lpips | None:
        """The perceptual network that reconstructions are scored with; None where no task asks for it."""
        asked = any("lpips" in task.metrics for task in self.setting.tasks)
        return self.setting.lpips if asked else None

    def reconstruction_step(self, extractor: Extractor, layers: Sequence[str]) -> Step:
        """Test pictures through encoder and decoder, as features and pair by pair."""
        lpips = self._scoring_lpips
        return Step(
            name="samples",
            version=2,
            inputs={
                "of": "reconstructions",
                "pictures": self.setting.test.digest,
                "encoder": self._fingerprint,
                "quantise": self.setting.sampling.quantise,
                "extractor": extractor.info.fingerprint(),
                "layers": sorted(layers),
                "lpips": "" if lpips is None else f"{lpips.weights_sha256} {lpips.heads_sha256}",
            },
            parents=(self.decoder_step.key,),
        )

    def reconstructions(self, extractor: Extractor, layers: Sequence[str]) -> Content:
        """Returns features of the reconstructions, how close each is to its original, and the first of them."""
        data, lpips = self.setting.test, self._scoring_lpips

        def make(group: Group) -> Made:
            originals = data.images_u8(group.indices)
            filled = group.fill(to_01(originals)).to(self.setting.processes.device)
            images = self.reconstructor.reconstruct_u8(filled, self.setting.sampling.quantise).cpu()
            pairs = (originals, group.take(images).numpy())
            values: dict[str, Any] = {"psnr": psnr(*pairs), "ssim": ssim(*pairs)}
            if lpips is not None:
                values["lpips"] = np.asarray(lpips(*pairs))
            return Made(images_u8=images.numpy(), values=values)

        step = self.reconstruction_step(extractor, layers)
        return self.runner.passes(
            step,
            "reconstructions",
            (self._prepare_test, lambda: self.reconstructor),
            make,
            num_items=data.num_pictures,
            group_size=self.group_size,
            num_kept=SHEET_PAIRS,
            num_shown=SHEET_PAIRS,
            extractor=extractor,
            layers=layers,
        )

    # --- health ------------------------------------------------------------------------------------------------------

    @cached_property
    def _health_step(self) -> Step:
        return Step(
            name="health",
            version=1,
            inputs={"pictures": self.setting.test.digest, "count": _HEALTH_PICTURES, "encoder": self._fingerprint},
            parents=(self.decoder_step.key, self.stats_step.key),
        )

    def health(self) -> dict[str, Any]:
        """Returns the figures of `latent_health` on the first test pictures, by name."""

        def build(out: Path, work: Path, progress: Progress) -> None:
            del work, progress
            count = min(_HEALTH_PICTURES, self.setting.test.num_pictures)
            images_01 = to_01(self.setting.test.images_u8(range(count))).to(self.setting.processes.device)
            latents = self.rae.encode(images_01)
            found = latent_health(self.rae.encode, self.rae.decode, latents, seed=0)
            if self.setting.processes.is_main:
                write_json(out / HEALTH, asdict(found))

        path = self.runner.obtain(self._health_step, "latent health", (lambda: self.rae,), build).path
        return read_json(path / HEALTH)

    @property
    def steps(self) -> list[Step]:
        """Steps that the autoencoder rests on, in order; reconstructions alone need no statistics."""
        generates = any(task.kind == "generation" for task in self.setting.tasks)
        stats = self.stats_step if generates else None
        return [step for step in (self._latents_step, stats, self.decoder_step) if step is not None]
