"""Latent statistics on disk: our own safetensors and npz with their provenance, and the files that RAE released."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_write_bytes
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.modeling.sources import read_pickle
from ovbench.encoders.modeling.weights_file import read_tensors
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.generation.latent_stats import EPS, LatentStats, latent_fingerprint

_FORMAT = "ovbench-latent-stats-1"
_PICKLES = (".pt", ".pth", ".bin")
_AGAIN = "compute the statistics again"


def save_stats(path: Path, stats: LatentStats) -> None:
    """Writes statistics in float64 with their binding and provenance; the suffix chooses safetensors or npz.

    Raises:
        ConfigError: Another suffix.
    """
    tensors = {name: part for name, part in (("mean", stats.mean), ("var", stats.var)) if part is not None}
    tensors = {name: part.detach().cpu().double().contiguous() for name, part in tensors.items()}
    header = json.dumps(
        {
            "format": _FORMAT,
            "encoder": stats.encoder,
            "eps": stats.eps,
            "num_pictures": stats.num_pictures,
            "provenance": dict(stats.provenance),
        },
        sort_keys=True,
    )
    if path.suffix == ".safetensors":
        save_tensors(path, tensors, {"ovbench": header})
    elif path.suffix == ".npz":
        stream = io.BytesIO()
        arrays: dict[str, Any] = {name: part.numpy() for name, part in tensors.items()}
        np.savez(stream, header=np.array(header), **arrays)
        atomic_write_bytes(path, stream.getvalue())
    else:
        raise ConfigError(
            f"statistics cannot be written as '{path.suffix}'", where=str(path), fix="use .safetensors or .npz"
        )


def load_stats(path: Path, encoder: Encoder, tap: Tap | None = None) -> LatentStats:
    """Returns the statistics of a file that `save_stats` wrote, for the encoder that they are bound to.

    Raises:
        DataError: The file is missing or damaged, or is another kind of file.
        ConfigError: It is of another encoder, tap or size.
    """
    if path.suffix == ".safetensors":
        tensors, metadata = read_tensors(path)
        text = metadata.get("ovbench")
    elif path.suffix == ".npz":
        tensors, text = _read_npz(path)
    else:
        raise ConfigError(
            f"'{path.name}' is not in a format of ovbench",
            where=str(path),
            fix="use load_released_stats for RAE's own files"
            if path.suffix in _PICKLES
            else "use .safetensors or .npz",
        )
    try:
        header = json.loads(text or "")
        known = header["format"] == _FORMAT
        fields = {
            "encoder": str(header["encoder"]),
            "eps": float(header["eps"]),
            "num_pictures": int(header["num_pictures"]),
            "provenance": dict(header["provenance"]),
        }
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"'{path.name}' holds no latent statistics of ovbench", where=str(path), fix=_AGAIN) from error
    if not known or not set(tensors) <= {"mean", "var"}:
        raise DataError(f"'{path.name}' is in a format that this version cannot read", where=str(path), fix=_AGAIN)
    stats = LatentStats(mean=tensors.get("mean"), var=tensors.get("var"), **fields)
    stats.check_encoder(encoder, tap)
    return stats


def load_released_stats(path: Path, encoder: Encoder, tap: Tap | None = None, *, eps: float = EPS) -> LatentStats:
    """Returns the statistics of a file that RAE released, `stat.pt`: {"mean": [C, h, w] or None, "var": [C, h, w]}.

    Contract: a mean of None stays 0. The released diffusion transformers were trained on such latents. The file does
    not say which encoder it is of; the caller does, and only its shape can be checked.

    Args:
        path: The file; its code is never run.
        encoder: What the statistics are said to be of; they are bound to it.
        tap: Its layer and norm.
        eps: Added to the variance inside the root; the file does not hold it.

    Raises:
        DataError: The file is missing or damaged, or holds something else.
        ConfigError: The shape is not that of the encoder's latents.
    """
    document = read_pickle(path)
    fix = 'RAE\'s files hold {"mean": … or None, "var": …}'
    if not isinstance(document, Mapping) or not {"mean", "var"} & set(document) or set(document) - {"mean", "var"}:
        found = sorted(map(str, document)) if isinstance(document, Mapping) else type(document).__name__
        raise DataError(f"'{path.name}' holds no statistics of RAE, but {found}", where=str(path), fix=fix)
    parts: dict[str, Tensor | None] = {}
    for name in ("mean", "var"):
        value = document.get(name)
        if value is not None and not isinstance(value, Tensor):
            raise DataError(f"'{name}' is a {type(value).__name__}, not a tensor", where=str(path), fix=fix)
        parts[name] = value.squeeze(0) if value is not None and value.ndim == 4 and len(value) == 1 else value
    stats = LatentStats(
        mean=parts["mean"],
        var=parts["var"],
        encoder=latent_fingerprint(encoder, tap),
        eps=eps,
        provenance={"file": path.name, "kind": "released by RAE", "binding": "stated by the user"},
    )
    stats.check_encoder(encoder, tap)
    return stats


def _read_npz(path: Path) -> tuple[dict[str, Tensor], str | None]:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            held = {name: np.array(arrays[name]) for name in arrays}
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path.name}' is damaged: {error}", where=str(path), fix=_AGAIN) from error
    text = held.pop("header", None)
    if any(value.dtype.kind != "f" for value in held.values()):
        raise DataError(f"'{path.name}' holds no latent statistics of ovbench", where=str(path), fix=_AGAIN)
    return {name: torch.from_numpy(value) for name, value in held.items()}, None if text is None else str(text)
