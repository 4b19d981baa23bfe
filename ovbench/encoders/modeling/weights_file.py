"""Weights in safetensors files: one reader for encoders, VAEs and training states, and what a header can say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovbench._base.errors import DataError

C = TypeVar("C")
_LOOKED_AT = 64  # bytes at the start of a file
FETCH_AGAIN = "get the file again, and compare its size with the one that its page states"


def refuse_text(path: Path) -> None:
    """Refuses a text where weights were named: a page that was saved in place of a file, a list of paths, a note.

    Raises:
        DataError: The file begins as a text does; its first words are shown.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_LOOKED_AT).decode("ascii")
    except (OSError, UnicodeDecodeError):
        return  # its reader says what is wrong
    if start and all(sign.isprintable() or sign in "\r\n\t" for sign in start):
        raise DataError(
            f"'{path.name}' is a text file, not weights: it begins with '{' '.join(start.split())[:40]}'",
            where=str(path),
            fix=FETCH_AGAIN,
        )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns the tensors of a file and its header's metadata.

    Raises:
        DataError: The file is missing, truncated or not safetensors.
    """
    try:
        with safe_open(path, framework="pt") as stream:
            return {name: stream.get_tensor(name) for name in stream.keys()}, stream.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except (SafetensorError, OSError) as error:
        refuse_text(path)
        raise DataError(f"'{path.name}' is damaged: {error}", where=str(path)) from error


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredWeights:
    """A weights file as `ovbench pretrain` writes it."""

    tensors: dict[str, Tensor]
    config: dict[str, Any]  # fields of the architecture
    recipe: str | None  # that the trunk was trained with; None where the header does not say
    vae: str | None  # digest of the VAE that the trunk was trained behind; None without one
    trunk: str | None  # of a decoder: digest of the trunk whose tokens it reads; None in a file of a trunk


def read_weights(path: Path) -> StoredWeights:
    """Reads a weights file with the architecture in its header.

    Raises:
        DataError: The file is missing or damaged, or its header holds no readable configuration.
    """
    tensors, metadata = read_tensors(path)
    if "config" not in metadata:
        raise DataError(
            f"'{path.name}' does not hold its architecture (no 'config' in the header)",
            where=str(path),
            fix="use a file written by: ovbench pretrain",
        )
    try:
        config = json.loads(metadata["config"])
    except json.JSONDecodeError as error:
        raise DataError(f"the header of '{path.name}' cannot be read: {error}", where=str(path)) from error
    if not isinstance(config, dict):
        raise DataError(f"the header of '{path.name}' holds no configuration by name", where=str(path))
    names = ("recipe", "vae", "trunk")
    return StoredWeights(tensors=tensors, config=config, **{name: metadata.get(name) for name in names})


def build_config(kind: type[C], fields: Mapping[str, Any], *, where: str) -> C:
    """Returns the configuration a header describes.

    Raises:
        DataError: The header describes another kind of network.
    """
    try:
        return kind(**fields)
    except TypeError as error:
        raise DataError(
            f"the header describes another kind of network than {kind.__name__.removesuffix('Config')}",
            where=where,
            fix="name weights that `ovbench pretrain` wrote for this family",
        ) from error


def refuse_misfit(faults: Mapping[str, Sequence[str]], *, where: str) -> None:
    """Refuses weights that are not those of the architecture.

    Args:
        faults: What is wrong → names of the entries; no names: nothing is.
        where: The file or folder, for the message.

    Raises:
        DataError: Something is wrong; the first five entries of each kind are named.
    """
    text = "; ".join(
        f"{title}: {', '.join(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"
        for title, names in faults.items()
        if names
    )
    if text:
        raise DataError(
            f"the weights do not fit the architecture ({text})",
            where=where,
            fix="check that the configuration and the weights are of the same model",
        )


def check_finite(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Refuses NaN and infinite weights.

    Raises:
        DataError: Some are; they are named.
    """
    broken = [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise DataError(
            f"the weights hold NaN or infinite values: {', '.join(broken[:5])}", where=where, fix=FETCH_AGAIN
        )
