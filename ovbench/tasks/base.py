"""What a benchmark is: its specification, its questions, and what a model answered. Knows no model and no file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, unknown
from ovbench.tasks.answers import PARSERS, YES_NO, Kind
from ovbench.tasks.prompts import check_prompt, extra_names
from ovbench.tasks.scorers import SCORERS, ScorerSpec

if TYPE_CHECKING:
    import numpy

Scoring = Literal["likelihood", "greedy"]
Family = Literal["mini", "paper", "local"]
METRICS: Mapping[Kind, tuple[str, ...]] = {kind: SCORERS[kind].metrics for kind in get_args(Kind)}  # without a scorer
_NAME = re.compile(r"[a-z0-9]+([-_.][a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskSpec:
    """One benchmark: what is asked, and how an answer is read. Everything in it is data."""

    name: str  # lower case, e.g. `mini-seed`
    version: int  # raised when what is asked, or how it is read, changes
    title: str
    kind: Kind  # `choice`: one of the options; `yesno`; `open`: free text against reference answers
    source: Mapping[str, Any]  # where the rows are: see docs/add-a-benchmark.md
    prompt: str  # with {question}, and as wanted {options}, {letter_instruction}, {short_instruction}
    scoring: Scoring  # what counts: the likeliest option text, or the parsed greedy answer
    parser: str  # a name of answers.PARSERS; reads the greedy answer
    metrics: tuple[str, ...]  # names of SCORERS[scorer].metrics
    headline: str  # the metric that comparison tables show
    chance: float  # of the headline, in its unit: a fraction, or points
    scorer: str = ""  # a name of SCORERS, e.g. `pope`; empty: that of the kind
    max_new_tokens: int | None = None  # longest greedy answer; None: the protocol's
    groups: tuple[str, ...] = ()  # in the order of tables; empty: whatever the rows hold
    family: Family = "local"  # `mini` numbers never share a column with those of real benchmarks
    citation: str = ""
    licence: str = ""
    description: str = ""
    origin: str = ""  # name in the catalogue, or the path of the file: what --tasks took

    def __post_init__(self) -> None:
        where = f"task '{self.name}'"
        if not _NAME.fullmatch(self.name):
            raise ConfigError(
                f"'{self.name}' is no name for a task", where="name", fix="use lower-case letters, digits and - _ ."
            )
        if self.version < 1:
            raise ConfigError(f"version must be 1 or more, got {self.version}", where=f"{where}, version")
        _one_of("kind", self.kind, get_args(Kind), where)
        _one_of("scoring", self.scoring, get_args(Scoring), where)
        _one_of("family", self.family, get_args(Family), where)
        parser = lookup(PARSERS, self.parser, kind="parser", where=f"{where}, parser")
        if parser.kind != self.kind:
            fitting = ", ".join(name for name, entry in PARSERS.items() if entry.kind == self.kind)
            raise ConfigError(
                f"the parser '{self.parser}' reads {parser.kind} answers, the task is of kind {self.kind}",
                where=f"{where}, parser",
                fix=f"use one of: {fitting}",
            )
        if self.kind == "open" and self.scoring != "greedy":
            raise ConfigError(
                "an open question has no options whose likelihoods could be compared",
                where=f"{where}, scoring",
                fix="write scoring: greedy",
            )
        scorer = self._checked_scorer(where)
        if not self.metrics:
            raise ConfigError("no metric named", where=f"{where}, metrics", fix=f"e.g. {scorer.metrics[0]}")
        for metric in self.metrics:
            _one_of("metric", metric, scorer.metrics, where, key="metrics")
        _one_of("headline", self.headline, self.metrics, where)
        if self.headline in scorer.counts:
            raise ConfigError(
                f"'{self.headline}' counts answers and is no headline",
                where=f"{where}, headline",
                fix=f"e.g. {scorer.metrics[0]}",
            )
        most = scorer.most(self.headline)
        if not 0.0 <= self.chance < most:
            raise ConfigError(f"chance must be in [0, {most:g}), got {self.chance}", where=f"{where}, chance")
        for key in ("metrics", "groups"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ConfigError(f"a name is given twice: {', '.join(values)}", where=f"{where}, {key}")
        check_prompt(self.prompt, where=f"{where}, prompt", extra=extra_names(self.source))

    def _checked_scorer(self, where: str) -> ScorerSpec:
        scorer = lookup(SCORERS, self.scorer_key, kind="scorer", where=f"{where}, scorer")
        if scorer.kind != self.kind:
            fitting = ", ".join(name for name, entry in SCORERS.items() if entry.kind == self.kind)
            raise ConfigError(
                f"the scorer '{self.scorer}' scores {scorer.kind} answers, the task is of kind {self.kind}",
                where=f"{where}, scorer",
                fix=f"use one of: {fitting}",
            )
        if scorer.parser not in ("", self.parser):
            raise ConfigError(
                f"the scorer '{self.scorer}' compares what the parser '{scorer.parser}' reads, not '{self.parser}'",
                where=f"{where}, parser",
                fix=f"write parser: {scorer.parser}",
            )
        return scorer

    @property
    def scorer_key(self) -> str:
        """The scorer's name in SCORERS."""
        return self.scorer or self.kind

    @property
    def headline_unit(self) -> str:
        """The unit of the headline and of chance."""
        return SCORERS[self.scorer_key].unit(self.headline)


def _one_of(kind: str, value: str, allowed: tuple[str, ...], where: str, *, key: str = "") -> None:
    if value not in allowed:
        raise unknown(kind, value, allowed, where=f"{where}, {key or kind}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One question about one image."""

    item_id: str  # unique within the task
    image_id: str  # what TaskData.image takes
    prompt: str  # what the model is asked
    question: str  # as the source has it
    options: tuple[str, ...]  # in the order of their letters; yes and no for kind `yesno`
    answer: str  # the right option's text, `yes` or `no`; of an open question its first reference answer
    group: str  # the kind of question or the split
    answers: tuple[str, ...] = ()  # of an open question: every reference answer, as often as it was given
    extra: Mapping[str, str] = field(default_factory=dict)  # other columns of the row that the scorer reads


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """What one model answered to one sample."""

    item_id: str
    raw: str  # greedy text
    parsed: str | None  # what the parser made of it; None: nothing
    option_scores: tuple[float, ...] | None  # mean log-likelihood per option, in the order of the options
    chosen: str | None  # the answer that counts under the task's scoring
    correct: bool  # an answer that says nothing is wrong
    # In [0, 1], of an open question, which can be partly right (VQA accuracy): right is 0.5 or more. None: not open.
    score: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskData:
    """The questions of a task, and its pictures on demand."""

    spec: TaskSpec
    samples: tuple[Sample, ...]
    digest: str  # sha256 over every question, answer and picture; equal digests mean equal tests
    images_digest: str  # sha256 over the pictures alone: two tasks that ask about the same pictures share it
    image: Callable[[str], numpy.ndarray] = field(repr=False)  # image id → uint8 [H, W, 3], RGB
    num_total: int  # questions before any limit
    provenance: Mapping[str, str] = field(default_factory=dict)  # of a published table: repository, revision, folder

    def __post_init__(self) -> None:
        assert self.spec.kind != "yesno" or all(sample.answer in YES_NO for sample in self.samples)

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The distinct pictures, in the order in which they are first asked about."""
        return tuple(dict.fromkeys(sample.image_id for sample in self.samples))
