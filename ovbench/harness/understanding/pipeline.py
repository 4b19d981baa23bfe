"""The understanding suite for one encoder: features → stage 1 → stage 2 → answers, each a cached step.

Steps are asked for from the end: where the answers are cached, nothing before them is touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ovbench._base.files import copy_file, read_json, read_jsonl, write_json
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import asset_folder, feature_cache_bytes
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.registry import load_encoder
from ovbench.harness.events import Reporter
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.features import Features
from ovbench.harness.plan import Job
from ovbench.harness.steps import Step, StepCache, StepResult
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.data import WorldTrainingData
from ovbench.harness.understanding.evaluate import ANSWERS, answer, read_predictions
from ovbench.harness.understanding.llava import load_llava
from ovbench.harness.understanding.train import train_llava
from ovbench.tasks.base import Prediction, TaskData, TaskSpec
from ovbench.tasks.sources import load_data

log = logging.getLogger(__name__)
WEIGHTS = "llava.safetensors"
IMAGES = "images.json"  # of a features step: the digests of its pictures, by which the feature cache finds their tokens
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
    tap: Tap  # that the language model read
    answers: dict[str, Answers] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    not_scored: dict[tuple[str, str], str] = field(default_factory=dict)  # (task, control) → why
    throughput: dict[str, float | None] = field(default_factory=dict)  # units a second, of what was made now
    bypassed: dict[str, str] = field(default_factory=dict)  # features that were not cached → why


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
        self.section: Mapping[str, Any] = job.protocol.section("understanding")
        self.config = llava_config(self.section)
        self.tap = job.encoder.llm_tap or Tap(**self.section["tap"])  # the user's word comes before the protocol's
        self.encoder = load_encoder(job.encoder, device=job.device, dtype=job.dtype)
        self.training = WorldTrainingData(
            seed=self.section["world_seed"],
            num_scenes=self.section["num_train_scenes"],
            num_turns=self.section["num_turns"],
        )
        self.feature_cache = FeatureCache(cache.root / FOLDER, max_bytes=feature_cache_bytes())
        self._results: dict[str, StepResult] = {}
        self._sources: dict[str, Features] = {}
        self._feature_labels: dict[str, str] = {}
        self._work: dict[str, tuple[int, float]] = {"encode": (0, 0.0), "answer": (0, 0.0)}

    def run(self) -> Outcome:
        """Returns the answers of every task under every control, computing what is missing."""
        try:
            return self._run()
        finally:
            for source in self._sources.values():
                source.close()

    def _run(self) -> Outcome:
        outcome = Outcome(encoder=self.encoder, tap=self.tap)
        # Everything that can be wrong with a task's data is found before the training.
        loaded = [(spec, load_data(spec, limit=self.job.limit)) for spec in self.job.question_tasks]
        closure = [self._train_features_step, self._stage1_step, self._stage2_step]
        for spec, data in loaded:
            answers: dict[str, list[Prediction]] = {}
            closure.append(self._features_step(data.images_digest))
            for control in (MAIN, *self.section["controls"]):
                if control == "shuffled" and len(data.image_ids) < 2:
                    outcome.not_scored[spec.name, control] = "images cannot be shuffled: there are fewer than two"
                    continue
                answers[control] = read_predictions(self._answers(spec, data, control).path)
                closure.append(self._answers_step(spec, data, control))
            outcome.answers[spec.name] = Answers(data=data, by_control=answers)
        steps = {step.key: step for step in closure}
        outcome.steps = [self._results.get(key) or self.cache.describe(step) for key, step in steps.items()]
        outcome.throughput = {
            name: count / seconds if seconds > 0 else None for name, (count, seconds) in self._work.items()
        }
        outcome.bypassed = self._bypassed()
        return outcome

    def _obtain(
        self,
        step: Step,
        label: str,
        parents: Sequence[Callable[[], object]],
        build: Callable[[Path, Path, Any], None],
    ) -> StepResult:
        """Obtains a step once per run, its parents first where it is not there, with its progress under `label`."""
        if step.key not in self._results:
            if self.cache.find(step) is None:
                for parent in parents:
                    parent()

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
            version=2,
            inputs={
                "encoder": self.encoder.fingerprint(self.tap),
                "preprocess": asdict(self.encoder.info.input),
                "images": images_digest,
                "dtype": self.section["feature_dtype"],
            },
        )

    def _features(
        self, step: Step, label: str, image_ids: Sequence[str], image: Callable[[str], Any], num_reads: float
    ) -> Features:
        """Returns the tokens of a set of images; those that the feature cache lacks are encoded now.

        The step's own file only names the pictures: their tokens are shared with every other set that holds them.
        """
        if step.key in self._sources:
            return self._sources[step.key]

        def open_features(digests: Mapping[str, str]) -> Features:
            source = Features(
                self.encoder,
                image_ids,
                image,
                self.feature_cache,
                tap=self.tap,
                dtype=self.section["feature_dtype"],
                num_reads=num_reads,
                batch_asked=min(self.config.stage2.batch_size, self.job.batch_size),
                digests=digests,
            )
            self._sources[step.key], self._feature_labels[step.key] = source, label
            return source

        def build(out: Path, work: Path, progress: Any) -> None:
            del work
            source = open_features({})
            self._fill(source, progress)
            write_json(out / IMAGES, {"digests": source.digests, "namespace": source.namespace})

        result = self._obtain(step, label, (), build)
        if (source := self._sources.get(step.key)) is None:
            source = open_features(read_json(result.path / IMAGES)["digests"])
            if source.bypassed is None and source.missing():  # evicted since, or never stored
                began = time.monotonic()
                self._fill(source, self.reporter.step(label))
                self.reporter.ended(label, cached=False, seconds=time.monotonic() - began)
        return source

    def _bypassed(self) -> dict[str, str]:
        """Returns which features were not cached, by the label of their step, and why."""
        sources = self._sources.items()
        return {self._feature_labels[key]: source.bypassed for key, source in sources if source.bypassed is not None}

    def _fill(self, source: Features, progress: Any) -> None:
        before, began = source.num_encoded, time.monotonic()
        source.fill(progress)
        if source.num_encoded > before:
            self._count("encode", source.num_encoded - before, began)

    @cached_property
    def _train_features_step(self) -> Step:
        return self._features_step(self.training.digest)

    def _train_features(self) -> Features:
        return self._features(
            self._train_features_step,
            "features (train)",
            self.training.image_ids(1),
            self.training.image,
            self._num_training_reads(),
        )

    def _num_training_reads(self) -> float:
        """Returns how many times the two stages look at each image."""
        stages = (self.config.stage1, self.config.stage2)
        count = self.training.num_scenes
        return sum(stage.num_steps(count) * stage.batch_size for stage in stages) / count

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
            inputs={**self._common, "stage": _without_checkpoints(self.config.stage1)},
            parents=(self._train_features_step.key,),
        )

    @cached_property
    def _stage2_step(self) -> Step:
        return Step(
            name="llava_stage2",
            version=1,
            inputs={**self._common, "stage": _without_checkpoints(self.config.stage2)},
            parents=(self._train_features_step.key, self._stage1_step.key),
        )

    def _stage1(self) -> StepResult:
        return self._train(1, self._stage1_step, (self._train_features,), lambda: None)

    def _stage2(self) -> StepResult:
        # Contract: the start is asked for inside the build, so stage 2 can never begin from a fresh projector.
        return self._train(
            2, self._stage2_step, (self._train_features, self._stage1), lambda: self._stage1().path / WEIGHTS
        )

    def _train(
        self, stage: int, step: Step, parents: Sequence[Callable[[], object]], start: Callable[[], Path | None]
    ) -> StepResult:
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
                init=start(),
                source=self._train_features_step.key,
                progress=progress,
                device=self.job.device,
            )
            copy_file(weights, out / WEIGHTS)
            for path in work.glob("*.log.jsonl"):
                copy_file(path, out / path.name)

        return self._obtain(step, f"stage {stage}", parents, build)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _answers_step(self, spec: TaskSpec, data: TaskData, control: str) -> Step:
        return Step(
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
            parents=(self._stage2_step.key, self._features_step(data.images_digest).key),
        )

    def _answers(self, spec: TaskSpec, data: TaskData, control: str) -> StepResult:
        def features() -> Features:
            step = self._features_step(data.images_digest)
            # The picture itself, and once more as another's in the control; the blind control needs none.
            num_reads = 1.0 + ("shuffled" in self.section["controls"])
            return self._features(step, f"features ({spec.name})", data.image_ids, data.image, num_reads)

        def build(out: Path, work: Path, progress: Any) -> None:
            tokens = features()
            model = load_llava(self._stage2().path / WEIGHTS, self.config, dim=tokens.dim, device=self.job.device)
            _warn_of_unknown_words(model.tokenizer, spec, data)
            kept = work / ANSWERS
            num_before = len(read_jsonl(kept, drop_torn_tail=True)) if kept.is_file() else 0
            began = time.monotonic()
            answer(
                model,
                data,
                tokens,
                control=control,
                batch_size=self.job.batch_size,
                out=kept,
                max_new_tokens=self.section["max_new_tokens"],
                progress=progress,
            )
            self._count("answer", len(data.samples) - num_before, began)
            copy_file(kept, out / ANSWERS)

        label = f"answers ({spec.name})" if control == MAIN else f"answers ({spec.name}, {control})"
        return self._obtain(self._answers_step(spec, data, control), label, (self._stage2, features), build)


def _warn_of_unknown_words(tokenizer: Any, spec: TaskSpec, data: TaskData) -> None:
    """Says when a closed vocabulary cannot read the questions: such scores mean nothing."""
    if tokenizer.unk_token_id is None:
        return
    texts = [text for sample in data.samples for text in (sample.prompt, *sample.options)]
    ids = [number for row in tokenizer(texts, add_special_tokens=False)["input_ids"] for number in row]
    if unread := ids.count(tokenizer.unk_token_id):
        log.warning(
            "%s: the language model does not know %.0f%% of the words of the questions and options",
            spec.name,
            100 * unread / len(ids),
        )


def _without_checkpoints(stage: StageConfig) -> dict[str, Any]:
    """Returns a stage's settings but for how often it is saved, which changes no weight."""
    return stage.identity()
