"""Statistics that generated pictures are compared with, as named objects: read in every published layout and checked.

They are never mixed with what they do not fit. Written is ovbench's own format only, with all that a later use needs.
"""

from __future__ import annotations

import logging
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast, get_args

import numpy as np

from ovbench import __version__
from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_file, atomic_write_bytes
from ovbench._base.fingerprint import file_sha256
from ovbench.encoders.modeling.sources import read_state
from ovbench.harness.metrics.archives import open_zip, read_array, read_array_header
from ovbench.harness.metrics.inception import NETWORK

FORMAT = "ovbench-statistics-1"
Purpose = Literal["generation", "reconstruction"]
Layout = Literal["ovbench", "adm", "mu-sigma", "clean-fid", "torch"]
_TOLERANCE = 1e-6
_ROWS_AT_ONCE = 4096
_log = logging.getLogger(__name__)
_ASK = "make the statistics again from the pictures, or get the file again"
_CLEAN_MODES = {"clean": "pil-bicubic", "legacy_tensorflow": "tf1-bilinear", "legacy_pytorch": "torch-bilinear"}
_CLEAN_NAME = re.compile(r"_(clean|legacy_tensorflow|legacy_pytorch)(_clip_vit_b_32)?_[^_]+_[^_]+$")  # mode, network


