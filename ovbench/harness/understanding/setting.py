"""Everything that an understanding run needs, found and checked before anything is computed."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256, fingerprint
from ovbench._base.lazy import require
from ovbench._base.paths import cache_dir, data_dir
from ovbench.encoders.base import Encoder, PreprocessSpec, Tap
from ovbench.encoders.preprocess import with_aspect
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.harness.parallel import Processes, open_processes
from ovbench.harness.plan import Job
from ovbench.harness.understanding.checkpoint_folder import LoadedLlava, layout_of, load_checkpoint
from ovbench.harness.understanding.config import LlavaConfig
from ovbench.harness.understanding.data import TrainingData, WorldTrainingData
from ovbench.harness.understanding.language_model import check_language_model
from ovbench.harness.understanding.llava_json import LlavaJsonData
from ovbench.harness.understanding.options_config import UnderstandingOptions
from ovbench.harness.understanding.preflight import PreflightReport, preflight
from ovbench.harness.understanding.run_checkpoint import checkpoint_of_run
from ovbench.harness.understanding.section_config import UnderstandingSection, read_section
from ovbench.harness.understanding.towers import check_width

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The parts of one run, ready."""

    job: Job
    section: UnderstandingSection
    options: UnderstandingOptions
    config: LlavaConfig
    encoder: Encoder
    tap: Tap  # that the language model reads
    training: TrainingData | None  # None: a trained model was given
    given: LoadedLlava | None  # that model
    model_identity: Mapping[str, str]  # of the given model, or of the language model that is trained
    preflights: tuple[PreflightReport, ...]  # of training data some of whose rows are left out by choice
    processes: Processes

    @property
    def workers(self) -> int:
        """Threads that load pictures: one for the miniature world, whose pictures are drawn."""
        return 1 if self.section.data is None and self.options.data is None else min(16, os.cpu_count() or 1)

    @property
    def answer_spec(self) -> PreprocessSpec:
        """How pictures are prepared when questions are asked: as in stage 2, or as a given model says."""
        aspect = self.section.answer_aspect if self.given is None else self.given.aspect or "square"
        return self.spec(aspect)

    def spec(self, aspect: str) -> PreprocessSpec:
        """Returns how pictures are prepared under an aspect policy of a stage: `square` is the encoder's own way.

        The user's word (`?aspect=`) comes before the protocol's.
        """
        own = self.encoder.info.input
        if aspect == "square" or self.job.encoder.aspect is not None:
            return own
        return with_aspect(own, aspect, self.encoder.info.mean)

    def images_digest(self, stage: int) -> str:
        """Returns what identifies the pictures of a stage."""
        assert self.training is not None
        if isinstance(self.training, LlavaJsonData):
            return fingerprint({"llava": self.training.stage_digest(stage)})
        return self.training.digest

    def gate_report(self, key: str) -> Path:
        """Returns where the gate's report on a stage 1 is kept, by the key of that step."""
        return self.preflight_folder() / f"gate-{key[:16]}.json"

    def preflight_folder(self) -> Path:
        """Returns where reports on training data are kept."""
        return cache_dir() / "preflight"


def open_setting(job: Job) -> Setting:
    """Finds and checks everything that a run names.

    Raises:
        OvbenchError: Something is missing, damaged or does not fit; nothing was computed.
    """
    section = read_section(job.protocol.section("understanding"), where=f"protocol '{job.protocol.name}'")
    options = job.understanding or UnderstandingOptions()
    config = section.llava
    if options.language_model is not None:
        config = replace(config, language_model=options.language_model)
    processes = open_processes(job.device)
    encoder = load_encoder(job.encoder, device=str(processes.device), dtype=job.dtype)
    training = None if options.llava is not None else _training_data(section, options)
    if training is not None and (section.data is not None or options.language_model is not None):
        if not Path(config.language_model).expanduser().is_dir():
            language_model_identity(config.language_model)  # one question to the hub tells whether it can be had
        check_language_model(config.language_model, [config.stage(stage).template for stage in (1, 2)])
    given = None if options.llava is None else _given(job, section, options, encoder, processes)
    named = None if given is None else given.tap
    if given is None:
        identity = language_model_identity(config.language_model)
    else:
        assert options.llava is not None
        identity = given_identity(options.llava, language_model=given.language_model)
    reports: tuple[PreflightReport, ...] = ()
    setting = Setting(
        job=job,
        section=section,
        options=options,
        config=config,
        encoder=encoder,
        tap=job.encoder.llm_tap or named or section.tap or encoder.info.llm_tap,  # the user's word comes first
        training=training,
        given=given,
        model_identity=identity,
        preflights=(),
        processes=processes,
    )
    if options.on_bad == "drop" and not isinstance(training, LlavaJsonData):
        log.warning("--bad-rows has no effect: no lists of conversations are read")
    if isinstance(training, LlavaJsonData) and options.on_bad == "drop":
        reports = check_training_data(setting)
        for stage, report in enumerate(reports, start=1):
            training = training.without(stage, report.bad_numbers)
    return replace(setting, training=training, preflights=reports)


