"""What `ovbench fid` is asked for, opened and checked: whatever can be refused is refused before a picture is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import make_dir, read_json
from ovbench._base.names import unknown
from ovbench.encoders.modeling.frozen import check_device
from ovbench.harness.metrics.archives import open_zip
from ovbench.harness.metrics.conventions import (
    METRICS,
    Mode,
    check_network,
    default_metrics,
    mode_of,
    parse_metrics,
)
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.fid_audit import AuditRequest
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.inception_weights import Precision
from ovbench.harness.metrics.pair_scores import Measure, check_can_pair, check_sources, measures_of
from ovbench.harness.metrics.reference_checks import check_match, check_purpose
from ovbench.harness.metrics.references import Purpose, Reference, features_path, is_own_reference, read_reference
from ovbench.results.provenance import num_cores

_STATISTICS = (".pt", ".pth", ".pkl", ".pickle")


@dataclass(frozen=True, kw_only=True, slots=True)
class FidRequest:
    """What `ovbench fid` was asked for. Sources: a folder, zip, npz or parquet of pictures; `real` also statistics."""

    real: Path
    fake: Path
    metrics: str | None = None  # names with commas; None: what the mode prints
    extractor: str | None = None  # None: the mode's
    mode: str = "adm"
    weights: str | None = None  # of the extractor: a file or folder, or `random`
    lpips_weights: str | None = None
    device: str = "cpu"
    precision: Precision = "float32"
    compile: bool = False
    batch_size: int | None = None
    crop_px: int | None = None
    skip_bad: int = 0
    convert: bool = False
    expect: int | None = None  # exactly so many distinct generated pictures
    purpose: str = "generation"  # of Purpose
    split: str | None = None  # which pictures the reference is of, for the record
    versus: Path | None = None  # pictures of another generator, from the same seeds in the same order
    kid_subset_size: int = 1000
    intervals: bool = True
    seed: int = 0
    cache: bool = True
    save_reference: Path | None = None
    audit: AuditRequest | None = None

    def __post_init__(self) -> None:
        if self.purpose not in get_args(Purpose):
            raise unknown("purpose", self.purpose, get_args(Purpose), where="--purpose")
        if self.batch_size is not None and self.batch_size < 1:
            raise ConfigError(
                f"it must be 1 or more, got {self.batch_size}", where="--batch-size", fix="e.g. --batch-size 16"
            )
        if self.seed < 0:
            raise ConfigError(f"a seed must be 0 or more, got {self.seed}", where="--seed", fix="e.g. --seed 0")
        if self.kid_subset_size < 2:
            raise ConfigError(
                f"it must be 2 or more, got {self.kid_subset_size}",
                where="--kid-subset-size",
                fix="torch-fidelity and clean-fid take 1000",
            )
        if self.save_reference is not None and self.save_reference.suffix != ".npz":
            raise ConfigError(
                f"statistics are written as .npz, got '{self.save_reference.name}'",
                where="--save-reference",
                fix="name it ….npz",
            )


def check_precision(name: str) -> Precision:
    """Returns a precision by its name.

    Raises:
        ConfigError: There is none of that name.
    """
    if name not in get_args(Precision):
        raise unknown("precision", name, get_args(Precision), where="--precision")
    return cast(Precision, name)


@dataclass(frozen=True, kw_only=True)
class FidInputs:
    """Everything that was opened and checked before work begins."""

    request: FidRequest
    mode: Mode
    metrics: tuple[str, ...]  # of sets
    measures: Mapping[str, Measure]  # metrics of pairs
    asked: tuple[str, ...]  # all of them, in the order of the table
    statistics: Reference | None  # of the reference, where it came as a file
    real: ImageSource | None  # None: statistics alone
    fake: ImageSource
    versus: ImageSource | None
    extractor: Extractor | None  # None: scores of pairs alone
    warnings: tuple[str, ...]


def open_inputs(request: FidRequest) -> FidInputs:
    """Opens sources, statistics and the network, and refuses what cannot be scored.

    Raises:
        OvbenchError: Anything that a user can mend.
    """
    mode = mode_of(request.mode)
    check_device(request.device)
    if request.save_reference is not None:
        _check_target(request, request.save_reference)
    asked = None if request.metrics is None else parse_metrics(request.metrics)
    statistics, real = open_reference(request, request.real)
    fake = open_source(request, request.fake)
    if request.expect is not None and len(fake) != request.expect and not request.skip_bad:
        raise DataError(
            f"{len(fake)} pictures instead of {request.expect}",
            where=str(fake.path),
            fix="generate the missing ones, or state the number",
        )
    versus = None if request.versus is None else open_source(request, request.versus)
    if versus is not None and len(versus) != len(fake):
        raise ConfigError(
            f"a paired comparison needs as many pictures of both, got {len(fake)} and {len(versus)}",
            where="--versus",
            fix="sample both generators on the same seeds",
        )
    if versus is not None:
        check_can_pair(fake, versus)
    pairs = tuple(name for name in asked or () if METRICS[name].needs == "pairs")
    if pairs and (real is None or statistics is not None):
        raise ConfigError(
            f"{METRICS[pairs[0]].title} compares pictures, and '{request.real.name}' is a file of statistics",
            where="--metrics",
            fix="name the pictures that were encoded as REAL",
        )
    if pairs and real is not None:
        check_sources(real, fake)
    measures = measures_of(pairs, lpips_weights=request.lpips_weights, device=request.device)
    sets = None if asked is None else tuple(name for name in asked if name not in pairs)
    warnings: list[str] = []
    extractor = None
    metrics: tuple[str, ...] = sets or ()
    if sets is None or sets:
        extractor = _extractor(request, mode)
        info = extractor.info
        logits = info.logits is not None
        metrics = sets or default_metrics(mode, extractor=info.name, logits=logits)
        check_network(metrics, info.name, spatial=info.spatial is not None, logits=logits)
        if statistics is not None:
            warnings += _crop_warnings(request, statistics, fake)
            warnings += [*check_purpose(statistics, cast(Purpose, request.purpose)), *check_match(statistics, info)]
            _check_reference(request, statistics, real, metrics, asked=sets is not None)
        if not info.trained:
            warnings.append("the network is untrained: these numbers say nothing about pictures")
        if info.precision != "float32":
            warnings.append(
                f"the network runs in {info.precision}, which moves its features by {info.value_change:.1e}: "
                "a quick look, not a number to report"
            )
    if request.audit is not None:
        if extractor is None:
            raise ConfigError("the audit is of the Fréchet distance", where="--audit", fix="add fid to --metrics")
        for path in request.audit.references:
            open_reference(request, path)
    if extractor is None and request.save_reference is not None:
        raise ConfigError(
            "a reference holds features, and scores of pairs need none",
            where="--save-reference",
            fix="add fid to --metrics, or leave the option out",
        )
    warnings += _without_effect(request, mode, metrics, pairs, statistics)
    if (network := measures.get("lpips")) is not None and network.name != METRICS["lpips"].title:
        warnings.append("the network of LPIPS is untrained: its numbers say nothing about pictures")
    return FidInputs(
        request=request, mode=mode, metrics=metrics, measures=measures, statistics=statistics, real=real, fake=fake,
        versus=versus, extractor=extractor, warnings=tuple(warnings), asked=asked or metrics,
    )  # fmt: skip


def check_report_target(path: Path) -> None:
    """Refuses to write a report over anything but an earlier report.

    Raises:
        ConfigError: Something else is there, or the folder cannot be written to.
    """
    make_dir(path.parent)
    if not path.exists():
        return
    try:
        earlier = str(read_json(path)["format"]).startswith("ovbench-fid")
    except (DataError, KeyError, TypeError):
        earlier = False
    if not earlier:
        raise ConfigError(
            f"'{path.name}' is there and is no report of ovbench fid", where="--out", fix="name another file"
        )


def _check_target(request: FidRequest, target: Path) -> None:
    """Refuses to write a reference over anything but a reference of ovbench that is no input.

    Raises:
        ConfigError: It would destroy something, or the folder cannot be written to.
    """
    make_dir(target.parent)
    written = (target, features_path(target))
    inputs = [path for path in (request.real, request.fake, request.versus) if path is not None]
    taken = [
        path for path in written if any(path.expanduser().resolve() == own.expanduser().resolve() for own in inputs)
    ]
    if not taken and not is_own_reference(target):
        taken = [path for path in written if path.exists()]
    if taken:
        raise ConfigError(
            f"'{taken[0].name}' is there and is no reference that could be replaced",
            where="--save-reference",
            fix="name another file; nothing was overwritten",
        )


def _crop_warnings(request: FidRequest, statistics: Reference, fake: ImageSource) -> list[str]:
    """Returns what is to be said where a reference's pictures were cut in another way than the generated ones."""
    if statistics.crop in (None, fake.crop):
        return []
    return [
        f"the pictures of '{request.real.name}' had the crop '{statistics.crop}', those of '{fake.path.name}' have "
        f"'{fake.crop}': compare them only if the generator was trained on pictures that were cut so"
    ]


