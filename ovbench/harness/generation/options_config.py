"""What a user may set about generation beside the protocol: counts, guidance, given weights, data. Values only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast, get_args

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import unknown
from ovbench.harness.generation.flow_config import GuidanceConfig

SaveFormat = Literal["png", "npz"]
Sharding = Literal["none", "fsdp2"]
_GUIDANCE = re.compile(r"(?P<kind>[a-z]+)(:(?P<scale>[0-9.]+)(@(?P<low>[0-9.]+)-(?P<high>[0-9.]+))?)?")


@dataclass(frozen=True, kw_only=True, slots=True)
class GenerationOptions:
    """Settings of one generation run; what is None is the protocol's."""

    num_samples: int | None = None
    guidance: GuidanceConfig | None = None
    decoder: Path | None = None  # weights of a trained decoder, or an AutoencoderRAE folder; in place of stage 1
    stats: Path | None = None  # statistics of latents, likewise
    dit: Path | None = None  # weights of a diffusion transformer, in place of stage 2
    dit_network: str | None = None  # their preset or configuration file; None: the protocol's
    guide: Path | None = None  # weights of the weaker network of autoguidance
    guide_network: str | None = None  # None: dit-dh-s, RAE's
    reference: Path | None = None  # ADM's file
    extractor_weights: str | None = None  # of the scoring network; None: where it is looked for; random: a trial
    lpips_weights: Path | None = None  # VGG16 of LPIPS; None: where it is looked for
    dino_weights: Path | None = None  # backbone of the discriminator; None: where it is looked for
    data: str | None = None  # ImageNet: folder, shards or hub id with its commit
    save_samples: Path | None = None  # samples as files
    save_format: SaveFormat = "png"
    compile: bool = False  # networks, for a GPU
    sharding: Sharding = "none"  # fsdp2: weights of stage 2 in training are spread over the processes; same results

    def __post_init__(self) -> None:
        if self.num_samples is not None and (isinstance(self.num_samples, bool) or self.num_samples < 2):
            raise ConfigError(
                f"--num-samples must be 2 or more, got {self.num_samples}",
                where="--num-samples",
                fix="distances need a covariance: thousands for a figure, 50000 as in papers",
            )
        if self.save_format not in get_args(SaveFormat):
            raise unknown("format of samples", str(self.save_format), get_args(SaveFormat), where="--save-format")
        if self.sharding not in get_args(Sharding):
            raise unknown("sharding", str(self.sharding), get_args(Sharding), where="--sharding")
        if self.save_format != "png" and self.save_samples is None:
            raise ConfigError(
                "--save-format has no effect without --save-samples",
                where="--save-format",
                fix="add --save-samples DIR",
            )
        for flag, path in (("--decoder", self.decoder), ("--stats", self.stats)):
            if path is not None and not path.exists():
                raise DataError(
                    f"there is no file '{path}'",
                    where=flag,
                    fix="name a file that is there, or an AutoencoderRAE folder",
                )
        for flag, path in (
            ("--dit", self.dit),
            ("--guide", self.guide),
            ("--reference", self.reference),
            ("--lpips-weights", self.lpips_weights),
            ("--dino-weights", self.dino_weights),
        ):
            if path is not None and not path.is_file():
                raise DataError(f"there is no file '{path}'", where=flag, fix="name a file that is there")
        weights = self.extractor_weights
        if weights is not None and weights != "random" and not Path(weights).exists():
            raise DataError(
                f"there is no file '{weights}'",
                where="--extractor-weights",
                fix="name a file that is there, or `random` for a trial whose scores mean nothing",
            )
        if self.dit is not None and self.stats is None:
            raise ConfigError(
                "weights of a diffusion transformer are of no use without the statistics of its latents",
                where="--dit",
                fix="add --stats FILE, the statistics that it was trained with",
            )
        for flag, value, needed in (
            ("--dit-network", self.dit_network, self.dit),
            ("--guide-network", self.guide_network, self.guide),
        ):
            if value is not None and needed is None:
                raise ConfigError(f"{flag} has no effect without weights", where=flag, fix="leave it out")
        auto = self.guidance is not None and self.guidance.kind == "auto"
        if auto and self.guide is None:
            raise ConfigError(
                "autoguidance needs the weights of a weaker network", where="--guidance", fix="add --guide FILE"
            )
        if self.guide is not None and not auto:
            raise ConfigError(
                "a guide has no effect without autoguidance", where="--guide", fix="add e.g. --guidance auto:1.42"
            )

    def of_reconstructions(self) -> GenerationOptions:
        """Returns what counts for reconstructions too: nothing about samples."""
        return replace(
            self,
            num_samples=None,
            guidance=None,
            dit=None,
            dit_network=None,
            guide=None,
            guide_network=None,
            reference=None,
            save_samples=None,
            save_format="png",
        )


def parse_guidance(text: str) -> GuidanceConfig:
    """Reads `none`, `cfg:1.5`, `auto:1.42`, or with an interval of times `cfg:1.5@0.1-0.9`.

    Raises:
        ConfigError: It is none of these, or the numbers are out of range.
    """
    found = _GUIDANCE.fullmatch(text.strip().lower())
    fix = "e.g. none, cfg:1.5, cfg:1.5@0.1-0.9, auto:1.42"
    if (
        found is None
        or found["kind"] not in ("none", "cfg", "auto")
        or (found["kind"] == "none") != (not found["scale"])
    ):
        raise ConfigError(f"'{text}' is no guidance", where="--guidance", fix=fix)
    if found["kind"] == "none":
        return GuidanceConfig()
    try:
        scale = float(found["scale"])
        interval = (float(found["low"]), float(found["high"])) if found["low"] else (0.0, 1.0)
    except ValueError:
        raise ConfigError(f"'{text}' holds something that is no number", where="--guidance", fix=fix) from None
    try:
        return GuidanceConfig(kind=cast(Literal["cfg", "auto"], found["kind"]), scale=scale, interval=interval)
    except ConfigError as error:
        raise ConfigError(error.what, where="--guidance", fix=fix) from None


def guidance_text(config: GuidanceConfig) -> str:
    """Returns a guidance as `parse_guidance` reads it."""
    if config.kind == "none":
        return "none"
    low, high = config.interval
    return f"{config.kind}:{config.scale:g}" + ("" if config.interval == (0.0, 1.0) else f"@{low:g}-{high:g}")


def parse_guidances(texts: Sequence[str]) -> tuple[GuidanceConfig | None, ...]:
    """Returns the guidances of a sweep, each once; (None,): the protocol's."""
    found = dict.fromkeys(parse_guidance(text) for text in texts)
    return tuple(found) or (None,)