def _given(
    job: Job, section: UnderstandingSection, options: UnderstandingOptions, encoder: Encoder, processes: Processes
) -> LoadedLlava:
    """Returns the trained model that was given, which must fit the encoder that is judged."""
    assert options.llava is not None
    loaded = load_checkpoint(
        options.llava,
        encoder=job.encoder.canonical,
        # A run's language model was trained with it: `load_checkpoint` says so where another is named.
        language_model=options.language_model,
        device=str(processes.device),
        dtype=section.answer_precision,
    )
    if loaded.named is not None:
        trained_on = parse_encoder(loaded.named)
        if (trained_on.family.key, trained_on.variant.name) != (job.encoder.family.key, job.encoder.variant.name):
            raise ConfigError(
                f"the model was trained on '{loaded.named}', and '{job.encoder.name}' is asked for",
                where=f"--llava {options.llava}",
                fix=f"use --encoder '{loaded.named}'",
            )
    check_width(loaded.dim, encoder, where=str(options.llava))
    if loaded.layout == "run" and checkpoint_of_run(options.llava).weights_digest != encoder.info.weights_digest:
        raise ConfigError(
            f"the model was trained on other weights of '{loaded.named}' than those of '{job.encoder.canonical}'",
            where=f"--llava {options.llava}",
            fix="name the weights that the run used: --encoder family/variant:FILE",
        )
    return loaded


def given_identity(folder: Path, *, language_model: str | None = None) -> dict[str, str]:
    """Returns what identifies a given model: the digests of its files.

    Args:
        folder: Of the model.
        language_model: Folder or hub id of one that is no part of it.
    """
    if layout_of(folder) == "run":
        return {"weights": file_sha256(checkpoint_of_run(folder).weights)}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    found = {path.relative_to(folder).as_posix(): file_sha256(path) for path in paths}
    if language_model is not None:
        found |= {f"language model: {name}": text for name, text in language_model_identity(language_model).items()}
    return found


def check_training_data(setting: Setting) -> tuple[PreflightReport, ...]:
    """Opens every picture of LLaVA's training data; nothing where the data are drawn. One process looks for all.

    Raises:
        DataError: Rows cannot be used, and that was not allowed.
    """
    data = setting.training
    if not isinstance(data, LlavaJsonData):
        return ()

    def look() -> tuple[PreflightReport, ...]:
        folder, on_bad = setting.preflight_folder(), setting.options.on_bad
        return tuple(preflight(data, stage, folder=folder, workers=setting.workers, on_bad=on_bad) for stage in (1, 2))

    return setting.processes.on_main(look)


def language_model_identity(name: str) -> dict[str, str]:
    """Returns what identifies a language model: digests of the files of a folder, or the commit of a hub id.

    Raises:
        ConfigError: There is no such folder, or the hub id is not in the cache and cannot be asked for.
        DataError: The folder holds no language model.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(
                "the folder holds no language model: there is no config.json",
                where=str(folder),
                fix="name a folder as transformers' save_pretrained writes it",
            )
        return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise ConfigError(
            f"there is no folder '{name}' with a language model", where="language_model", fix="name one: --llm FOLDER"
        )
    hub = require("huggingface_hub", purpose="language models of the hub")
    try:
        path = Path(hub.hf_hub_download(name, "config.json"))
    except Exception as error:  # the library's failures are of many kinds, and all mean: not here
        raise ConfigError(
            f"the language model '{name}' is not in the cache and cannot be fetched: {str(error).splitlines()[0]}",
            where="language_model",
            fix="fetch it where there is a network, or name a folder that holds it: --llm FOLDER",
        ) from error
    return {"hub": name, "commit": path.parent.name}


def _training_data(section: UnderstandingSection, options: UnderstandingOptions) -> TrainingData:
    if section.data is None:
        assert section.world_seed is not None
        assert section.num_train_scenes is not None
        return WorldTrainingData(
            seed=section.world_seed, num_scenes=section.num_train_scenes, num_turns=section.llava.num_turns
        )
    folder = options.data or data_dir()
    if folder is None:
        raise ConfigError(
            "this protocol trains on LLaVA's own data, and no folder is named",
            where="--data",
            fix=f"name the folder that holds {section.data.stage1.json} and {section.data.stage2.json}",
        )
    return LlavaJsonData.below(folder, section.data)
