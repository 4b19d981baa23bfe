"""The reconstruction and generation suites for one encoder: which steps there are, and what is made of them.

latents → statistics → decoder → reconstructions → diffusion transformer → samples → scores. Steps are asked for from
the end: where the scores are cached, nothing before them is touched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ovbench._base.files import read_json, write_json
from ovbench._base.fingerprint import file_sha256
from ovbench.harness.events import Reporter
from ovbench.harness.generation.autoencoder_steps import AutoencoderSteps
from ovbench.harness.generation.grids import by_class, save_sheet, zoom_for
from ovbench.harness.generation.options_config import guidance_text
from ovbench.harness.generation.picture_parts import Content
from ovbench.harness.generation.picture_tasks import (
    TaskScore,
    against_adm,
    against_pictures,
    few_pictures,
    layers_of,
    score_pictures,
    score_values,
)
from ovbench.harness.generation.sample_folders import is_saved
from ovbench.harness.generation.sampling import Evaluations
from ovbench.harness.generation.sampling_steps import SHEET_COLUMNS, UNTRAINED, SamplingSteps, moment_name
from ovbench.harness.generation.saved_samples import save_samples
from ovbench.harness.generation.setting import Setting, fast_matmuls, open_setting
from ovbench.harness.generation.step_runner import PictureRunner
from ovbench.harness.metrics.against import Against
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.plan import Job
from ovbench.harness.steps import Step, StepCache, StepResult
from ovbench.harness.training import Progress
from ovbench.tasks.pictures import READ_BACK, PictureTask

SCORES, COST, SAMPLES_SHEET, PAIRS_SHEET = "scores.json", "cost.json", "samples.png", "reconstructions.png"
_STILL_FALLING = 0.10  # share by which a distance falls after the last probe before the training counts as unfinished


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureScores:
    """What one task got from one run."""

    task: PictureTask
    extractor: Extractor
    data_digest: str  # of what the pictures are compared with
    num_pictures: int
    scorer: str  # how pictures were made and scored; what differs is not compared
    groups: tuple[str, ...]  # moments of training, in order
    by_group: Mapping[str | None, list[TaskScore]]  # None: the end of training


@dataclass(kw_only=True, slots=True)
class Outcome:
    """Everything a record needs of a run."""

    setting: Setting
    scores: list[PictureScores] = field(default_factory=list)
    steps: list[StepResult] = field(default_factory=list)
    health: Mapping[str, Any] = field(default_factory=dict)
    evaluations: Evaluations | None = None  # of a sample; None: none were scored, or it is not known
    throughput: Mapping[str, tuple[float, str]] = field(default_factory=dict)  # what was made now → rate and unit
    files: dict[str, Path] = field(default_factory=dict)  # name in the run's folder → file
    warnings: list[str] = field(default_factory=list)


class GenerationRun:
    """One encoder through the suite `reconstruction` or `generation`.

    Args:
        job: What to run.
        cache: Where finished steps are.
        reporter: Told about each step.

    Raises:
        OvbenchError: Something that the run needs is missing or does not fit; nothing was computed.
    """

    def __init__(self, job: Job, cache: StepCache, reporter: Reporter) -> None:
        self.setting = open_setting(job)
        fast_matmuls(self.setting.processes)
        self.runner = PictureRunner(cache, reporter, self.setting.processes)
        self.autoencoder = AutoencoderSteps(self.setting, self.runner)
        self.sampling = SamplingSteps(self.setting, self.runner, self.autoencoder)
        self._closure: dict[str, Step] = {}

    def run(self) -> Outcome:
        """Returns the scores of every task, computing what is missing."""
        if self.setting.processes.is_main:
            self._check_saved()
        outcome = Outcome(setting=self.setting)
        for task in self.setting.tasks:
            found = (
                self._generation(task, outcome) if task.kind == "generation" else self._reconstruction(task, outcome)
            )
            outcome.scores.append(found)
        if self.setting.options.save_samples is not None:
            self._save_samples(self.setting.options.save_samples)
        # Reconstructions alone need no statistics, whose training pictures health would ask for.
        if self.setting.pictures is not None and any(task.kind == "generation" for task in self.setting.tasks):
            outcome.health = self.autoencoder.health()
        outcome.steps = [self.runner.result(step) for step in self.steps()]
        outcome.throughput = self.runner.throughput
        return outcome

    def steps(self) -> list[Step]:
        """Returns every step of the run in order, the scores of all tasks among them, and makes none of them."""
        for task in self.setting.tasks:
            if task.kind == "generation":
                self._generation_step(task)
            else:
                self._reconstruction_step(task)
        return list(({step.key: step for step in self.autoencoder.steps} | self._closure).values())

    def _scores_step(self, task: PictureTask, parents: tuple[Step, ...], **inputs: Any) -> Step:
        for parent in parents:
            self._closure[parent.key] = parent
        step = Step(
            name="scores",
            version=1,
            inputs={"task": task.name, "version": task.version, "metrics": task.metrics, "mode": task.mode, **inputs},
            parents=tuple(parent.key for parent in parents),
        )
        self._closure[step.key] = step
        return step

    # --- reconstruction ----------------------------------------------------------------------------------------------

    def _reconstruction_step(self, task: PictureTask) -> Step:
        extractor = self.setting.extractors[task.extractor]
        layers = layers_of(task, extractor.info)
        parents = (
            self.autoencoder.test_features_step(extractor, layers),
            self.autoencoder.reconstruction_step(extractor, layers),
        )
        return self._scores_step(task, parents)

    def _reconstruction(self, task: PictureTask, outcome: Outcome) -> PictureScores:
        setting, extractor = self.setting, self.setting.extractors[task.extractor]
        layers = layers_of(task, extractor.info)

        def originals_of() -> Content:
            return self.autoencoder.test_features(extractor, layers)

        def made_of() -> Content:
            return self.autoencoder.reconstructions(extractor, layers)

        def build(out: Path, work: Path, progress: Progress) -> None:
            del work
            originals, made = originals_of(), made_of()
            if not setting.processes.is_main:
                return
            against = against_pictures(
                setting.test.name, originals.features, purpose="reconstruction", extractor=extractor
            )
            scores = score_pictures(task, against, made.features)
            progress(1, 2)
            for name in task.pair_metrics:
                title = setting.lpips.name if name == "lpips" and setting.lpips is not None else None
                scores.append(score_values(name, made.values[name], title=title))
            write_json(out / SCORES, {"scores": [score.to_dict() for score in scores]})
            pairs = np.stack([originals.images_u8, made.images_u8]).reshape(-1, *made.images_u8.shape[1:])
            save_sheet(out / PAIRS_SHEET, pairs, len(made.images_u8), zoom=zoom_for(setting.test.side_px))
            progress(2, 2)

        step = self._reconstruction_step(task)
        path = self.runner.obtain(step, f"scores ({task.name})", (originals_of, made_of), build).path
        outcome.files[PAIRS_SHEET] = path / PAIRS_SHEET
        outcome.warnings += few_pictures(task, extractor.info, setting.test.num_pictures)
        return PictureScores(
            task=task,
            extractor=extractor,
            data_digest=setting.test.digest,
            num_pictures=setting.test.num_pictures,
            scorer=f"{_scorer(task, extractor)}, {setting.sampling.quantise} to 8 bits",
            groups=(),
            by_group={None: _read_scores(path / SCORES)["scores"]},
        )

    # --- generation --------------------------------------------------------------------------------------------------

    @cached_property
    def _moments(self) -> tuple[float | str, ...]:
        """Moments of training that are scored beside its end; given weights have none."""
        return () if self.setting.options.dit is not None else (UNTRAINED, *self.setting.recipe.dit.probes)

    def _compared_digest(self, task: PictureTask) -> str:
        reference = self.setting.options.reference if task.reference == "adm" else None
        return self.setting.test.digest if reference is None else file_sha256(reference)

    def _generation_step(self, task: PictureTask) -> Step:
        setting, extractor = self.setting, self.setting.extractors[task.extractor]
        layers = layers_of(task, extractor.info)
        samples = [self.sampling.samples_step(moment, extractor, layers) for moment in (None, *self._moments)]
        from_file = task.reference == "adm" and setting.options.reference is not None
        compared = () if from_file else (self.autoencoder.test_features_step(extractor, layers),)
        return self._scores_step(
            task,
            (self.sampling.dit_step, *samples, *compared),
            reference=self._compared_digest(task),
            seed=setting.job.seed,
        )

    def _generation(self, task: PictureTask, outcome: Outcome) -> PictureScores:
        setting, extractor = self.setting, self.setting.extractors[task.extractor]
        layers = layers_of(task, extractor.info)
        digest = self._compared_digest(task)

        def build(out: Path, work: Path, progress: Progress) -> None:
            del work
            contents = {moment: self.sampling.samples(moment, extractor, layers) for moment in (*self._moments, None)}
            against = self._against(task, extractor, layers)
            if not setting.processes.is_main:
                return
            found: dict[str, Any] = {}
            for number, (moment, content) in enumerate(contents.items()):
                # Of a moment that is not the end only the headline is of use.
                metrics = (
                    None if moment is None else [name for name in task.metrics if name in (task.headline, READ_BACK)]
                )
                labels: NDArray[np.int64] = content.values["labels"]
                scores = score_pictures(
                    task, against, content.features, labels=labels, metrics=metrics, seed=setting.job.seed
                )
                key = "scores" if moment is None else f"scores at {moment_name(moment)}"
                found[key] = [score.to_dict() for score in scores]
                progress(number + 1, len(contents))
            write_json(out / SCORES, found)
            if (cost := self.sampling.evaluations(contents[None])) is not None:
                write_json(out / COST, asdict(cost))
            self._save_sheet(out / SAMPLES_SHEET, contents[None])

        def compared() -> None:
            if task.reference == "test":
                self.autoencoder.test_features(extractor, layers)

        step = self._generation_step(task)
        moments = (*self._moments, None)
        parents = [lambda moment=moment: self.sampling.samples(moment, extractor, layers) for moment in moments]
        path = self.runner.obtain(step, f"scores ({task.name})", (*parents, compared), build).path
        outcome.files[SAMPLES_SHEET] = path / SAMPLES_SHEET
        # Scores of an older version do not say it; of a fixed grid it is known all the same.
        stored_cost = Evaluations(**read_json(path / COST)) if (path / COST).is_file() else None
        outcome.evaluations = stored_cost or self.sampling.evaluations(None)
        stored = _read_scores(path / SCORES)
        groups = tuple(moment_name(moment) for moment in self._moments)
        by_group: dict[str | None, list[TaskScore]] = {None: stored["scores"]}
        by_group |= {group: stored[f"scores at {group}"] for group in groups}
        if (warning := _unfinished(task, by_group, groups)) is not None:
            outcome.warnings.append(warning)
        outcome.warnings += few_pictures(
            task,
            extractor.info,
            setting.sampling.num_samples,
            expected=setting.recipe.sampling.num_samples,
            num_compared=None if task.reference == "adm" else setting.test.num_pictures,
        )
        return PictureScores(
            task=task,
            extractor=extractor,
            data_digest=digest,
            num_pictures=setting.sampling.num_samples,
            scorer=f"{_scorer(task, extractor)}, {self._sampler_words()}",
            groups=groups,
            by_group=by_group,
        )

    def _against(self, task: PictureTask, extractor: Extractor, layers: tuple[str, ...]) -> Against:
        setting = self.setting
        if task.reference == "adm":
            assert setting.options.reference is not None, "open_setting refuses this"
            return against_adm(setting.options.reference, task, extractor, setting.sampling.num_samples)
        features = self.autoencoder.test_features(extractor, layers).features
        return against_pictures(setting.test.name, features, purpose="generation", extractor=extractor)

    def _sampler_words(self) -> str:
        sampler, sampling = self.setting.sampling.sampler, self.setting.sampling
        return (
            f"{sampler.method} {sampler.num_steps} {sampler.grid}, guidance {guidance_text(sampler.guidance)}, "
            f"labels {sampler.labels}, {sampling.quantise} to 8 bits"
        )

    def _saved_task(self) -> PictureTask | None:
        """The task whose samples are saved: the first that has some; all tasks score the same ones."""
        return next((task for task in self.setting.tasks if task.kind == "generation"), None)

    def _samples_card(self, task: PictureTask) -> dict[str, Any]:
        """Returns what a folder of saved samples says of itself: equal for equal files."""
        extractor = self.setting.extractors[task.extractor]
        step = self.sampling.samples_step(None, extractor, layers_of(task, extractor.info), keeps_all=True)
        return {
            "format": 1,
            "samples": step.key,
            "num_samples": self.setting.sampling.num_samples,
            "save_format": self.setting.options.save_format,
        }

    def _check_saved(self) -> bool:
        """Whether the samples are saved already; refuses a folder of others before anything is computed."""
        folder, task = self.setting.options.save_samples, self._saved_task()
        return folder is not None and task is not None and is_saved(folder, self._samples_card(task))

    def _save_samples(self, folder: Path) -> None:
        task, processes = self._saved_task(), self.setting.processes
        if task is None or processes.broadcast(processes.is_main and self._check_saved()):
            return
        extractor = self.setting.extractors[task.extractor]
        content = self.sampling.all_pictures(extractor, layers_of(task, extractor.info))
        if processes.is_main:
            card = self._samples_card(task)
            save_samples(folder, content.kept(), content.values["labels"], self.setting.options.save_format, card)

    def _save_sheet(self, path: Path, content: Content) -> None:
        count = self.sampling.num_shown
        labels = content.values["labels"][:count]
        per_class = int(np.bincount(labels).max())
        columns = min(per_class, SHEET_COLUMNS) if per_class > 1 else SHEET_COLUMNS  # a row is a class where it can be
        images = by_class(content.images_u8[:count], labels, columns)
        save_sheet(path, images, columns, zoom=zoom_for(self.setting.recipe.data.image_px) // 2 or 1)


def _scorer(task: PictureTask, extractor: Extractor) -> str:
    info = extractor.info
    return f"{task.mode}, {info.network} {info.weights_sha256[:8]}, resize {info.resize}"


def _read_scores(path: Path) -> dict[str, list[TaskScore]]:
    return {key: [TaskScore.from_dict(entry) for entry in entries] for key, entries in read_json(path).items()}


def _unfinished(
    task: PictureTask, by_group: Mapping[str | None, list[TaskScore]], groups: tuple[str, ...]
) -> str | None:
    """Returns a warning where the headline was still falling at the end of training."""
    probes = [group for group in groups if group != UNTRAINED]
    if not probes:
        return None
    scores = {
        group: next(entry.score for entry in by_group[group] if entry.metric == task.headline) for group in by_group
    }
    before, after = scores[probes[-1]].value, scores[None].value
    if before is None or after is None or after >= (1 - _STILL_FALLING) * before:
        return None
    return (
        f"{task.name}: {scores[None].spec.name} fell from {before:.4g} at {probes[-1]} to {after:.4g} at the end: the "
        "training is not over, so do not compare encoders by it yet"
    )
