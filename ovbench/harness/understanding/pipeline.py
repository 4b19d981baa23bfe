"""The understanding suite for one encoder: features → stage 1 → stage 2 → answers, each a cached step.

Steps are asked for from the end: where the answers are cached, nothing before them is touched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import asset_folder
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.registry import load_encoder
from ovbench.harness.events import Reporter
from ovbench.harness.features import FeatureStore, encode_images
from ovbench.harness.plan import Job
from ovbench.harness.steps import Step, StepCache, StepResult
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.data import WorldTrainingData
from ovbench.harness.understanding.evaluate import answer, read_predictions
from ovbench.harness.understanding.llava import load_llava
from ovbench.harness.understanding.train import train_llava
from ovbench.tasks.base import Prediction, TaskData, TaskSpec
from ovbench.tasks.sources import load_data

_DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
MAIN = "none"  # the control that is no control


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one task got from one run."""

    data: TaskData
    by_control: Mapping[str, list[Prediction]]  # `none` is the real thing


@dataclass(kw_only=True, slots=True)
class Outcome:
    """Everything a record needs of an understanding run."""

    encoder: Encoder
    answers: dict[str, Answers] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    throughput: dict[str, float | None] = field(default_factory=dict)  # units a second, of what was made now


def llava_config(section: Mapping[str, Any]) -> LlavaConfig:
    """Returns the training settings of a protocol's `understanding` section."""
    return LlavaConfig(
        language_model=str(asset_folder(section["language_model"])),
        projector=section["projector"],
        stage1=StageConfig(**section["stage1"]),
        stage2=StageConfig(**section["stage2"]),
        num_turns=section["num_turns"],
        precision=section["precision"],
    )


