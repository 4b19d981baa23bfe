"""Where weights are, and how files of others are read: local folders in the published layout, hub ids with a commit."""

from __future__ import annotations

import json
import logging
import pickle
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench._base.paths import asset
from ovbench._base.seeding import derive
from ovbench.encoders.base import LoadRequest
from ovbench.encoders.modeling.weights_file import read_tensors

log = logging.getLogger(__name__)
M = TypeVar("M", bound=torch.nn.Module)
_CONFIGS = ("*.json",)
_WEIGHTS = ("*.safetensors", "*.bin")  # the second kind is fetched only where there is none of the first


def locate(request: LoadRequest) -> Path:
    """Returns the file or folder of a request's weights, from the disk if it is there, else from the hub.

    Raises:
        ConfigError: The variant's weights are on the hub and no commit of them is known, or none were named.
        DataError: There is no such file or folder, or it cannot be fetched.
    """
    if request.source is not None:
        if request.revision is not None:
            return hub_folder(request.source, request.revision, name=request.name)
        path = Path(request.source)
        if not path.exists():
            raise DataError(
                f"no such file or folder '{path.name}'", where=str(path.parent), fix=f"check --encoder {request.name}:…"
            )
        return path
    variant = request.variant
    if variant.origin == "hub":
        return hub_folder(variant.weights, variant.revision, name=request.name)
    if variant.origin == "embedded":
        return asset(variant.weights)
    raise ConfigError(
        f"the encoder '{request.name}' needs weights",
        where="--encoder",
        fix=f"name a folder or a hub id with its commit: {request.family}:/path or {request.family}:owner/name@COMMIT",
    )


def hub_folder(hub_id: str, revision: str, *, name: str) -> Path:
    """Returns the local snapshot of a hub repository (or of a folder in it), fetching it where it is not there.

    Args:
        hub_id: `owner/repository`, or `owner/repository/folder`.
        revision: Commit.
        name: Encoder, for messages.

    Raises:
        ConfigError: There is no commit.
        DataError: It is not on the disk and cannot be fetched.
    """
    if not revision:
        raise ConfigError(
            f"the weights of '{name}' are '{hub_id}' on the hub, and no commit of it is pinned in ovbench",
            where="--encoder",
            fix=f"name the commit, {name}:{hub_id}@COMMIT, or a local folder, {name}:/path",
        )
    hub = require("huggingface_hub")
    owner, repository, *inside = hub_id.split("/")
    prefix = "".join(f"{part}/" for part in inside)

    def snapshot(patterns: Sequence[str], *, local: bool) -> Path:
        folder = hub.snapshot_download(
            f"{owner}/{repository}",
            revision=revision,
            allow_patterns=[prefix + pattern for pattern in patterns],
            local_files_only=local,
        )
        return Path(folder, *inside)

    def complete(folder: Path) -> bool:
        return any(next(folder.glob(pattern), None) is not None for pattern in _WEIGHTS)

    try:
        if complete(folder := snapshot((*_CONFIGS, *_WEIGHTS), local=True)):
            return folder
    except hub.errors.LocalEntryNotFoundError:
        pass
    instead = f"put the repository's files into a folder and name it: --encoder {name}:/path"
    if hub.constants.HF_HUB_OFFLINE:
        raise DataError(
            f"'{hub_id}' at {revision[:12]} is not in the hub's cache, and HF_HUB_OFFLINE is set",
            where=f"--encoder {name}",
            fix=f"leave HF_HUB_OFFLINE unset once, or {instead}",
        )
    log.info("fetching %s at %s from the hub", hub_id, revision[:12])
    try:
        for kind in _WEIGHTS:
            if complete(folder := snapshot((*_CONFIGS, kind), local=False)):
                return folder
    except Exception as error:  # the hub's client raises errors of three libraries
        summary = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(f"cannot fetch '{hub_id}': {summary}", where=f"--encoder {name}", fix=instead) from error
    raise DataError(f"'{hub_id}' at {revision[:12]} holds no weights", where=f"--encoder {name}", fix=instead)


def read_json_file(path: Path, *, fix: str = "") -> dict[str, Any]:
    """Returns a JSON object.

    Raises:
        DataError: The file is missing, or is no JSON object.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent), fix=fix) from None
    except (OSError, ValueError) as error:
        raise DataError(f"'{path.name}' cannot be read: {error}", where=str(path), fix=fix) from error
    if not isinstance(document, dict):
        raise DataError(f"'{path.name}' is not a JSON object", where=str(path), fix=fix)
    return document


def find_file(folder: Path, names: Sequence[str]) -> Path:
    """Returns the first of the names that is in a folder.

    Raises:
        DataError: None is there.
    """
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) if folder.is_dir() else "it is no folder"
    raise DataError(
        f"no weights: none of {', '.join(names)} is there",
        where=str(folder),
        fix=f"check the folder (it holds: {found})",
    )


def read_state(path: Path) -> dict[str, Tensor]:
    """Returns the tensors of a `.safetensors` file or of a pickled `.bin`/`.pt`, whose code is never run.

    Raises:
        DataError: The file is missing, damaged, holds code, or holds something else than named tensors.
    """
    if path.suffix == ".safetensors":
        return read_tensors(path)[0]
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"no such file '{path.name}'", where=str(path.parent)) from None
    except pickle.UnpicklingError as error:
        raise DataError(
            f"'{path.name}' holds pickled objects beside tensors, or is damaged; it is not run",
            where=str(path),
            fix="get the weights as safetensors, or save a plain dictionary of tensors",
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"'{path.name}' is damaged: {_first_line(error)}", where=str(path)) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise DataError(f"'{path.name}' is not a dictionary of tensors", where=str(path))
    return {str(key): value for key, value in state.items()}


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def check_finite(module: torch.nn.Module, *, where: str) -> None:
    """Refuses a network with NaN or infinite weights.

    Raises:
        DataError: Some are; they are named.
    """
    broken = [
        name for name, value in module.state_dict().items() if value.is_floating_point() and not value.isfinite().all()
    ]
    if broken:
        raise DataError(f"the weights hold NaN or infinite values: {', '.join(broken[:5])}", where=where)


def seeded(build: Callable[[], M], seed: int) -> M:
    """Returns what `build` makes with torch's generator at a seed of its own; the caller's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive(seed, "random-encoder"))
        return build()