OTHER_PURPOSE: Mapping[str, str] = {
    "reconstruction": "rFID compares with the very pictures that were encoded, after the same crop: name their folder",
    "generation": "gFID compares with a training set, e.g. ADM's VIRTUAL_imagenet256_labeled.npz",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Gaussian:
    """Mean and covariance (ddof = 1) of one layer, in float64."""

    mu: np.ndarray  # [D]
    sigma: np.ndarray  # [D, D]

    @property
    def dim(self) -> int:
        """Width of the layer."""
        return len(self.mu)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """Named statistics. What a file does not say is None, and is reported as unknown."""

    name: str
    layout: Layout = "ovbench"
    pool: Gaussian
    spatial: Gaussian | None = None  # of sFID
    n: int | None = None  # pictures behind mu and sigma
    purpose: Purpose | None = None  # generation: of a training set; reconstruction: of the pictures that were encoded
    network: str | None = None
    extractor: str | None = None
    weights_sha256: str | None = None
    resize: str | None = None  # key of RESIZES
    quantise: str | None = None  # how floating-point pictures became 8 bits: truncate, round; stored: they were 8 bits
    crop: str | None = None
    split: str | None = None
    source_sha256: str | None = None  # of the pictures
    tool_version: str | None = None
    file_sha256: str | None = None
    pictures: int = 0  # that the file itself holds (ADM's 10,000, for precision and recall); never what mu is of
    features: np.ndarray | None = field(default=None, repr=False)  # [N, D] float32, memory-mapped
    radii_k3: np.ndarray | None = field(default=None, repr=False)  # [N] float32, squared, ADM's; of those features
    radii_tile: int = 0  # side of the tiles that gave those radii; 0: not known (manifold.tile_size)
    notes: tuple[str, ...] = ()  # what was found wrong with the pictures: duplicates, pictures that were left out
    size_px: tuple[int, int] | None = None  # (height, width) of the pictures
    num_distinct: int | None = None  # of the pictures
    left_out: tuple[str, ...] = ()  # pictures that could not be used

    def __post_init__(self) -> None:
        # Contract: what costs little only, since `dataclasses.replace` comes here; `check_statistics` does the rest.
        for where, found in _layers(self):
            _check_shapes(found, where)
        if self.n is not None and self.n < 2:
            raise DataError(f"statistics of {self.n} pictures have no covariance", where=self.name, fix="use 2 or more")

    @property
    def describe(self) -> dict[str, Any]:
        """All but the numbers, for a record."""
        names = (
            "name", "layout", "n", "purpose", "network", "extractor", "weights_sha256", "resize", "quantise", "crop",
            "split", "source_sha256", "tool_version", "file_sha256",
        )  # fmt: skip
        return {name: "unknown" if getattr(self, name) is None else getattr(self, name) for name in names}


def _layers(reference: Reference) -> list[tuple[str, Gaussian]]:
    """Returns (where they are, statistics) of each layer that is there."""
    layers = (("mu, sigma", reference.pool), ("mu_s, sigma_s", reference.spatial))
    return [(f"{reference.name}: {arrays}", found) for arrays, found in layers if found is not None]


def check_statistics(reference: Reference) -> None:
    """Refuses a reference whose statistics are no mean and covariance; once, where they are read, made or written.

    Raises:
        DataError: As `check_gaussian`.
    """
    for where, found in _layers(reference):
        check_gaussian(found, where=where)


def _check_shapes(found: Gaussian, where: str) -> None:
    mu, sigma = found.mu, found.sigma
    if mu.ndim != 1 or not len(mu) or sigma.shape != (len(mu), len(mu)):
        raise DataError(
            f"mu {list(mu.shape)} and sigma {list(sigma.shape)} are no mean and covariance", where=where, fix=_ASK
        )


def check_gaussian(found: Gaussian, *, where: str) -> None:
    """Refuses statistics that are no mean and covariance.

    Raises:
        DataError: Wrong shapes, NaN, an asymmetric matrix, no variance, or an eigenvalue below -1e-6 of the trace.
    """
    _check_shapes(found, where)
    mu, sigma = found.mu, found.sigma
    if not (np.isfinite(mu).all() and np.isfinite(sigma).all()):
        raise DataError("the statistics hold NaN or infinite values", where=where, fix=_ASK)
    largest = float(np.abs(sigma).max())
    if (skew := float(np.abs(sigma - sigma.T).max())) > _TOLERANCE * largest:
        raise DataError(
            f"the covariance is not symmetric: two sides differ by {skew:.3g} at a largest value of {largest:.3g}",
            where=where,
            fix=_ASK,
        )
    trace = float(np.trace(sigma))
    if not trace > 0:
        raise DataError(f"the covariance has no variance (trace {trace:.3g})", where=where, fix=_ASK)
    try:
        # All eigenvalues lie above -t exactly when S + t I has a Cholesky factor, which costs a tenth of them.
        np.linalg.cholesky(sigma + _TOLERANCE * trace * np.eye(len(mu)))
    except np.linalg.LinAlgError:
        smallest = float(np.linalg.eigvalsh(sigma)[0])
        raise DataError(
            f"the covariance has a negative eigenvalue, {smallest:.3g} at a trace of {trace:.3g}", where=where, fix=_ASK
        ) from None


def read_reference(path: str | Path, *, name: str | None = None, purpose: Purpose | None = None) -> Reference:
    """Reads statistics of ADM, pytorch-fid, clean-fid, torch-fidelity (as plain tensors) or ovbench.

    Args:
        path: An `.npz`, or a `.pt` with tensors `mu` and `sigma`.
        name: How it is called in records; None: the file's name, or the one it was written with.
        purpose: What it is a reference for, where the file does not say.

    Raises:
        DataError: The file is absent, truncated, holds code, or its statistics are none.
        ConfigError: It is of a kind that is not opened, or its purpose is another than was stated.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() in (".pkl", ".pickle"):
        raise ConfigError(
            f"'{path.name}' is a pickle, which can run code, and is not opened",
            where=str(path),
            fix="store mu and sigma as .npz: numpy.savez(path, mu=mu, sigma=sigma)",
        )
    if not path.is_file():
        raise DataError(f"no such file '{path.name}'", where=str(path.parent), fix="name a statistics file (.npz)")
    match path.suffix.lower():
        case ".npz":
            with open_zip(path) as archive:
                found = _from_npz(archive, path, name)
        case ".pt" | ".pth":
            state = read_state(path)
            if not {"mu", "sigma"} <= set(state):
                raise _no_statistics(path, state)
            pool = Gaussian(mu=state["mu"].double().numpy(), sigma=state["sigma"].double().numpy())
            found = {"name": name or path.stem, "layout": "torch", "pool": pool}
        case suffix:
            raise ConfigError(
                f"'{path.name}' is no statistics file (its name ends in '{suffix}')", where=str(path), fix="use .npz"
            )
    stated = found.get("purpose")
    if purpose is not None and stated is not None and purpose != stated:
        raise ConfigError(
            f"'{path.name}' is a reference for {stated}, not for {purpose}", where=str(path), fix=OTHER_PURPOSE[purpose]
        )
    reference = Reference(**{**found, "purpose": stated or purpose, "file_sha256": file_sha256(path)})
    check_statistics(reference)
    return reference


def _no_statistics(path: Path, names: Any) -> DataError:
    return DataError(
        f"'{path.name}' holds no statistics: mu and sigma are missing (it has: {', '.join(sorted(names)[:8])})",
        where=str(path),
        fix="name a file with mu and sigma, or the pictures themselves",
    )


def _gaussian(archive: zipfile.ZipFile, mu: str, sigma: str) -> Gaussian:
    arrays: list[np.ndarray] = []
    for name in (mu, sigma):
        header = read_array_header(archive, name)
        if header.dtype.kind not in "fiu":
            raise DataError(
                f"'{name}' is of type {header.dtype}, not of real numbers",
                where=f"{archive.filename}: {name}",
                fix=_ASK,
            )
        arrays.append(read_array(archive, name).astype(np.float64))
    return Gaussian(mu=arrays[0], sigma=arrays[1])


def _from_npz(archive: zipfile.ZipFile, path: Path, name: str | None) -> dict[str, Any]:
    names = {member.removesuffix(".npy") for member in archive.namelist()}
    if not {"mu", "sigma"} <= names:
        raise _no_statistics(path, names)
    fields: dict[str, Any] = {"name": name or path.stem, "pool": _gaussian(archive, "mu", "sigma")}
    if {"mu_s", "sigma_s"} <= names:
        fields["spatial"] = _gaussian(archive, "mu_s", "sigma_s")
    if "arr_0" in names:
        fields["pictures"] = read_array_header(archive, "arr_0").shape[0]
    if "format" in names:
        return {**fields, **_own_fields(archive, names, path, name)}
    if "spatial" in fields:
        # ADM: statistics of the whole training set, whose size the file does not say; its pictures are a part of it.
        known = {"layout": "adm", "purpose": "generation", "network": NETWORK, "resize": "tf1-bilinear"}
        return {**fields, **known}
    if found := _CLEAN_NAME.search(path.stem):
        mode, inner = found[1], found[2]
        network = NETWORK if fields["pool"].dim == 2048 and not inner else None
        return {**fields, "layout": "clean-fid", "network": network, "resize": _CLEAN_MODES[mode]}
    return {**fields, "layout": "mu-sigma"}  # pytorch-fid, or copied from ADM's: the file does not say


_TEXTS = (
    "purpose", "network", "extractor", "weights_sha256", "resize", "quantise", "crop", "split", "source_sha256",
    "tool_version",
)  # fmt: skip


def _own_fields(archive: zipfile.ZipFile, names: set[str], path: Path, name: str | None) -> dict[str, Any]:
    def text(key: str) -> str:
        return str(read_array(archive, key)) if key in names else ""

    def whole(key: str, count: int = 1) -> tuple[int, ...] | None:
        if key not in names:
            return None
        found = np.atleast_1d(read_array(archive, key))
        if found.dtype.kind not in "iu" or found.shape != (count,):
            what = "one whole number" if count == 1 else f"{count} whole numbers"
            raise DataError(f"'{key}' is not {what}", where=str(path), fix=_ASK)
        return tuple(int(value) for value in found)

    if (version := text("format")) != FORMAT:
        raise DataError(
            f"'{path.name}' has the format '{version}', and this version of ovbench reads '{FORMAT}'",
            where=str(path),
            fix="update ovbench, or make the statistics again",
        )
    fields: dict[str, Any] = {key: text(key) or None for key in _TEXTS}
    if fields["purpose"] not in (None, *get_args(Purpose)):
        raise DataError(f"unknown purpose '{fields['purpose']}'", where=str(path), fix=_ASK)
    (count,) = whole("n") or (0,)
    fields |= {"layout": "ovbench", "n": count or None, "name": name or text("name") or path.stem}
    if notes := text("notes"):
        fields["notes"] = tuple(notes.splitlines())
    if left_out := text("left_out"):
        fields["left_out"] = tuple(left_out.splitlines())
    fields["size_px"] = whole("size_px", 2)
    (fields["num_distinct"],) = whole("num_distinct") or (None,)
    if "radii_k3" in names:
        (fields["radii_tile"],) = whole("radii_tile") or (0,)
        fields["radii_k3"] = radii = read_array(archive, "radii_k3")
        if radii.shape != (count,) or not np.isfinite(radii).all():
            raise DataError(f"the radii {list(radii.shape)} are not of {count} pictures", where=str(path), fix=_ASK)
    if digest := text("features_sha256"):
        fields["features"] = _read_features(path, digest, count)
    return fields


def is_own_reference(path: Path) -> bool:
    """Returns whether a file is a reference that `write_reference` wrote."""
    if not path.is_file() or path.suffix != ".npz":
        return False
    try:
        with open_zip(path) as archive:
            return "format.npy" in archive.namelist() and str(read_array(archive, "format")) == FORMAT
    except DataError:
        return False


def features_path(path: Path) -> Path:
    """Returns where the features beside a statistics file are."""
    return path.with_suffix(".features.npy")


def _read_features(path: Path, digest: str, count: int) -> np.ndarray | None:
    beside = features_path(path)
    if not beside.is_file():
        _log.warning("the features beside '%s' are missing; KID, precision and recall need the pictures", path.name)
        return None
    if file_sha256(beside) != digest:
        raise DataError(
            f"'{beside.name}' does not belong to '{path.name}': its digest differs",
            where=str(beside),
            fix="remove it, or make the statistics again",
        )
    features = np.load(beside, mmap_mode="r", allow_pickle=False)
    if len(features) != count:
        raise DataError(f"{len(features)} features of {count} pictures", where=str(beside), fix=_ASK)
    return features


def write_reference(path: Path, reference: Reference) -> None:
    """Writes ovbench's own file, and the features beside it where there are some; both appear whole or not at all.

    Raises:
        ConfigError: The name does not end in .npz, the folder cannot be written to, or provenance is missing that a
            later comparison needs.
        DataError: The statistics are no mean and covariance.
    """
    if path.suffix != ".npz":
        raise ConfigError(f"statistics are written as .npz, got '{path.name}'", where=str(path), fix="name it ….npz")
    needed = ("n", "purpose", "network", "extractor", "weights_sha256", "resize", "source_sha256")
    if missing := [name for name in needed if getattr(reference, name) is None]:
        raise ConfigError(
            f"the statistics do not say: {', '.join(missing)}",
            where=reference.name,
            fix="statistics without their provenance cannot be compared with anything",
        )
    check_statistics(reference)
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "name": reference.name,
        "n": np.int64(reference.n or 0),
        "mu": reference.pool.mu.astype(np.float64),
        "sigma": reference.pool.sigma.astype(np.float64),
        **{key: getattr(reference, key) or "" for key in _TEXTS},
    }
    arrays["tool_version"] = __version__
    if reference.spatial is not None:
        arrays |= {"mu_s": reference.spatial.mu, "sigma_s": reference.spatial.sigma}
    if reference.radii_k3 is not None:
        arrays |= {"radii_k3": reference.radii_k3.astype(np.float32), "radii_tile": np.int64(reference.radii_tile)}
    for key in ("notes", "left_out"):
        if lines := getattr(reference, key):
            arrays[key] = "\n".join(" ".join(line.splitlines()) for line in lines)
    for key in ("size_px", "num_distinct"):
        if (value := getattr(reference, key)) is not None:
            arrays[key] = np.array(value, dtype=np.int64)
    if reference.features is None:
        atomic_write_bytes(path, _packed(arrays))
        return
    beside = features_path(path)
    new, old = (beside.with_name(f".{beside.name}.{word}.tmp") for word in ("new", "old"))
    try:
        with atomic_file(new) as temporary:
            arrays["features_sha256"] = _write_features(temporary, reference.features)
        old.unlink(missing_ok=True)  # left by a killed process
        try:
            # Contract: both files are written before either is replaced; the end of this block replaces the statistics.
            with atomic_file(path) as temporary:
                temporary.write_bytes(_packed(arrays))
                if beside.exists():
                    os.replace(beside, old)
                os.replace(new, beside)
        except BaseException:
            if old.exists():
                os.replace(old, beside)
            elif not new.exists():  # it is in place already, and there was none before
                beside.unlink(missing_ok=True)
            raise
        old.unlink(missing_ok=True)
    finally:
        new.unlink(missing_ok=True)


def _packed(arrays: Mapping[str, Any]) -> bytes:
    stream = BytesIO()
    np.savez(stream, **cast(dict[str, Any], {key: np.asarray(value) for key, value in arrays.items()}))
    return stream.getvalue()


def _write_features(path: Path, features: np.ndarray) -> str:
    """Writes features as float32 in pieces, so that they are never in memory twice; returns the file's sha256."""
    with path.open("wb") as stream:
        header = {"descr": "<f4", "fortran_order": False, "shape": features.shape}
        np.lib.format.write_array_header_1_0(stream, header)
        for start in range(0, len(features), _ROWS_AT_ONCE):
            stream.write(np.ascontiguousarray(features[start : start + _ROWS_AT_ONCE], dtype="<f4").tobytes())
    return file_sha256(path)
