"""Both stages of visual instruction tuning as cached steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from ovbench._base.files import copy_file
from ovbench.harness.features import Features
from ovbench.harness.step_runner import StepRunner
from ovbench.harness.steps import Step, StepResult
from ovbench.harness.training import Progress
from ovbench.harness.understanding.config import StageConfig
from ovbench.harness.understanding.feature_steps import FeatureSteps
from ovbench.harness.understanding.setting import Setting
from ovbench.harness.understanding.train import train_llava

WEIGHTS = "llava.safetensors"


class TrainingSteps:
    """Stage 1 and stage 2 of one run.

    Args:
        setting: Of the run.
        runner: Obtains the steps.
        features: Opens visual tokens.
    """

    def __init__(self, setting: Setting, runner: StepRunner, features: FeatureSteps) -> None:
        self.setting, self.runner, self.features = setting, runner, features

    @property
    def steps(self) -> list[Step]:
        """All steps in order; a new list."""
        return [self.features_step, self.stage1_step, self.stage2_step]

    @cached_property
    def features_step(self) -> Step:
        """The visual tokens of the training pictures."""
        return self.features.step(self.setting.training.digest, self.setting.spec("stage2"))

    @cached_property
    def stage1_step(self) -> Step:
        """The projector alone."""
        return self._step(1, (self.features_step.key,))

    @cached_property
    def stage2_step(self) -> Step:
        """Projector and language model."""
        return self._step(2, (self.features_step.key, self.stage1_step.key))

    @cached_property
    def _common(self) -> dict[str, Any]:
        setting = self.setting
        return {
            "language_model": setting.language_model,
            "projector": setting.config.projector,
            "precision": setting.config.precision,
            "data": setting.training.digest,
            "num_turns": setting.config.num_turns,
            "seed": setting.job.seed,
            "threads": setting.section["cpu_threads"],
        }

    def _step(self, stage: int, parents: tuple[str, ...]) -> Step:
        settings = _without_checkpoints(self.setting.config.stage(stage))
        return Step(name=f"llava_stage{stage}", version=1, inputs={**self._common, "stage": settings}, parents=parents)

    def train_features(self) -> Features:
        """Returns the visual tokens of the training pictures."""
        training = self.setting.training
        return self.features.open(
            self.features_step,
            self.setting.spec("stage2"),
            "features (train)",
            training.image_ids,
            training.image,
            self.num_reads,
        )

    @property
    def num_reads(self) -> float:
        """How many times the stages look at each picture."""
        config = self.setting.config
        looked = sum(stage.steps * stage.batch_size for stage in (config.stage1, config.stage2))
        return looked / len(self.setting.training.image_ids)

    def stage1(self) -> StepResult:
        """Returns the trained projector."""
        return self._train(1, self.stage1_step, (self.train_features,), lambda: None)

    def stage2(self) -> StepResult:
        """Returns the trained model."""
        # Contract: the start is asked for inside the build, so stage 2 can never begin from a fresh projector.
        return self._train(
            2, self.stage2_step, (self.train_features, self.stage1), lambda: self.stage1().path / WEIGHTS
        )

    def _train(
        self, stage: int, step: Step, parents: Sequence[Callable[[], object]], start: Callable[[], Path | None]
    ) -> StepResult:
        def build(out: Path, work: Path, progress: Progress) -> None:
            tokens = self.train_features()
            weights = train_llava(
                tokens,
                dim=tokens.dim,
                data=self.setting.training,
                config=self.setting.config,
                seed=self.setting.job.seed,
                folder=work,
                stage=stage,
                init=start(),
                source=self.features_step.key,
                progress=progress,
                device=self.setting.job.device,
            )
            copy_file(weights, out / WEIGHTS)
            self.runner.keep_training(out, work, ())

        return self.runner.obtain(step, f"stage {stage}", parents, build)


def _without_checkpoints(stage: StageConfig) -> dict[str, Any]:
    """Returns a stage's settings but for how often it is saved, which changes no weight."""
    return {name: value for name, value in asdict(stage).items() if name != "checkpoint_every"}
