"""What a task is: questions about images, how an answer is read, and how it is scored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from ovbench._base.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

KINDS = ("choice", "yesno")
SCORINGS = ("likelihood", "greedy")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """One benchmark, as its YAML file says it. Changing what is asked or how it is read raises `version`."""

    name: str
    version: int
    title: str
    kind: Literal["choice", "yesno"]
    source: Mapping[str, Any]  # where the questions come from; see tasks/sources.py
    prompt: str = "{question}"  # may hold {question} and {options}
    scoring: Literal["likelihood", "greedy"]  # rank the options by likelihood, or read the greedy answer
    parser: str  # how a greedy answer is read; see tasks/answers.py
    metrics: tuple[str, ...]
    headline: str  # the metric that stands in tables
    chance: float  # expected headline of a blind guess, a fraction
    groups: tuple[str, ...] = ()  # dimensions or splits, in the order of tables; empty: as they come
    family: Literal["mini", "paper"]  # mini tasks never share a column with paper tasks
    citation: str = ""
    licence: str = ""
    description: str = ""
    origin: str = ""  # name in the catalogue, or the path of the file: what --tasks took

    def __post_init__(self) -> None:
        where = f"task '{self.name}'"
        for label, value, known in (
            ("kind", self.kind, KINDS),
            ("scoring", self.scoring, SCORINGS),
            ("family", self.family, ("mini", "paper")),
        ):
            if value not in known:
                raise ConfigError(f"unknown {label} '{value}'", where=where, fix=f"use one of: {', '.join(known)}")
        if self.version < 1:
            raise ConfigError(f"a version must be 1 or more, got {self.version}", where=where)
        if not 0.0 <= self.chance < 1.0:
            raise ConfigError(f"chance must be in [0, 1), got {self.chance}", where=where)
        if self.headline not in self.metrics:
            raise ConfigError(
                f"the headline '{self.headline}' is not among the metrics {', '.join(self.metrics)}", where=where
            )
        if "{question}" not in self.prompt:
            raise ConfigError("the prompt does not hold {question}", where=where)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image."""

    item_id: str  # unique within the task
    image_id: str
    question: str
    prompt: str  # what the model is asked, image mark and template left out
    options: tuple[str, ...]
    answer: str  # text of the right option; `yes` or `no`
    group: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What a model said to one question."""

    item_id: str
    raw: str  # greedy answer, stripped
    parsed: str | None  # what the parser read; None: nothing it knows
    option_scores: tuple[float, ...] | None  # mean log-likelihood of each option; None: not ranked
    chosen: str | None  # the answer that is scored
    correct: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """The questions of a task with their images."""

    spec: TaskSpec
    samples: tuple[Sample, ...]
    digest: str  # of everything that can change a question or a pixel
    image: Callable[[str], np.ndarray] = field(repr=False)  # image id → uint8 [H, W, 3], RGB
    num_total: int  # questions before any limit
