"""Both stages of visual instruction tuning as cached steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from ovbench._base.files import copy_file, read_jsonl
from ovbench.harness.features import Features
from ovbench.harness.step_runner import StepRunner
from ovbench.harness.steps import Step, StepResult
from ovbench.harness.training import Progress
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.data import TrainingData
from ovbench.harness.understanding.feature_steps import FeatureSteps
from ovbench.harness.understanding.gate import check_stage1
from ovbench.harness.understanding.llava import load_llava
from ovbench.harness.understanding.setting import Setting, check_training_data
from ovbench.harness.understanding.train import train_llava

WEIGHTS = "llava.safetensors"


class TrainingSteps:
    """Stage 1 and stage 2 of one run.

    Args:
        setting: Of the run; with training data.
        runner: Obtains the steps.
        features: Opens visual tokens.
    """

    def __init__(self, setting: Setting, runner: StepRunner, features: FeatureSteps) -> None:
        self.setting, self.runner, self.features = setting, runner, features
        self._checked = False

    @property
    def steps(self) -> list[Step]:
        """All steps in order; a new list."""
        return [self.features_step(1), self.features_step(2), self.stage1_step, self.stage2_step]

    def features_step(self, stage: int) -> Step:
        """Returns the step of the visual tokens of a stage's pictures."""
        spec = self.setting.spec(self.setting.config.stage(stage).aspect)
        return self.features.step(self.setting.images_digest(stage), spec)

    @cached_property
    def stage1_step(self) -> Step:
        """The projector alone."""
        return self._step(1, (self.features_step(1).key,))

    @cached_property
    def stage2_step(self) -> Step:
        """Projector and language model."""
        return self._step(2, (self.features_step(2).key, self.stage1_step.key))

    @cached_property
    def _common(self) -> dict[str, Any]:
        setting = self.setting
        return {
            "language_model": setting.model_identity,
            "projector": setting.config.projector,
            "precision": setting.config.precision,
            "data": self._data.digest,
            "num_turns": setting.config.num_turns,
            "seed": setting.job.seed,
            "threads": setting.section.cpu_threads,
            **_unusual(setting.config),
        }

    def _step(self, stage: int, parents: tuple[str, ...]) -> Step:
        settings = self.setting.config.stage(stage).identity()
        return Step(name=f"llava_stage{stage}", version=1, inputs={**self._common, "stage": settings}, parents=parents)

    @property
    def _data(self) -> TrainingData:
        assert self.setting.training is not None, "nothing is trained where a trained model was given"
        return self.setting.training

    def train_features(self, stage: int) -> Features:
        """Returns the visual tokens of the pictures of a stage."""
        self._check()
        aspect = self.setting.config.stage(stage).aspect
        both = self.features_step(1).key == self.features_step(2).key
        return self.features.open(
            self.features_step(stage),
            self.setting.spec(aspect),
            "features (train)" if both else f"features (stage {stage})",
            self._data.image_ids(stage),
            self._data.image,
            self.num_reads(1) + self.num_reads(2) if both else self.num_reads(stage),
        )

    def _check(self) -> None:
        """Refuses what would end the training, before pictures are encoded for hours."""
        if self._checked:
            return
        for stage in (1, 2):
            self.setting.processes.share(self.setting.config.stage(stage).batch_size, "a batch")
        if not self.setting.preflights:
            check_training_data(self.setting)
        self._checked = True

    def num_reads(self, stage: int) -> float:
        """Returns how many times a stage looks at each of its pictures."""
        settings = self.setting.config.stage(stage)
        looked = settings.num_steps(self._data.size(stage)) * settings.batch_size
        return looked / len(self._data.image_ids(stage))

    def stage1(self) -> StepResult:
        """Returns the trained projector; the gate looks at it before stage 2 begins."""
        return self._train(1, self.stage1_step, (lambda: self.train_features(1),), lambda: None)

    def stage2(self) -> StepResult:
        """Returns the trained model."""
        # Contract: the start is asked for inside the build, so stage 2 can never begin from a fresh projector.
        return self._train(2, self.stage2_step, (lambda: self.train_features(2), self.stage1), self._gated)

    def _gated(self) -> Path:
        weights = self.stage1().path / WEIGHTS
        gate = self.setting.config.gate
        if gate.mode != "off":
            self._look_at_stage1(weights)
        return weights

    def _look_at_stage1(self, weights: Path) -> None:
        setting, tokens = self.setting, self.train_features(1)

        def look() -> None:
            model = load_llava(weights, setting.config, dim=tokens.dim, stage=1, device=str(setting.processes.device))
            report = check_stage1(
                model,
                tokens,
                self._data,
                log_rows=read_jsonl(weights.parent / "stage1.log.jsonl"),
                config=setting.config.gate,
                strict_reference=setting.config.strict_reference,
                report=setting.gate_report(self.stage1_step.key),
            )
            report.enforce(where=str(weights.parent))

        setting.processes.on_main(look)

    def _train(
        self, stage: int, step: Step, parents: Sequence[Callable[[], object]], start: Callable[[], Path | None]
    ) -> StepResult:
        def build(out: Path, work: Path, progress: Progress) -> None:
            init, tokens = start(), self.train_features(stage)
            weights = train_llava(
                tokens,
                dim=tokens.dim,
                data=self._data,
                config=self.setting.config,
                seed=self.setting.job.seed,
                folder=work,
                stage=stage,
                init=init,
                source=self.features_step(stage).key,
                progress=progress,
                device=self.setting.job.device,
                processes=self.setting.processes,
                sharding=self.setting.options.sharding,
            )
            if self.setting.processes.is_main:
                copy_file(weights, out / WEIGHTS)
            self.runner.keep_training(out, work, ())

        return self.runner.obtain(step, f"stage {stage}", parents, build)


def _unusual(config: LlavaConfig) -> dict[str, Any]:
    """Returns settings that came after the first recipes and are not at their defaults."""
    found: dict[str, Any] = {}
    usual = LlavaConfig(language_model=config.language_model)
    for name in ("max_length", "strict_reference"):
        if getattr(config, name) != getattr(usual, name):
            found[name] = getattr(config, name)
    if config.gate.num_held_out:
        found["num_held_out"] = config.gate.num_held_out
    return found
