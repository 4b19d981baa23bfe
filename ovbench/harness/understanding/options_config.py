"""What a user may set about understanding beside the protocol: data, given weights, how questions are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import unknown

Packing = Literal["auto", "padded", "packed"]
ScoringMode = Literal["ppl", "constrained"]
Sharding = Literal["none", "fsdp2"]
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
            ("--on-bad", self.on_bad, get_args(OnBad)),
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
