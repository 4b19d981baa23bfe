"""The `understanding` section of a protocol, read strictly: recipe, data, tap, controls. Data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal

from ovbench._base.errors import ConfigError
from ovbench._base.paths import asset_folder
from ovbench.encoders.base import Tap
from ovbench.harness.settings_config import read_config
from ovbench.harness.understanding.config import GateConfig, LlavaConfig, Precision, StageConfig

_WHERE = "understanding"
_EMBEDDED = "lm/"  # language models inside the package


@dataclass(frozen=True, kw_only=True, slots=True)
class StageFiles:
    """Where the conversations and images of one stage are, relative to the user's data folder."""

    json: str
    images: str = "."
    share: float = 1.0  # of the rows, drawn once and for all; below 1 in proxies

    def __post_init__(self) -> None:
        for name in ("json", "images"):
            path = PurePosixPath(getattr(self, name))
            if not getattr(self, name) or path.is_absolute() or ".." in path.parts:
                raise ConfigError(
                    f"'{name}' must be a path below the data folder, got '{getattr(self, name)}'",
                    where=f"{_WHERE}.data",
                )
        if not 0 < self.share <= 1:
            raise ConfigError(f"share must be above 0 and at most 1, got {self.share}", where=f"{_WHERE}.data")


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSection:
    """Training data in LLaVA's own format."""

    source: Literal["llava"]
    stage1: StageFiles
    stage2: StageFiles


@dataclass(frozen=True, kw_only=True, slots=True)
class _Section:
    """The keys of the YAML file, one by one."""

    language_model: str
    stage1: Mapping[str, Any]
    stage2: Mapping[str, Any]
    data: DataSection | None = None
    world_seed: int | None = None
    num_train_scenes: int | None = None
    feature_dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    tap: Mapping[str, Any] | None = None
    projector: Literal["mlp2x_gelu", "linear"] = "mlp2x_gelu"
    num_turns: int = 8
    max_length: int = 2048
    precision: Precision = "bfloat16"
    strict_reference: bool = True
    gradient_checkpointing: bool = False
    gate: GateConfig = field(default_factory=lambda: GateConfig(mode="off"))
    max_new_tokens: int
    answer_precision: Precision = "float32"
    controls: tuple[str, ...] = ()
    cpu_threads: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class UnderstandingSection:
    """Everything that a protocol says of the understanding suite."""

    llava: LlavaConfig
    data: DataSection | None  # None: scenes of the miniature world
    world_seed: int | None
    num_train_scenes: int | None
    tap: Tap | None  # None: what the encoder's adapter names
    feature_dtype: str
    max_new_tokens: int
    answer_precision: Precision  # of the language model's weights when questions are answered
    controls: tuple[str, ...]
    cpu_threads: int

    @property
    def answer_aspect(self) -> str:
        """How images are made square when questions are answered: as in stage 2."""
        return self.llava.stage2.aspect


def read_section(section: Mapping[str, Any], *, where: str = _WHERE) -> UnderstandingSection:
    """Returns the settings of a protocol's `understanding` section.

    Args:
        section: As the YAML file has it; `gate` may be one of its modes in place of a mapping.
        where: Names the section in messages.

    Raises:
        ConfigError: A key is unknown or missing, or a value cannot be used.
    """
    document = dict(section)
    if "gate" in document:
        gate = document["gate"]
        gate = dict(gate) if isinstance(gate, Mapping) else {"mode": gate}
        # Trap: YAML 1.1 reads a bare `off` as false.
        document["gate"] = {key: "off" if key == "mode" and value is False else value for key, value in gate.items()}
    read = read_config(_Section, document, where=where)
    in_world = read.world_seed is not None and read.num_train_scenes is not None
    if in_world == (read.data is not None) or (read.data is not None and read.world_seed is not None):
        raise ConfigError(
            "training data are either world_seed and num_train_scenes, or data", where=where, fix="give one of the two"
        )
    for name in ("max_new_tokens", "cpu_threads"):
        if getattr(read, name) < 1:
            raise ConfigError(f"{name} must be 1 or more, got {getattr(read, name)}", where=where)
    for control in read.controls:
        if control not in ("shuffled", "blind"):
            raise ConfigError(f"'{control}' is none of: shuffled, blind", where=f"{where}.controls")
    model = read.language_model
    return UnderstandingSection(
        llava=LlavaConfig(
            language_model=str(asset_folder(model)) if model.startswith(_EMBEDDED) else model,
            projector=read.projector,
            stage1=read_config(StageConfig, read.stage1, where=f"{where}.stage1"),
            stage2=read_config(StageConfig, read.stage2, where=f"{where}.stage2"),
            num_turns=read.num_turns,
            max_length=read.max_length,
            precision=read.precision,
            strict_reference=read.strict_reference,
            gradient_checkpointing=read.gradient_checkpointing,
            gate=read.gate,
        ),
        data=read.data,
        world_seed=read.world_seed,
        num_train_scenes=read.num_train_scenes,
        tap=None if read.tap is None else _tap(read.tap, f"{where}.tap"),
        feature_dtype=read.feature_dtype,
        max_new_tokens=read.max_new_tokens,
        answer_precision=read.answer_precision,
        controls=read.controls,
        cpu_threads=read.cpu_threads,
    )


def _tap(values: Mapping[str, Any], where: str) -> Tap:
    known = ("layer", "norm", "eps", "prefix")
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown key '{key}'", where=where, fix=f"known: {', '.join(known)}")
    return Tap(**values)
