"""Tasks of pictures: what is measured about samples or reconstructions, by which network, against which pictures.

How the pictures are made is the protocol's; a task knows no model and no file.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Literal, cast, get_args

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.tasks.base import Family
from ovbench.tasks.fields import Fields
from ovbench.tasks.load import read_yaml

CATALOG = Path(__file__).parent / "picture_catalog"
PictureKind = Literal["generation", "reconstruction"]
Reference = Literal["test", "adm"]
READ_BACK = "class-read-back"  # share of samples that the extractor's classifier puts into the class they were made of


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureTask:
    """What is scored about the pictures that a protocol makes. Everything in it is data."""

    name: str  # lower case, e.g. `mini-images`
    version: int  # raised when what is measured changes
    title: str
    kind: PictureKind
    family: Family  # `mini` numbers never share a column with those of real benchmarks
    mode: str  # whose conventions, as in `ovbench fid --mode`
    extractor: str  # network whose features are compared, as in `ovbench fid --extractor`
    metrics: tuple[str, ...]  # names as in `ovbench fid --metrics`; for wardrobe also `class-read-back`
    headline: str  # the one of them that comparison tables show
    reference: Reference  # test: the protocol's test pictures; adm: ADM's statistics file of the training set
    citation: str
    licence: str
    description: str

    def __post_init__(self) -> None:
        where = f"task '{self.name}'"
        choices = {"kind": (self.kind, PictureKind), "family": (self.family, Family)}
        choices["reference"] = (self.reference, Reference)
        for key, (value, allowed) in choices.items():
            if value not in get_args(allowed):
                raise unknown(key, value, get_args(allowed), where=f"{where}, {key}")
        if self.headline not in self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(
                f"metrics must be distinct and hold the headline '{self.headline}', got {list(self.metrics)}",
                where=f"{where}, metrics",
            )
        if self.kind == "reconstruction" and (self.reference != "test" or READ_BACK in self.metrics):
            raise ConfigError(
                "reconstructions are compared with the pictures that they were made of", where=f"{where}, reference"
            )

    @property
    def pair_metrics(self) -> tuple[str, ...]:
        """Those that compare each picture with its original."""
        return tuple(name for name in self.metrics if name in ("psnr", "ssim", "lpips"))

    @property
    def set_metrics(self) -> tuple[str, ...]:
        """Those that compare two sets of pictures by their features."""
        return tuple(name for name in self.metrics if name not in (*self.pair_metrics, READ_BACK))


def picture_task_names() -> tuple[str, ...]:
    """Returns the names of all picture tasks, sorted."""
    return tuple(sorted(path.stem for path in CATALOG.glob("*.yaml")))


@cache
def load_picture_task(name: str, *, where: str = "--tasks") -> PictureTask:
    """Returns a picture task.

    Raises:
        ConfigError: There is none of that name, or its file cannot be used.
    """
    if name not in picture_task_names():
        raise unknown("task", name, picture_task_names(), where=where, listing="ovbench tasks")
    path = CATALOG / f"{name}.yaml"
    entry = Fields(read_yaml(path), [field.name for field in fields(PictureTask)], path.name)
    return PictureTask(
        version=entry.integer("version", least=1),
        kind=cast(PictureKind, entry.text("kind")),
        family=cast(Family, entry.text("family")),
        reference=cast(Reference, entry.text("reference")),
        metrics=entry.texts("metrics"),
        **{
            key: entry.text(key)
            for key in ("name", "title", "mode", "extractor", "headline", "citation", "licence", "description")
        },
    )
