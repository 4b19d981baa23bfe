"""Everything that an understanding run needs, found and checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import asset_folder
from ovbench.encoders.base import Encoder, PreprocessSpec, Tap
from ovbench.encoders.preprocess import with_aspect
from ovbench.encoders.registry import load_encoder
from ovbench.harness.parallel import Processes, open_processes
from ovbench.harness.plan import Job
from ovbench.harness.understanding.config import LlavaConfig, StageConfig
from ovbench.harness.understanding.data import TrainingData, WorldTrainingData
from ovbench.harness.understanding.options_config import UnderstandingOptions


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """The parts of one run, ready."""

    job: Job
    section: Mapping[str, Any]  # of the protocol
    options: UnderstandingOptions
    config: LlavaConfig
    encoder: Encoder
    tap: Tap  # that the language model reads
    training: TrainingData
    processes: Processes

    def spec(self, use: str) -> PreprocessSpec:
        """Returns how pictures are prepared for `stage1`, `stage2` or `answers`.

        The user's word (`?aspect=`) comes before the protocol's, and the protocol's before the encoder's own.
        """
        own = self.encoder.info.input
        aspect = self.section.get("aspect", {}).get(use)
        if aspect is None or self.job.encoder.aspect is not None:
            return own
        return with_aspect(own, aspect, self.encoder.info.mean)

    @property
    def language_model(self) -> Mapping[str, str]:
        """What identifies the language model: the digests of its files."""
        folder = Path(self.config.language_model)
        return {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}


def open_setting(job: Job) -> Setting:
    """Finds and checks everything that a run names.

    Raises:
        OvbenchError: Something is missing, damaged or does not fit; nothing was computed.
    """
    section = job.protocol.section("understanding")
    options = job.understanding or UnderstandingOptions()
    processes = open_processes(job.device)
    return Setting(
        job=job,
        section=section,
        options=options,
        config=llava_config(section),
        encoder=load_encoder(job.encoder, device=str(processes.device), dtype=job.dtype),
        tap=job.encoder.llm_tap or Tap(**section["tap"]),  # the user's word comes before the protocol's
        training=WorldTrainingData(
            seed=section["world_seed"], num_scenes=section["num_train_scenes"], num_turns=section["num_turns"]
        ),
        processes=processes,
    )


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
