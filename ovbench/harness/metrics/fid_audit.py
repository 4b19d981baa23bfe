"""What every single change of convention is worth: the same pictures, one thing done otherwise, the distance again.

Two columns per change. `both`: both sides are done in the other way, as one who uses another program throughout.
`mixed`: the reference stays as it is, as one whose reference statistics come from elsewhere.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench._base.lazy import installed, require
from ovbench._base.seeding import numpy_generator
from ovbench.harness.metrics.extractor_base import Extractor, ExtractorInfo
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.frechet import FrechetResult, frechet_distance, frechet_from_features, moments_of
from ovbench.harness.metrics.inception_weights import RANDOM, find_weights, full_float32, random_state
from ovbench.harness.metrics.references import Gaussian, Reference
from ovbench.harness.metrics.resizing import RESIZES

Rows = np.ndarray  # float32 [N, D]
_NO_PICTURES = "the reference is statistics without pictures"


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRequest:
    """What is audited beside the built-in changes."""

    limit: int | None = None  # only the first N pictures of each side
    references: tuple[Path, ...] = ()  # other references

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 4:
            raise ConfigError(f"it must be 4 or more, got {self.limit}", where="--audit-limit")


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditRow:
    """One change, and the distance under it. None: it cannot be had, see `note`."""

    kind: Kind
    change: str
    both: float | None = None
    mixed: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """All changes, beside the distance as it stands."""

    name: str  # of the distance, e.g. FID
    base: float
    num_real: int | None
    num_fake: int
    rows: tuple[AuditRow, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the audit as it is written as JSON."""
        return {
            "name": self.name,
            "base": self.base,
            "num_real": self.num_real,
            "num_fake": self.num_fake,
            "rows": [
                {
                    "kind": row.kind,
                    "change": row.change,
                    "both": row.both,
                    "mixed": row.mixed,
                    "both_minus_base": None if row.both is None else row.both - self.base,
                    "mixed_minus_base": None if row.mixed is None else row.mixed - self.base,
                    "note": row.note,
                }
                for row in self.rows
            ],
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class OtherReference:
    """Statistics of another reference."""

    stats: Gaussian
    n: int | None  # pictures; None: not known
    note: str  # in what else it differs


@dataclass(frozen=True, kw_only=True)
class AuditData:
    """What an audit works on.

    `real` and `fake` give rows of the pooled layer of both sides under an extractor; `real` is None where the reference
    is statistics alone.
    """

    extractor: Extractor
    weights: str | None
    fake: Callable[[Extractor], Rows]
    real: Callable[[Extractor], Rows] | None
    stats: Reference | None  # where the reference is statistics
    others: Mapping[str, Callable[[], OtherReference]]  # by name
    seed: int = 0


def run_audit(data: AuditData, progress: Callable[[int, int], None] | None = None) -> Audit:
    """Computes the distance as it stands, and under every single change.

    Args:
        data: The two sides.
        progress: Called with changes done and changes in all.
    """
    auditor = _Auditor(data)
    steps = [*auditor.extractor_changes(), *auditor.set_changes(), *auditor.solver_changes()]
    rows: list[AuditRow] = []
    for done, step in enumerate(steps):
        rows.append(step())
        if progress is not None:
            progress(done + 1, len(steps))
    info = data.extractor.info
    return Audit(
        name=info.metric_name("FID"), base=auditor.base.value, num_real=auditor.num_real, num_fake=len(auditor.fake),
        rows=tuple(rows),
    )  # fmt: skip


Step = Callable[[], AuditRow]
Kind = Literal["resize", "rounding", "normalisation", "port", "precision", "reference", "number", "solver"]
_RESIZES = {
    "tf1-bilinear": "ADM and torch-fidelity",
    "torch-bilinear": "pytorch-fid",
    "torch-bilinear-antialias": "torchmetrics since 1.8.0",
    "torch-bicubic-antialias": "torch's own bicubic",
    "pil-bicubic": "clean-fid",
    "pil-bicubic-u8": "a picture that PIL resized and saved",
}


class _Auditor:
    def __init__(self, data: AuditData) -> None:
        self.data, self.device = data, data.extractor.device
        self.fake = data.fake(data.extractor)
        self.real = None if data.real is None else data.real(data.extractor)
        if data.stats is not None:
            self.gaussian, self.num_real = data.stats.pool, data.stats.n
        else:
            assert self.real is not None
            self.gaussian, self.num_real = _gaussian(self.real, self.device), len(self.real)
        self.base = self._distance(self.fake)

    def _distance(self, fake: Rows) -> FrechetResult:
        """Returns the distance of generated rows to the reference as it is."""
        if self.data.stats is None and self.real is not None:
            return frechet_from_features(self.real, fake, device=self.device)
        stats = _gaussian(fake, self.device)
        return frechet_distance(
            self.gaussian.mu, self.gaussian.sigma, stats.mu, stats.sigma, self.num_real, len(fake), device=self.device
        )

    # --- another network, resize, rounding ---------------------------------------------------------------------------

    def extractor_changes(self) -> Iterator[Step]:
        """Yields a step per change in how pictures become features."""
        info = self.data.extractor.info
        name = info.name
        if name.startswith("inception-"):
            yield from self._inception_changes(info)
        elif name == "clip-l14-336":
            for resize in ("torch-bicubic", "square-pil-bicubic-u8"):
                if resize != info.resize:
                    yield self._extracted("resize", resize, lambda resize=resize: self._load(name, resize=resize))
        yield self._extracted(
            "precision", "bfloat16 in place of float32", lambda: self._load(name, precision="bfloat16")
        )

    def _inception_changes(self, info: ExtractorInfo) -> Iterator[Step]:
        name = info.name
        for resize, whose in _RESIZES.items():
            if resize != info.resize:
                yield self._extracted(
                    "resize", f"{resize}, as {whose}", lambda resize=resize: self._load(name, resize=resize)
                )
        if (rounded := f"{info.resize}-u8") in RESIZES:
            yield self._extracted(
                "rounding", "whole grey levels after the resize", lambda: self._load(name, resize=rounded)
            )
        centre = 128.0 if "127.5" in info.normalisation else 127.5
        yield self._extracted(
            "normalisation", f"(x - {centre:g}) / {centre:g}", lambda: self._load(name, centre=centre)
        )
        yield self._extracted(
            "port", "batch norms not folded", lambda: self._named(self._load(name, fast=False), "plain")
        )
        for other in ("inception-tf", "inception-pytorchfid"):
            # The other two differ from `inception-tf` in their resize alone, which has a row already.
            if "inception-pytorchfid" in (name, other) and other != name:
                what = f"{other}: resize and normalisation together"
                yield self._extracted("port", what, lambda other=other: self._load(other))
        if installed("torch_fidelity"):
            yield self._extracted("port", "torch-fidelity's own network and resize", self._torch_fidelity)

    def _extracted(self, kind: Kind, change: str, load: Callable[[], Extractor]) -> Step:
        def step() -> AuditRow:
            extractor = load()
            fake = self.data.fake(extractor)
            mixed = self._distance(fake).value
            if self.data.real is None:
                return AuditRow(kind=kind, change=change, mixed=mixed, note=f"both: {_NO_PICTURES}")
            both = frechet_from_features(self.data.real(extractor), fake, device=self.device).value
            return AuditRow(kind=kind, change=change, both=both, mixed=mixed)

        return step

    def _load(self, name: str, **options: Any) -> Extractor:
        if name.startswith("inception-"):
            options["layers"] = (self.data.extractor.info.pool,)
        return load_extractor(name, weights=self.data.weights, device=str(self.device), **options)

    def _named(self, extractor: Extractor, form: str) -> Extractor:
        # Contract: another form of the same network has rows of its own in the feature cache.
        return replace(extractor, info=replace(extractor.info, name=f"{extractor.info.name} ({form})"))

    def _torch_fidelity(self) -> Extractor:
        """Returns torch-fidelity's own class with our weights file."""
        module = require("torch_fidelity.feature_extractor_inceptionv3", extra="dev", purpose="--audit")
        with tempfile.TemporaryDirectory() as folder:
            if self.data.weights == RANDOM:
                path = Path(folder) / "seeded.pth"
                torch.save(random_state(), path)
            else:
                path = find_weights(self.data.weights)
            network = module.FeatureExtractorInceptionV3("ovbench", ["2048"], feature_extractor_weights_path=str(path))
        network = network.to(self.device).eval()
        base = load_extractor("inception-tf", weights=self.data.weights, device=str(self.device), layers=("2048",))

        def run(images_u8: Tensor) -> Mapping[str, Tensor]:
            with full_float32():
                return {"2048": network(images_u8.contiguous())[0]}

        return self._named(replace(base, run=run), "torch-fidelity")

    # --- other pictures ---------------------------------------------------------------------------------------------

    def set_changes(self) -> Iterator[Step]:
        """Yields a step per other reference or number of pictures."""
        for name, read in self.data.others.items():
            yield lambda name=name, read=read: self._other_reference(name, read())
        if self.real is not None and len(self.real) >= 4:
            yield lambda: self._half_reference()
        for part in (2, 4):
            if len(self.fake) // part >= 2:
                yield lambda part=part: self._fewer(len(self.fake) // part)

    def _other_reference(self, name: str, other: OtherReference) -> AuditRow:
        number = f"{other.n} pictures" if other.n is not None else "of an unknown number of pictures"
        note = "; ".join(part for part in (number, other.note) if part)
        if other.stats.dim != self.gaussian.dim:
            return AuditRow(kind="reference", change=name, note=note)
        own = _gaussian(self.fake, self.device)
        found = frechet_distance(
            other.stats.mu, other.stats.sigma, own.mu, own.sigma, other.n, len(self.fake), device=self.device
        )
        return AuditRow(kind="reference", change=name, mixed=found.value, note=note)

    def _half_reference(self) -> AuditRow:
        assert self.real is not None
        half = _some(self.real, len(self.real) // 2, self.data.seed, "reference")
        found = frechet_from_features(half, self.fake, device=self.device)
        return AuditRow(
            kind="reference", change="a random half of the reference", mixed=found.value, note=f"{len(half)} pictures"
        )

    def _fewer(self, count: int) -> AuditRow:
        found = self._distance(_some(self.fake, count, self.data.seed, "generated"))
        return AuditRow(kind="number", change=f"{count} of {len(self.fake)} generated pictures", mixed=found.value)

    # --- another solver ---------------------------------------------------------------------------------------------

    def solver_changes(self) -> Iterator[Step]:
        """Yields a step per way to the trace of the matrix root, on the same statistics; each may be plainly wrong."""
        first, second = self.gaussian, _gaussian(self.fake, self.device)
        for change, solve in _SOLVERS.items():
            if change.startswith("scipy") and not installed("scipy"):
                continue
            yield lambda change=change, solve=solve: self._solved(change, solve, first, second)
        yield lambda: self._population(first, second)

    def _solved(self, change: str, solve: Callable[..., complex], first: Gaussian, second: Gaussian) -> AuditRow:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what they say of their own failing shows in the number
                root = complex(solve(first.sigma, second.sigma))
        except np.linalg.LinAlgError as error:
            return AuditRow(kind="solver", change=change, note=f"gave no number: {error}")
        value = _assembled(first, second, root.real)
        if not np.isfinite(value):
            return AuditRow(kind="solver", change=change, note="gave no finite number")
        note = f"imaginary part {root.imag:.2g} dropped" if abs(root.imag) > 1e-6 * abs(root.real) else ""
        return AuditRow(kind="solver", change=change, both=value, note=note)

    def _population(self, first: Gaussian, second: Gaussian) -> AuditRow:
        """The covariance divided by n in place of n - 1."""
        change = "covariances divided by n"
        if self.num_real is None:
            return AuditRow(kind="solver", change=change, note="the number behind the reference is not known")
        scales = [1 - 1 / self.num_real, 1 - 1 / len(self.fake)]
        found = frechet_distance(
            first.mu, first.sigma * scales[0], second.mu, second.sigma * scales[1], self.num_real, len(self.fake),
            device=self.device,
        )  # fmt: skip
        return AuditRow(kind="solver", change=change, both=found.value)


def _gaussian(rows: Rows, device: torch.device) -> Gaussian:
    stats = moments_of(rows, "features", device)
    return Gaussian(mu=stats.mu.cpu().numpy(), sigma=stats.sigma.cpu().numpy())


def _some(rows: Rows, count: int, seed: int, label: str) -> Rows:
    chosen = numpy_generator(seed, "audit", label, count).choice(len(rows), count, replace=False)
    return rows[np.sort(chosen)]


def _assembled(first: Gaussian, second: Gaussian, root: float) -> float:
    gap = first.mu - second.mu
    return float(gap @ gap + np.trace(first.sigma) + np.trace(second.sigma) - 2 * root)


def _sqrtm(first: np.ndarray, second: np.ndarray) -> complex:
    linalg = require("scipy.linalg", extra="dev", purpose="--audit")
    return np.trace(linalg.sqrtm(first @ second))


def _sqrtm_offset(first: np.ndarray, second: np.ndarray) -> complex:
    offset = 1e-6 * np.eye(len(first))
    return _sqrtm(first + offset, second + offset)


def _eigenvalues(first: np.ndarray, second: np.ndarray) -> complex:
    return np.sqrt(np.linalg.eigvals(first @ second).astype(np.complex128)).sum()


def _float32(first: np.ndarray, second: np.ndarray) -> complex:
    values, vectors = np.linalg.eigh(first.astype(np.float32))
    root = vectors * np.sqrt(np.maximum(values, 0))
    return np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ second.astype(np.float32) @ root), 0)).sum()


_SOLVERS: Mapping[str, Callable[[np.ndarray, np.ndarray], complex]] = {
    "scipy.linalg.sqrtm, as ADM, pytorch-fid and clean-fid": _sqrtm,
    "scipy.linalg.sqrtm with 1e-6 on both diagonals": _sqrtm_offset,
    "numpy eigvals, as torch-fidelity": _eigenvalues,
    "eigh in float32": _float32,
}
