"""What a user may set about understanding beside the protocol: data, given weights, how questions are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import unknown
from ovbench.harness.understanding.config import Sharding
from ovbench.tasks.base import TaskSpec

Packing = Literal["auto", "padded", "packed"]
ScoringMode = Literal["ppl", "constrained"]
OnBad = Literal["refuse", "drop"]


@dataclass(frozen=True, kw_only=True, slots=True)
class UnderstandingOptions:
    """Settings of one understanding run; what is None is the protocol's."""

    data: Path | None = None  # folder of benchmarks and of LLaVA's training data; None: $OVBENCH_DATA, or mounted
    llava: Path | None = None  # folder of a trained LLaVA, in place of both stages
    language_model: str | None = None  # folder or hub id, in place of the protocol's; scores go into their own table
    scoring: ScoringMode | None = None  # another way to choose among options than the task's; part of the scorer
    packing: Packing = "auto"  # how questions of one image share what was read of it; changes no answer
    reference: bool = False  # every question alone, nothing shared; changes no answer
    trust_first_token: bool = False  # do not check that a one-word answer ends; reported as not exact
    sharding: Sharding = "none"  # fsdp2: weights in training are spread over the processes; same results
    on_bad: OnBad = "refuse"  # rows of the training data that cannot be used: refuse all, or drop and name them

    def __post_init__(self) -> None:
        for flag, path in (("--data", self.data), ("--llava", self.llava)):
            if path is not None and not path.is_dir():
                raise DataError(f"there is no folder '{path}'", where=flag, fix="name a folder that is there")
        for flag, value, known in (
            ("--packing", self.packing, get_args(Packing)),
            ("--sharding", self.sharding, get_args(Sharding)),
            ("--bad-rows", self.on_bad, get_args(OnBad)),
        ):
            if value not in known:
                raise unknown(flag.removeprefix("--"), str(value), known, where=flag)
        if self.scoring is not None and self.scoring not in get_args(ScoringMode):
            raise unknown("scoring", str(self.scoring), get_args(ScoringMode), where="--scoring")
        if self.llava is not None and self.sharding != "none":
            raise ConfigError("nothing is trained with --llava", where="--sharding", fix="leave one of the two out")
        if self.reference and self.trust_first_token:
            raise ConfigError(
                "--reference checks every token", where="--trust-first-token", fix="leave one of the two out"
            )

    def refuse_seeds(self, seeds: Sequence[int]) -> None:
        """Raises where several seeds were named for a trained model: they would count as several measurements.

        Raises:
            ConfigError: They were.
        """
        if self.llava is not None and len(set(seeds)) > 1:
            raise ConfigError(
                "nothing is drawn with --llava, so every seed gives the same answers",
                where="--seed",
                fix="name one seed, or none",
            )

    def refuse_for(self, suite: str) -> None:
        """Raises where a setting was given to a suite that has no use for it.

        Raises:
            ConfigError: One was.
        """
        usual = UnderstandingOptions()
        for entry in fields(self):
            if getattr(self, entry.name) != getattr(usual, entry.name):
                flag = _FLAGS.get(entry.name, f"--{entry.name.replace('_', '-')}")
                raise ConfigError(
                    f"{flag} is of the suite understanding, not of {suite}", where=flag, fix="leave it out"
                )


def scoring_of(options: UnderstandingOptions, spec: TaskSpec) -> ScoringMode | None:
    """Returns the way to choose among options that was asked for; open questions have none."""
    return None if spec.kind == "open" else options.scoring


_FLAGS = {"language_model": "--llm", "on_bad": "--bad-rows"}


def read_options(*, data: str | None, **values: Any) -> UnderstandingOptions | None:
    """Returns the options as the command line has them; None where all are as usual.

    Raises:
        ConfigError: A value is unknown, or two exclude each other.
        DataError: A folder is not there.
    """
    for name in ("llava", "language_model"):
        if (path := values.get(name)) is not None:
            # A folder is named in full: the run's record is read from elsewhere. What is none is a hub id.
            folder = Path(path).expanduser()
            values[name] = type(path)(folder.absolute()) if folder.is_dir() else path
    options = UnderstandingOptions(data=None if data is None else Path(data).expanduser(), **cast(Any, values))
    return None if options == UnderstandingOptions() else options
