"""Tensors of RAE's published files by their official names, without what training wrapped around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from ovbench._base.errors import DataError

_WRAPPERS = {"module", "_orig_mod"}  # of DistributedDataParallel and torch.compile


def unwrapped(document: Mapping[object, object], path: Path, *, fix: str) -> dict[str, Tensor]:
    """Returns tensors by name without the prefixes of wrappers.

    Args:
        document: Content of the file.
        path: The file, for messages.
        fix: What the user can name instead.

    Raises:
        DataError: Something is no tensor, or two tensors have the same name.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in document.items():
        if not isinstance(value, Tensor):
            raise DataError(
                f"'{path.name}' is not a dictionary of tensors: '{key}' is a {type(value).__name__}",
                where=str(path),
                fix=fix,
            )
        name = ".".join(part for part in str(key).split(".") if part not in _WRAPPERS)
        if name in tensors:
            raise DataError(f"'{path.name}' holds two tensors for '{name}'", where=str(path), fix=fix)
        tensors[name] = value
    return tensors