def _without_effect(
    request: FidRequest, mode: Mode, metrics: Sequence[str], pairs: Sequence[str], statistics: Reference | None
) -> list[str]:
    """Returns warnings about settings that change nothing here."""
    subsets = "kid" in metrics and mode.kid != "full"
    idle = {
        "--split": request.split is not None and statistics is not None,
        "--kid-subset-size": request.kid_subset_size != 1000 and not subsets,
        "--lpips-weights": request.lpips_weights is not None and "lpips" not in pairs,
        "--weights": request.weights is not None and not metrics,
        "--extractor": request.extractor is not None and not metrics,
    }
    return [f"{name} has no effect on these scores" for name, no_effect in idle.items() if no_effect]


def open_reference(request: FidRequest, path: Path) -> tuple[Reference | None, ImageSource | None]:
    """Returns the statistics of a file, its pictures, or both: ADM's statistics are of more than its pictures."""
    statistics = _statistics(path)
    holds_pictures = statistics is None or statistics.pictures > 0
    return statistics, open_source(request, path) if holds_pictures else None


def _check_reference(
    request: FidRequest, statistics: Reference, real: ImageSource | None, metrics: Sequence[str], *, asked: bool
) -> None:
    if request.save_reference is not None:
        raise ConfigError(
            f"'{request.real.name}' is a reference already", where="--save-reference", fix="name pictures as REAL"
        )
    if not asked or real is not None or statistics.features is not None:
        return  # without pictures, what nobody asked for by name is shown as not scored
    for name in metrics:
        if METRICS[name].needs == "reference pictures":
            raise ConfigError(
                f"{METRICS[name].title} needs the pictures of the reference, and '{request.real.name}' holds "
                "statistics alone",
                where="--metrics",
                fix=f"leave {name} out, or name the pictures as REAL",
            )
        if name == "sfid" and statistics.spatial is None:
            raise ConfigError(
                f"'{request.real.name}' holds no spatial statistics (mu_s, sigma_s), so that there is no sFID",
                where="--metrics",
                fix="leave sfid out, or name the pictures as REAL",
            )


def _statistics(path: Path) -> Reference | None:
    """Returns the reference that a statistics file holds; None for pictures."""
    path = path.expanduser()
    if path.suffix.lower() in _STATISTICS:
        return read_reference(path)
    if path.suffix.lower() == ".npz" and path.is_file():
        with open_zip(path) as archive:
            if "mu.npy" in archive.namelist():
                return read_reference(path)
    return None


def open_source(request: FidRequest, path: Path, *, limit: int | None = None) -> ImageSource:
    """Returns the pictures of a path as the request reads them; with a limit, the first so many of them."""
    return ImageSource(
        path,
        crop_px=request.crop_px,
        skip_bad=request.skip_bad,
        convert=request.convert,
        limit=limit,
        workers=max(2, num_cores()),
    )


def _extractor(request: FidRequest, mode: Mode) -> Extractor:
    name = request.extractor or mode.extractor
    options: dict[str, Any] = {}
    if name.startswith("inception-"):
        options["layers"] = ("2048", "spatial_2023", "logits_unbiased")
    return load_extractor(
        name,
        weights=request.weights,
        device=request.device,
        precision=request.precision,
        compile=request.compile,
        **options,
    )