class UnderstandingRun:
    """One encoder through the understanding suite.

    Args:
        job: What to run.
        cache: Where finished steps are.
        reporter: Told about each step.
    """

    def __init__(self, job: Job, cache: StepCache, reporter: Reporter) -> None:
        self.job, self.cache, self.reporter = job, cache, reporter
        self.section: Mapping[str, Any] = job.protocol.content["understanding"]
        self.config = llava_config(self.section)
        self.tap = Tap(**self.section["tap"])
        self.encoder = load_encoder(job.encoder, device=job.device, dtype=job.dtype)
        self.training = WorldTrainingData(
            seed=self.section["world_seed"],
            num_scenes=self.section["num_train_scenes"],
            num_turns=self.section["num_turns"],
        )
        self._results: dict[str, StepResult] = {}
        self._work: dict[str, tuple[int, float]] = {"encode": (0, 0.0), "answer": (0, 0.0)}

    def run(self) -> Outcome:
        """Returns the answers of every task under every control, computing what is missing."""
        outcome = Outcome(encoder=self.encoder)
        for spec in self.job.tasks:
            data = load_data(spec, limit=self.job.limit)
            by_control = {
                control: read_predictions(self._answers(spec, data, control).path)
                for control in (MAIN, *self.section["controls"])
            }
            outcome.answers[spec.name] = Answers(data=data, by_control=by_control)
        outcome.steps = list(self._results.values())
        outcome.throughput = {
            name: count / seconds if seconds > 0 else None for name, (count, seconds) in self._work.items()
        }
        return outcome

    def _obtain(self, step: Step, label: str, build: Callable[[Path, Path, Any], None]) -> StepResult:
        """Obtains a step once per run, with its progress under `label`."""
        if step.key not in self._results:

            def build_and_report(out: Path, work: Path) -> None:
                build(out, work, self.reporter.step(label))

            result = self.cache.obtain(step, build_and_report)
            self.reporter.ended(label, cached=result.cached, seconds=result.seconds)
            self._results[step.key] = result
        return self._results[step.key]

    def _count(self, what: str, units: int, began: float) -> None:
        count, seconds = self._work[what]
        self._work[what] = (count + units, seconds + time.monotonic() - began)

    # --- frozen features -------------------------------------------------------------------------------------------

    def _features_step(self, images_digest: str) -> Step:
        return Step(
            name="features",
            version=1,
            inputs={
                "encoder": self.encoder.fingerprint(self.tap),
                "preprocess": asdict(self.encoder.info.input),
                "images": images_digest,
                "dtype": self.section["feature_dtype"],
            },
        )

    def _features(self, step: Step, label: str, image_ids: tuple[str, ...], image: Callable[[str], Any]) -> Path:
        def build(out: Path, work: Path, progress: Any) -> None:
            del work
            began = time.monotonic()
            encode_images(
                self.encoder,
                image_ids,
                image,
                out,
                tap=self.tap,
                dtype=_DTYPES[self.section["feature_dtype"]],
                progress=progress,
            )
            self._count("encode", len(image_ids), began)

        return self._obtain(step, label, build).path

    @cached_property
    def _train_features_step(self) -> Step:
        return self._features_step(self.training.digest)

    def _train_features(self) -> FeatureStore:
        path = self._features(
            self._train_features_step, "features (train)", self.training.image_ids, self.training.image
        )
        return FeatureStore(path)

    # --- two stages of training ------------------------------------------------------------------------------------

    @cached_property
    def _common(self) -> dict[str, Any]:
        folder = Path(self.config.language_model)
        return {
            "language_model": {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()},
            "projector": self.config.projector,
            "precision": self.config.precision,
            "data": self.training.digest,
            "num_turns": self.config.num_turns,
            "seed": self.job.seed,
            "threads": self.section["cpu_threads"],
        }

    @cached_property
    def _stage1_step(self) -> Step:
        return Step(
            name="llava_stage1",
            version=1,
            inputs={**self._common, "stage": asdict(self.config.stage1)},
            parents=(self._train_features_step.key,),
        )

    @cached_property
    def _stage2_step(self) -> Step:
        return Step(
            name="llava_stage2",
            version=1,
            inputs={**self._common, "stage": asdict(self.config.stage2)},
            parents=(self._train_features_step.key, self._stage1_step.key),
        )

    def _train(self, stage: int, step: Step, init: Path | None) -> Path:
        def build(out: Path, work: Path, progress: Any) -> None:
            tokens = self._train_features()
            weights = train_llava(
                tokens,
                dim=tokens.dim,
                data=self.training,
                config=self.config,
                seed=self.job.seed,
                folder=work,
                stage=stage,
                init=init,
                source=self._train_features_step.key,
                progress=progress,
                device=self.job.device,
            )
            (out / "llava.safetensors").write_bytes(weights.read_bytes())
            for path in work.glob("*.log.jsonl"):
                (out / path.name).write_bytes(path.read_bytes())

        return self._obtain(step, f"stage {stage}", build).path

    def _trained(self) -> Path:
        if self.cache.find(self._stage2_step) is None:
            stage1 = self._train(1, self._stage1_step, None)
            return self._train(2, self._stage2_step, stage1 / "llava.safetensors")
        return self._train(2, self._stage2_step, None)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answers(self, spec: TaskSpec, data: TaskData, control: str) -> StepResult:
        features_step = self._features_step(data.images_digest)
        step = Step(
            name="answers",
            version=1,
            inputs={
                "task": spec.name,
                "task_version": spec.version,
                "data": data.digest,
                "scoring": spec.scoring,
                "parser": spec.parser,
                "prompt": spec.prompt,
                "template": self.config.stage2.template,
                "control": control,
                "max_new_tokens": self.section["max_new_tokens"],
            },
            parents=(self._stage2_step.key, features_step.key),
        )

        def build(out: Path, work: Path, progress: Any) -> None:
            weights = self._trained() / "llava.safetensors"
            image_ids = tuple(dict.fromkeys(sample.image_id for sample in data.samples))
            tokens = FeatureStore(self._features(features_step, f"features ({spec.name})", image_ids, data.image))
            model = load_llava(weights, self.config, dim=tokens.dim, device=self.job.device)
            began = time.monotonic()
            answer(
                model,
                data,
                tokens,
                control=control,
                batch_size=self.job.batch_size,
                out=work / "answers.jsonl",
                max_new_tokens=self.section["max_new_tokens"],
                progress=progress,
            )
            self._count("answer", len(data.samples), began)
            (out / "answers.jsonl").write_bytes((work / "answers.jsonl").read_bytes())

        label = f"answers ({spec.name})" if control == MAIN else f"answers ({spec.name}, {control})"
        return self._obtain(step, label, build)
