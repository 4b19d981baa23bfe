"""The second stage of a generation run as cached steps: the diffusion transformer, and samples of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np

from ovbench._base.seeding import derive
from ovbench.harness.generation.autoencoder_steps import AutoencoderSteps
from ovbench.harness.generation.budget import guided_evaluations
from ovbench.harness.generation.flow_config import GuidanceConfig, SamplingConfig
from ovbench.harness.generation.latents import unfold
from ovbench.harness.generation.network import Stage2Network
from ovbench.harness.generation.network_weights import build_network, load_network
from ovbench.harness.generation.optimising import identity_of
from ovbench.harness.generation.picture_parts import Content, Made
from ovbench.harness.generation.sampling import Evaluations, Sampler, group_size_of
from ovbench.harness.generation.setting import Setting
from ovbench.harness.generation.slots import Group
from ovbench.harness.generation.step_runner import Counted, PictureRunner
from ovbench.harness.generation.train_dit import train_dit, weights_name
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.steps import Step, StepResult
from ovbench.harness.training import Progress

SHEET_COLUMNS = 10  # samples of a class that are kept to be looked at
_SHEET_PICTURES = 100  # at most
EVALUATIONS = "evaluations"  # of each sample: velocities, passes of the network and of the guide, int32 [N, 3]
UNTRAINED = "untrained"  # the moment before the first update


class SamplingSteps:
    """Stage 2 of one run.

    Args:
        setting: The parts of the run.
        runner: Obtains the steps.
        autoencoder: Gives latents to train on, and turns latents into pictures.
    """

    def __init__(self, setting: Setting, runner: PictureRunner, autoencoder: AutoencoderSteps) -> None:
        self.setting, self.runner, self.autoencoder = setting, runner, autoencoder
        self._all_pictures: dict[str, Content] = {}  # by the key of their step

    # --- training ----------------------------------------------------------------------------------------------------

    @cached_property
    def dit_step(self) -> Step:
        """The trained network, or the given one."""
        setting, recipe = self.setting, self.setting.recipe.dit
        if (given := setting.given.get("dit")) is not None:
            return Step(name="dit", version=1, inputs={"given": given, "network": asdict(setting.network)})
        return Step(
            name="dit",
            version=1,
            inputs={
                "network": asdict(setting.network),
                "optimiser": identity_of(recipe.optimiser),
                "transport": asdict(recipe.transport),
                "flips": recipe.flips,
                "probes": recipe.probes,
                "data": setting.train.digest,
                "fold": setting.fold,
                "seed": setting.job.seed,
                "threads": setting.recipe.cpu_threads,
            },
            parents=(self.autoencoder.stats_step.key,),
        )

    def _dit(self) -> StepResult:
        setting, recipe = self.setting, self.setting.recipe.dit
        data = setting.train

        def build(out: Path, work: Path, progress: Progress) -> None:
            began, counted = time.monotonic(), Counted(progress)
            weights = train_dit(
                self.autoencoder.normalised,
                data.labels(range(data.num_pictures)),
                setting.network,
                recipe,
                seed=setting.job.seed,
                folder=work,
                source=self.autoencoder.stats_step.key,
                processes=setting.processes,
                sharding=setting.options.sharding,
                compile=setting.options.compile,
                progress=counted,
            )
            self.runner.keep_training(out, work, [weights, *(work / weights_name(probe) for probe in recipe.probes)])
            self.runner.speed("train dit", counted.count * recipe.optimiser.batch_size, began, "images/s")

        return self.runner.obtain(self.dit_step, "dit", (lambda: self.autoencoder.stats,), build)

    def _network(self, moment: float | str | None) -> Stage2Network:
        """Returns the averaged weights of the end (None), of a moment of training in epochs, or as they started."""
        setting = self.setting
        if moment == UNTRAINED:
            network = build_network(setting.network, seed=derive(setting.job.seed, "dit/init"))
        else:
            epochs = moment if isinstance(moment, float) else None
            path = setting.options.dit or self._dit().path / weights_name(epochs)
            network = load_network(path, setting.network)
        return network.to(setting.processes.device).eval().requires_grad_(False)

    # --- samples -----------------------------------------------------------------------------------------------------

    @property
    def num_shown(self) -> int:
        """Samples that are looked at."""
        count = self.setting.sampling.num_samples
        return min(count, _SHEET_PICTURES, self.setting.recipe.data.num_classes * SHEET_COLUMNS)

    def _sampler_config(self, moment: float | str | None) -> SamplingConfig:
        config = self.setting.sampling.sampler
        if moment == UNTRAINED:
            # The velocity of a network that never learnt is 0 everywhere, so one step is as good as many.
            return replace(config, method="euler", grid="full", num_steps=1, guidance=GuidanceConfig())
        return config

    def samples_step(
        self, moment: float | str | None, extractor: Extractor, layers: Sequence[str], *, keeps_all: bool = False
    ) -> Step:
        """Samples as features, and some as pictures, or all."""
        setting = self.setting
        return Step(
            name="samples",
            version=2,
            inputs={
                "of": "samples",
                "moment": moment,
                "sampler": asdict(self._sampler_config(moment)),
                "num_samples": setting.sampling.num_samples,
                "quantise": setting.sampling.quantise,
                "shift": setting.shift,
                "seed": setting.job.seed,
                "num_kept": setting.sampling.num_samples if keeps_all else "few",
                "guide": None if setting.guide is None else [setting.given["guide"], asdict(setting.guide)],
                "extractor": extractor.info.fingerprint(),
                "layers": sorted(layers),
            },
            parents=(self.dit_step.key, self.autoencoder.stats_step.key, self.autoencoder.decoder_step.key),
        )

    def samples(self, moment: float | str | None, extractor: Extractor, layers: Sequence[str]) -> Content:
        """Returns the features of samples with their classes, and some of the pictures.

        Args:
            moment: None: the end of training; else epochs, or `UNTRAINED`.
            extractor: Network of the features.
            layers: Of the network.
        """
        saved = moment is None and self.setting.options.save_samples is not None
        # Contract: scores rest on the entry that keeps few pictures, whether all of them are wanted too or not, so that
        # the same run has one record. Where all are kept, that entry is cut out of theirs.
        source = (lambda: self._kept_path(extractor, layers)) if saved else None
        return self._passes(moment, extractor, layers, keeps_all=False, trimmed_from=source)

    def all_pictures(self, extractor: Extractor, layers: Sequence[str]) -> Content:
        """Returns the samples of the end with every picture kept; read once."""
        key = self.samples_step(None, extractor, layers, keeps_all=True).key
        if key not in self._all_pictures:
            self._all_pictures[key] = self._passes(None, extractor, layers, keeps_all=True)
        return self._all_pictures[key]

    def _kept_path(self, extractor: Extractor, layers: Sequence[str]) -> Path:
        self.all_pictures(extractor, layers)
        return self.runner.result(self.samples_step(None, extractor, layers, keeps_all=True)).path

    def _passes(
        self,
        moment: float | str | None,
        extractor: Extractor,
        layers: Sequence[str],
        *,
        keeps_all: bool,
        trimmed_from: Callable[[], Path] | None = None,
    ) -> Content:
        setting, config = self.setting, self._sampler_config(moment)
        label = "samples" if moment is None else f"samples ({moment_name(moment)})"
        parents = (self._dit_or_given, lambda: self.autoencoder.rae) if trimmed_from is None else (trimmed_from,)
        return self.runner.passes(
            self.samples_step(moment, extractor, layers, keeps_all=keeps_all),
            label if trimmed_from is None else f"{label} to look at",
            parents,
            self._maker(moment),
            num_items=setting.sampling.num_samples,
            group_size=group_size_of(config, setting.network, setting.processes.device),
            num_kept=setting.sampling.num_samples if keeps_all else self.num_shown,
            num_shown=self.num_shown,
            extractor=extractor,
            layers=layers,
            trimmed_from=trimmed_from,
        )

    def _maker(self, moment: float | str | None) -> Callable[[Group], Made]:
        """Returns what makes the pictures of a pass; networks are loaded at the first one."""
        setting, config = self.setting, self._sampler_config(moment)

        @cache
        def sampler() -> Sampler:
            guide = None
            if setting.guide is not None and setting.options.guide is not None and moment != UNTRAINED:
                guide = load_network(setting.options.guide, setting.guide).to(setting.processes.device)
            return Sampler(self._network(moment), config, seed=setting.job.seed, shift=setting.shift, guide=guide)

        def make(group: Group) -> Made:
            ((_, made),) = sampler().passes(group.indices)
            latents = unfold(group.fill(made.latents), setting.fold)
            images = self.autoencoder.rae.decode_u8(latents, setting.sampling.quantise).cpu().numpy()
            spent = np.asarray(astuple(sampler().evaluations), dtype=np.int32)
            costs = np.repeat(spent[None], len(made.labels), axis=0)
            return Made(images_u8=images, values={"labels": made.labels.numpy(), EVALUATIONS: costs})

        return make

    def evaluations(self, content: Content | None) -> Evaluations | None:
        """Returns how often networks ran for a sample of the end, the mean over all of them; None: not known.

        Args:
            content: The samples, where they are at hand. Where they do not say it, or are not, a fixed grid does.
        """
        if content is not None and EVALUATIONS in content.values:
            velocities, network, guide = content.values[EVALUATIONS].mean(axis=0).tolist()
            return Evaluations(velocities=velocities, network=network, guide=guide)
        config = self.setting.sampling.sampler
        counts = guided_evaluations(config, self.setting.shift)
        if counts is None:
            return None
        velocities, guided = counts
        kind = config.guidance.kind
        return Evaluations(
            velocities=velocities,
            network=velocities + (guided if kind == "cfg" else 0),
            guide=guided if kind == "auto" else 0,
        )

    def _dit_or_given(self) -> None:
        if self.setting.options.dit is None:
            self._dit()


def moment_name(moment: float | str) -> str:
    """Returns how a moment of training is called: `untrained`, `5 epochs`."""
    return moment if isinstance(moment, str) else f"{moment:g} epochs"
