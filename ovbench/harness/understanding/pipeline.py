"""The understanding suite for one encoder: features → stage 1 → stage 2 → answers, each a cached step.

Steps are asked for from the end: where the answers are cached, nothing before them is touched.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ovbench._base.files import copy_file, read_jsonl
from ovbench._base.paths import feature_cache_bytes
from ovbench.encoders.base import Encoder, Tap
from ovbench.harness.events import Reporter
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.features import Features
from ovbench.harness.plan import Job
from ovbench.harness.step_runner import StepRunner
from ovbench.harness.steps import Step, StepCache, StepResult
from ovbench.harness.training import Progress
from ovbench.harness.understanding.evaluate import ANSWERS, answer, judged_again, read_predictions
from ovbench.harness.understanding.feature_steps import FeatureSteps
from ovbench.harness.understanding.llava import Llava, load_llava
from ovbench.harness.understanding.options_config import scoring_of
from ovbench.harness.understanding.setting import Setting, open_setting
from ovbench.harness.understanding.training_steps import WEIGHTS, TrainingSteps
from ovbench.results.record import MAIN
from ovbench.tasks.base import Prediction, TaskData, TaskSpec
from ovbench.tasks.sources import load_data

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Answers:
    """What one task got from one run."""

    data: TaskData
    by_control: Mapping[str, list[Prediction]]  # `none` is the real thing


@dataclass(kw_only=True, slots=True)
class Outcome:
    """Everything a record needs of an understanding run."""

    setting: Setting
    encoder: Encoder
    tap: Tap  # that the language model read
    answers: dict[str, Answers] = field(default_factory=dict)
    steps: list[StepResult] = field(default_factory=list)
    not_scored: dict[tuple[str, str], str] = field(default_factory=dict)  # (task, control) → why
    throughput: dict[str, float | None] = field(default_factory=dict)  # units a second, of what was made now
    bypassed: dict[str, str] = field(default_factory=dict)  # features that were not cached → why


class UnderstandingRun:
    """One encoder through the understanding suite.

    Args:
        job: What to run.
        cache: Where finished steps are.
        reporter: Told about each step.

    Raises:
        OvbenchError: Something that the run needs is missing or does not fit; nothing was computed.
    """

    def __init__(self, job: Job, cache: StepCache, reporter: Reporter) -> None:
        self.job = job
        self.setting: Setting = open_setting(job)
        self.runner = StepRunner(cache, reporter, self.setting.processes)
        self.features = FeatureSteps(
            self.setting.encoder,
            self.setting.tap,
            dtype=self.setting.section.feature_dtype,
            runner=self.runner,
            cache=FeatureCache(cache.root / FOLDER, max_bytes=feature_cache_bytes()),
            batch_asked=min(self.setting.config.stage2.batch_size, job.batch_size),
            workers=self.setting.workers,
        )
        # None: a trained model was given.
        self.training = None if self.setting.given else TrainingSteps(self.setting, self.runner, self.features)
        self._num_answered, self._answer_s = 0, 0.0
        self._answering: Llava | None = None
        self._looked_at = set[str]()  # tasks whose words were looked up

    def run(self) -> Outcome:
        """Returns the answers of every task under every control, computing what is missing."""
        try:
            return self._run()
        finally:
            self.features.close()

    def _run(self) -> Outcome:
        outcome = Outcome(setting=self.setting, encoder=self.setting.encoder, tap=self.setting.tap)
        # Everything that can be wrong with a task's data is found before the training.
        loaded = self._load_tasks()
        for data in loaded:
            answers: dict[str, list[Prediction]] = {}
            for control, why_not in self._controls(data):
                if why_not:
                    outcome.not_scored[data.spec.name, control] = why_not
                else:
                    stored = read_predictions(self._answers(data, control).path)
                    answers[control] = judged_again(
                        data.spec, data.samples, stored, scoring_mode=scoring_of(self.setting.options, data.spec)
                    )
            outcome.answers[data.spec.name] = Answers(data=data, by_control=answers)
        outcome.steps = [self.runner.result(step) for step in self._steps(loaded)]
        outcome.throughput = {
            name: count / seconds if seconds > 0 else None
            for name, count, seconds in (
                ("encode", self.features.num_encoded, self.features.encode_s),
                ("answer", self._num_answered, self._answer_s),
            )
        }
        outcome.bypassed = self.features.bypassed()
        return outcome

    def steps(self) -> list[Step]:
        """Returns every step of the run in order, and makes none of them."""
        return self._steps(self._load_tasks())

    def _load_tasks(self) -> list[TaskData]:
        folder = self.setting.options.data
        return [load_data(spec, limit=self.job.limit, data_dir=folder) for spec in self.job.question_tasks]

    def _controls(self, data: TaskData) -> Iterator[tuple[str, str]]:
        """Yields each control with the reason why it cannot be asked, or nothing."""
        for control in (MAIN, *self.setting.section.controls):
            too_few = control == "shuffled" and len(data.image_ids) < 2
            yield control, "images cannot be shuffled: there are fewer than two" if too_few else ""

    def _steps(self, loaded: list[TaskData]) -> list[Step]:
        steps = [] if self.training is None else self.training.steps
        for data in loaded:
            steps.append(self._features_step(data))
            steps += [self._answers_step(data, control) for control, why_not in self._controls(data) if not why_not]
        return list({step.key: step for step in steps}.values())

    def _features_step(self, data: TaskData) -> Step:
        return self.features.step(data.images_digest, self.setting.answer_spec)

    def _features(self, data: TaskData) -> Features:
        # The picture itself, and once more as another's in the control; the blind control needs none.
        num_reads = 1.0 + ("shuffled" in self.setting.section.controls)
        return self.features.open(
            self._features_step(data),
            self.setting.answer_spec,
            f"features ({data.spec.name})",
            data.image_ids,
            data.image,
            num_reads,
        )

    def _answers_step(self, data: TaskData, control: str) -> Step:
        spec = data.spec
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
                "template": self._template,
                "control": control,
                "max_new_tokens": spec.max_new_tokens or self.setting.section.max_new_tokens,
                **self._way_of_answering(spec),
            },
            parents=(*self._model_key, self._features_step(data).key),
        )

    @property
    def _template(self) -> str:
        given = self.setting.given
        return self.setting.config.stage2.template if given is None else given.model.form.name

    @cached_property
    def _model_key(self) -> tuple[str, ...]:
        return () if self.training is None else (self.training.stage2_step.key,)

    def _way_of_answering(self, spec: TaskSpec) -> dict[str, Any]:
        """Returns what else can change an answer or its score, where it is not as in the first protocols."""
        setting, found = self.setting, dict[str, Any]()
        if spec.scorer:
            found["scorer"] = spec.scorer
        if setting.given is not None:
            found["model"] = setting.model_identity
        if setting.section.answer_precision != "float32":
            found["precision"] = setting.section.answer_precision
        if (scoring := scoring_of(setting.options, spec)) is not None:
            found["scoring_mode"] = scoring
        if setting.options.trust_first_token:
            found["trust_first_token"] = True
        return found

    def _answers(self, data: TaskData, control: str) -> StepResult:
        spec = data.spec

        def features() -> Features:
            return self._features(data)

        def build(out: Path, work: Path, progress: Progress) -> None:
            if not self.setting.processes.is_main:
                return
            tokens = features()
            model = self._model(tokens)
            if spec.name not in self._looked_at:  # once, and not for every control
                self._looked_at.add(spec.name)
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
                max_new_tokens=self.setting.section.max_new_tokens,
                progress=progress,
                packing=self.setting.options.packing,
                reference=self.setting.options.reference,
                scoring_mode=scoring_of(self.setting.options, spec),
                trust_first_token=self.setting.options.trust_first_token,
            )
            self._num_answered += len(data.samples) - num_before
            self._answer_s += time.monotonic() - began
            copy_file(kept, out / ANSWERS)

        label = f"answers ({spec.name})" if control == MAIN else f"answers ({spec.name}, {control})"
        trained = () if self.training is None else (self.training.stage2,)
        return self.runner.obtain(self._answers_step(data, control), label, (*trained, features), build)

    def _model(self, tokens: Features) -> Llava:
        """Returns the model that answers; read once, for all tasks and controls."""
        setting = self.setting
        if setting.given is not None:
            return setting.given.model
        if self._answering is None:
            assert self.training is not None
            self._answering = load_llava(
                self.training.stage2().path / WEIGHTS,
                setting.config,
                dim=tokens.dim,
                device=str(setting.processes.device),
                dtype=setting.section.answer_precision,
            )
        return self._answering


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
