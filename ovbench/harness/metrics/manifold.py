"""Precision, recall, density and coverage: how two sets of features overlap, by balls around nearest neighbours.

Sources: Kynkäänniemi et al., Improved Precision and Recall Metric for Assessing Generative Models (arXiv:1904.06991),
equations 1 and 2; Naeem et al., Reliable Fidelity and Diversity Metrics for Generative Models (arXiv:2002.09797),
equations 3 and 5. Reference code: openai/guided-diffusion `evaluations/evaluator.py` (ManifoldEstimator),
torch-fidelity 0.4.0 `metric_prc.py`, prdc 0.2.

Distances are squared and come in tiles of one shape, so memory does not grow with the sets and equal distances are
equal bit by bit: a generated copy of a reference image is a tie wherever it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.moments import Features, as_rows, check_count, check_features, check_same_dim

Convention = Literal["adm", "torch-fidelity", "prdc"]
DistanceDtype = Literal["float32", "float64", "float16_adm"]

_HALF_MAX = 65504.0
_ALIGNED = 64  # a small set's tile is a multiple of this
_BLOCK = 4096


@dataclass(frozen=True, kw_only=True, slots=True)
class PrecisionRecall:
    """Precision and recall as fractions, with the convention; sizes differ on purpose in the ADM protocol."""

    precision: float
    recall: float
    f_score: float  # 2 P R / max(1e-5, P + R), as torch-fidelity prints it
    convention: Convention
    k: int
    num_reference: int
    num_generated: int
    distance_dtype: DistanceDtype  # what was used: float16_adm becomes float32 where half precision would overflow


@dataclass(frozen=True, kw_only=True, slots=True)
class DensityCoverage:
    """Density (can exceed 1) and coverage (a fraction), with balls around the reference alone."""

    density: float
    density_error: float  # standard error over generated images, the reference being what it is
    coverage: float
    k: int
    num_reference: int
    num_generated: int


class _Rows:
    """Rows of a set and their squared norms, in the dtype of the distances, padded to whole tiles."""

    def __init__(self, features: torch.Tensor, dtype: DistanceDtype, tile: int) -> None:
        # Trap: a matrix product rounds differently for another shape, and that would break ties at random. All tiles
        # have one shape; the rows of zeros that fill the last one are cut off.
        self.count, self.tile, self.half = len(features), tile, dtype == "float16_adm"
        values = features.to(torch.float64 if dtype == "float64" else torch.float32)
        if self.half:
            values = values.half().float()  # sums in float32, results in half: what tensor cores do
        self.values = functional.pad(values, (0, 0, 0, -self.count % tile))
        norms = self.values.square().sum(dim=1)
        self.norms = norms.half().float() if self.half else norms

    def __len__(self) -> int:
        return self.count

    def starts(self) -> range:
        """First row of each tile."""
        return range(0, self.count, self.tile)

    def distances(self, other: _Rows, row: int, column: int) -> torch.Tensor:
        """Returns |u|^2 + |v|^2 - 2 u.v, cut at 0, for one tile without its padding, [<= tile, <= tile]."""
        tile = self.tile
        norms_u, norms_v = self.norms[row : row + tile, None], other.norms[None, column : column + tile]
        product = self.values[row : row + tile] @ other.values[column : column + tile].T
        if self.half:
            product = product.half().float()
            squares = ((norms_u - 2 * product).half().float() + norms_v).half().float()
        else:
            squares = (norms_u + norms_v).sub_(product, alpha=2)
        return squares[: self.count - row, : other.count - column].clamp_min_(0.0)


def _radii(rows: _Rows, k: int) -> torch.Tensor:
    """Returns the squared distance of each row to its k-th neighbour, [n]; the row itself counts as the 0-th."""
    radii: list[torch.Tensor] = []
    for row in rows.starts():
        nearest: torch.Tensor | None = None
        for column in rows.starts():
            tile = rows.distances(rows, row, column)
            found = tile.topk(min(k + 1, tile.shape[1]), dim=1, largest=False).values
            if nearest is not None:
                found = torch.cat([nearest, found], dim=1)
                found = found.topk(min(k + 1, found.shape[1]), dim=1, largest=False).values
            nearest = found
        assert nearest is not None
        radii.append(nearest.amax(dim=1))
    return torch.cat(radii)


def _prepare(
    reference: Features,
    generated: Features,
    k: int,
    block: int,
    dtype: DistanceDtype,
    device: torch.device | str | None,
) -> tuple[_Rows, _Rows, DistanceDtype]:
    if dtype not in ("float32", "float64", "float16_adm"):
        raise ConfigError(
            f"unknown distance_dtype {dtype!r}", where="distance_dtype", fix="float32, float64 or float16_adm"
        )
    check_features(reference, "reference", min_rows=2)
    check_features(generated, "generated", min_rows=2)
    check_same_dim(reference, generated, "reference, generated")
    smallest = min(len(reference), len(generated))
    check_count(k, "k", low=1, high=smallest - 1, why="each row needs k neighbours in its own set")
    check_count(block, "block", low=1)
    ref, gen = as_rows(reference, device), as_rows(generated, device)
    if dtype == "float16_adm":
        largest = max(float(rows.float().square().sum(dim=1).max()) for rows in (ref, gen))
        if 4.0 * largest > _HALF_MAX:  # no distance exceeds four times the largest squared norm
            dtype = "float32"
    tile = tile_size(len(ref), len(gen), block)
    return _Rows(ref, dtype, tile), _Rows(gen, dtype, tile), dtype


def tile_size(num_reference: int, num_generated: int, block: int = _BLOCK) -> int:
    """Returns the side of the tiles that two sets are compared in, at most about `block` rows.

    Radii belong to it: those of another tile can differ in the last bit, which would break ties.
    """
    longest = max(num_reference, num_generated)
    rows = -(-longest // -(-longest // block))  # tiles of about one size, so that little is padding
    return min(block, -(-rows // _ALIGNED) * _ALIGNED)


def squared_radii(
    features: Features, *, tile: int, k: int = 3, device: torch.device | str | None = None
) -> NDArray[np.float32]:
    """Returns the squared distance of each row to its k-th neighbour in float32, [n, d] → [n].

    Args:
        features: The centres.
        tile: Of `tile_size`, for the sets that will be compared.
        k: Neighbours.
        device: Where to compute; None is where the array is.
    """
    check_features(features, "features", min_rows=k + 1)
    return _radii(_Rows(as_rows(features, device), "float32", tile), k).cpu().numpy()


def precision_recall(
    reference: Features,
    generated: Features,
    *,
    k: int = 3,
    convention: Convention = "adm",
    distance_dtype: DistanceDtype = "float32",
    block: int = _BLOCK,
    device: torch.device | str | None = None,
    reference_radii: Features | None = None,
) -> PrecisionRecall:
    """Returns precision and recall of a generated set against a reference, [n, d] and [m, d].

    The radius of a ball is the distance to the k-th neighbour in the centre's own set. Precision is the share of
    generated rows inside any reference ball, recall the share of reference rows inside any generated ball. Source:
    Kynkäänniemi et al. 2019, equations 1 and 2.

    - `adm`: a point on the surface is inside (`<=`). Its protocol takes Inception pool_3, k = 3, the 10,000 images of
      the reference file and all 50,000 samples.
    - `torch-fidelity`: the same rule; its arguments are (generated, reference), here they are named.
    - `prdc`: a point on the surface is outside (`<`); differs on ties alone.

    `float16_adm` repeats ADM's half-precision distances up to about 2/n (its sums depend on the device). ADM falls back
    to float32 where a block of 10,000 overflows; here the whole call does as soon as overflow is possible, so that no
    result depends on blocks.

    Args:
        reference: Real features.
        generated: Generated features.
        k: Neighbours.
        convention: Whose rule.
        distance_dtype: Precision of the distances.
        block: Side of a tile; memory alone depends on it.
        device: Where to compute; None is where the arrays are.
        reference_radii: `squared_radii` of the reference with this k and the tile of these two sets; None: computed.
    """
    if convention not in ("adm", "torch-fidelity", "prdc"):
        raise ConfigError(f"unknown convention {convention!r}", where="convention", fix="adm, torch-fidelity or prdc")
    ref, gen, used = _prepare(reference, generated, k, block, distance_dtype, device)
    gen_radii = _radii(gen, k)
    if reference_radii is None or used != "float32":
        ref_radii = _radii(ref, k)
    else:
        ref_radii = torch.as_tensor(reference_radii, dtype=torch.float32, device=gen_radii.device)
        if ref_radii.shape != (len(ref),):
            raise DataError(f"{list(ref_radii.shape)} radii of {len(ref)} rows", where="reference_radii")
    held_generated = torch.zeros(len(gen), dtype=torch.bool, device=ref_radii.device)
    held_reference = torch.zeros(len(ref), dtype=torch.bool, device=ref_radii.device)
    inside = torch.lt if convention == "prdc" else torch.le
    for row in ref.starts():
        rows = slice(row, row + ref.tile)
        for column in gen.starts():
            columns = slice(column, column + gen.tile)
            between = ref.distances(gen, row, column)
            held_generated[columns] |= inside(between, ref_radii[rows, None]).any(dim=0)
            held_reference[rows] |= inside(between, gen_radii[None, columns]).any(dim=1)
    precision = float(held_generated.double().mean())
    recall = float(held_reference.double().mean())
    return PrecisionRecall(
        precision=precision, recall=recall, f_score=2 * precision * recall / max(1e-5, precision + recall),
        convention=convention, k=k, num_reference=len(ref), num_generated=len(gen), distance_dtype=used,
    )  # fmt: skip


def density_coverage(
    reference: Features,
    generated: Features,
    *,
    k: int = 5,
    distance_dtype: DistanceDtype = "float32",
    block: int = _BLOCK,
    device: torch.device | str | None = None,
) -> DensityCoverage:
    """Returns density and coverage, [n, d] and [m, d], as the prdc package defines them.

    density = 1 / (k m) sum over generated rows of the number of reference balls that hold it (strictly);
    coverage = share of reference balls that hold at least one generated row. Source: Naeem et al. 2020, equations 3
    and 5; prdc 0.2 `prdc.py`.
    """
    ref, gen, _ = _prepare(reference, generated, k, block, distance_dtype, device)
    radii = _radii(ref, k)
    held = torch.zeros(len(ref), dtype=torch.bool, device=radii.device)
    balls = torch.zeros(len(gen), dtype=torch.float64, device=radii.device)  # that hold each generated row
    for row in ref.starts():
        rows = slice(row, row + ref.tile)
        for column in gen.starts():
            inside = ref.distances(gen, row, column) < radii[rows, None]
            held[rows] |= inside.any(dim=1)
            balls[column : column + gen.tile] += inside.sum(dim=0)
    return DensityCoverage(
        density=float(balls.sum()) / (k * len(gen)),
        density_error=float(balls.std()) / (k * len(gen) ** 0.5),
        coverage=float(held.double().mean()),
        k=k,
        num_reference=len(ref),
        num_generated=len(gen),
    )
