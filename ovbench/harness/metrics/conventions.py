"""What is scored about a set of pictures, and whose way of doing it: names, directions and defaults. Loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup, unknown

Needs = Literal["statistics", "reference pictures", "generated pictures", "pairs"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureMetric:
    """A score of a set of pictures."""

    title: str  # how it is called for the 2015 Inception; another network adds its name
    unit: str
    higher_is_better: bool
    needs: Needs  # of the reference: mean and covariance, the pictures; or nothing of it; or the very same pictures
    citation: str


METRICS: Mapping[str, PictureMetric] = MappingProxyType(
    {
        "fid": PictureMetric(
            title="FID", unit="squared feature units", higher_is_better=False, needs="statistics",
            citation="Heusel et al. 2017, arXiv:1706.08500, equation 6",
        ),
        "sfid": PictureMetric(
            title="sFID", unit="squared feature units", higher_is_better=False, needs="statistics",
            citation="Nash et al. 2021, arXiv:2103.03841; openai/guided-diffusion evaluations/evaluator.py",
        ),
        "fid-infinity": PictureMetric(
            title="FID-infinity", unit="squared feature units", higher_is_better=False, needs="statistics",
            citation="Chong & Forsyth 2020, arXiv:1911.07023, section 4.1",
        ),
        "is": PictureMetric(
            title="IS", unit="classes", higher_is_better=True, needs="generated pictures",
            citation="Salimans et al. 2016, arXiv:1606.03498, section 4",
        ),
        "kid": PictureMetric(
            title="KID", unit="squared MMD", higher_is_better=False, needs="reference pictures",
            citation="Bińkowski et al. 2018, arXiv:1801.01401, section 4",
        ),
        "precision": PictureMetric(
            title="Precision", unit="fraction", higher_is_better=True, needs="reference pictures",
            citation="Kynkäänniemi et al. 2019, arXiv:1904.06991, equation 2",
        ),
        "recall": PictureMetric(
            title="Recall", unit="fraction", higher_is_better=True, needs="reference pictures",
            citation="Kynkäänniemi et al. 2019, arXiv:1904.06991, equation 2",
        ),
        "density": PictureMetric(
            title="Density", unit="ratio", higher_is_better=True, needs="reference pictures",
            citation="Naeem et al. 2020, arXiv:2002.09797, equation 3",
        ),
        "coverage": PictureMetric(
            title="Coverage", unit="fraction", higher_is_better=True, needs="reference pictures",
            citation="Naeem et al. 2020, arXiv:2002.09797, equation 5",
        ),
        "cmmd": PictureMetric(
            title="CMMD", unit="1000 squared MMD", higher_is_better=False, needs="reference pictures",
            citation="Jayasumana et al. 2024, arXiv:2401.09603, section 4",
        ),
        "psnr": PictureMetric(
            title="PSNR", unit="dB", higher_is_better=True, needs="pairs",
            citation="bytetriper/RAE eval/ref_iqa.py",
        ),
        "ssim": PictureMetric(
            title="SSIM", unit="similarity", higher_is_better=True, needs="pairs",
            citation="Wang et al. 2004, equation 13",
        ),
        "lpips": PictureMetric(
            title="LPIPS", unit="distance", higher_is_better=False, needs="pairs",
            citation="Zhang et al. 2018, arXiv:1801.03924",
        ),
    }
)  # fmt: skip
GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "pr": ("precision", "recall"),
        "prc": ("precision", "recall"),  # torch-fidelity's word
        "prdc": ("precision", "recall", "density", "coverage"),
        "isc": ("is",),
    }
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Mode:
    """The conventions of one program, for everything in which programs differ."""

    extractor: str
    inception_score: Literal["adm", "torch-fidelity"]
    kid: Literal["full", "torch-fidelity", "clean-fid"]
    metrics: tuple[str, ...]  # without `--metrics`: what that program prints


MODES: Mapping[str, Mode] = MappingProxyType(
    {
        "adm": Mode(
            extractor="inception-tf", inception_score="adm", kid="full",
            metrics=("fid", "sfid", "is", "precision", "recall"),
        ),
        "torch-fidelity": Mode(
            extractor="inception-tf", inception_score="torch-fidelity", kid="torch-fidelity",
            metrics=("is", "fid", "kid", "precision", "recall"),
        ),
        "pytorch-fid": Mode(extractor="inception-pytorchfid", inception_score="adm", kid="full", metrics=("fid",)),
        "clean": Mode(extractor="inception-clean", inception_score="adm", kid="clean-fid", metrics=("fid", "kid")),
    }
)  # fmt: skip
# Metrics that are defined on one network alone.
_OF_NETWORK = {"cmmd": "clip-l14-336"}


def mode_of(name: str) -> Mode:
    """Returns a mode.

    Raises:
        ConfigError: There is none of that name.
    """
    return lookup(MODES, name, kind="mode", where="--mode")


def parse_metrics(text: str) -> tuple[str, ...]:
    """Returns the metrics that a list such as `fid,kid,prdc` names, each once, in the given order.

    Raises:
        ConfigError: An unknown name, or an empty list.
    """
    found: dict[str, None] = {}
    for word in (part.strip().lower() for part in text.split(",")):
        if not word:
            continue
        if word not in METRICS and word not in GROUPS:
            raise unknown("metric", word, [*METRICS, *GROUPS], where="--metrics")
        found.update(dict.fromkeys(GROUPS.get(word, (word,))))
    if not found:
        raise ConfigError("no metric was named", where="--metrics", fix=f"e.g. fid,kid; known: {', '.join(METRICS)}")
    return tuple(found)


def check_network(metrics: Iterable[str], extractor: str, *, spatial: bool, logits: bool) -> None:
    """Refuses metrics that a network cannot give.

    Args:
        metrics: Names of METRICS.
        extractor: Name of the backend.
        spatial: Whether it gives the layer of sFID.
        logits: Whether it gives the logits of the inception score.

    Raises:
        ConfigError: One of them is no score of that network.
    """
    for name in metrics:
        if name == "sfid" and not spatial:
            raise ConfigError(
                f"'{extractor}' has no spatial layer, so that there is no sFID", where="--metrics", fix="leave sfid out"
            )
        if name == "is" and not logits:
            raise ConfigError(
                f"'{extractor}' is not the classifier of the inception score", where="--metrics", fix="leave is out"
            )
        if (wanted := _OF_NETWORK.get(name)) is not None and extractor != wanted:
            raise ConfigError(
                f"{METRICS[name].title} is defined on the features of '{wanted}', not of '{extractor}'",
                where="--metrics",
                fix=f"add --extractor {wanted}",
            )


def default_metrics(mode: Mode, *, extractor: str, logits: bool) -> tuple[str, ...]:
    """Returns what is scored when nothing was asked for: what the mode's program prints, as far as the network can."""
    if extractor in _OF_NETWORK.values():
        return tuple(name for name, network in _OF_NETWORK.items() if network == extractor)
    if logits:
        return mode.metrics
    return ("fid", "kid", "precision", "recall")
