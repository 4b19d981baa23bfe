"""Where weights are, and how files of others are read: local folders in the published layout, hub ids with a commit."""

from __future__ import annotations

import json
import logging
import pickle
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench._base.paths import asset
from ovbench._base.seeding import derive
from ovbench.encoders.base import COMMIT, LoadRequest
from ovbench.encoders.modeling.weights_file import FETCH_AGAIN, read_tensors, refuse_text

log = logging.getLogger(__name__)
M = TypeVar("M", bound=torch.nn.Module)
TRANSFORMERS_WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
_CONFIGS = ("config.json", "open_clip_config.json", "preprocessor_config.json", "processor_config.json")
OPEN_CLIP_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
_SHARD = re.compile(r"-\d{5}-of-(\d{5})\.")
_POINTER = b"version https://git-lfs"


_may_fetch: ContextVar[bool] = ContextVar("may_fetch", default=True)


@contextmanager
def nothing_fetched() -> Iterator[None]:
    """Within it, weights that are not on the disk are refused instead of fetched."""
    token = _may_fetch.set(False)
    try:
        yield
    finally:
        _may_fetch.reset(token)


def locate(request: LoadRequest, *, weights: Sequence[str] = TRANSFORMERS_WEIGHTS) -> Path:
    """Returns the file or folder of a request's weights, from the disk if it is there, else from the hub.

    Args:
        request: What is asked for.
        weights: Names of weights files on the hub, the preferred first; only the first that exists is fetched.

    Raises:
        ConfigError: The variant's weights are on the hub and no commit of them is known, or none were named.
        DataError: There is no such file or folder, or it cannot be fetched.
    """
    if request.source is not None:
        if request.revision is not None:
            return hub_folder(request.source, request.revision, spec=f"{request.name}:", weights=weights)
        path = Path(request.source)
        if not path.exists():
            raise DataError(
                f"no such file or folder '{path.name}'", where=str(path.parent), fix=f"check --encoder {request.name}:…"
            )
        return path
    variant = request.variant
    if variant.origin == "hub":
        return hub_folder(variant.weights, variant.revision, spec=f"{request.name}:", weights=weights)
    if variant.origin == "embedded":
        return asset(variant.weights)
    raise ConfigError(
        f"the encoder '{request.name}' needs weights",
        where="--encoder",
        fix=f"name a folder or a hub id with its commit: {request.family}:/path or {request.family}:owner/name@COMMIT",
    )


def hub_folder(hub_id: str, revision: str, *, spec: str, weights: Sequence[str] = TRANSFORMERS_WEIGHTS) -> Path:
    """Returns the local snapshot of a hub repository (or of a folder in it), fetching it where it is not there.

    Args:
        hub_id: `owner/repository`, or `owner/repository/folder`.
        revision: Commit, 40 hex digits: a branch or a tag can move.
        spec: Beginning of the spec that a source can follow, for messages: `ovis1/base-16-224:`.
        weights: Names of weights files, the preferred first; only the first that exists is fetched.

    Raises:
        ConfigError: There is no commit, or the id is none.
        DataError: It is not on the disk and cannot be fetched.
    """
    where, instead = (
        f"--encoder {spec}…",
        f"put the repository's files into a folder and name it: --encoder {spec}/path",
    )
    parts = hub_id.strip("/").split("/")
    if len(parts) < 2 or {"", ".", ".."} & set(parts):
        raise ConfigError(
            f"'{hub_id}' is no hub id", where=where, fix="write owner/repository or owner/repository/folder"
        )
    if not revision:
        raise ConfigError(
            f"'{hub_id}' is on the hub, and no commit of it is pinned in ovbench",
            where=where,
            fix=f"name the commit, {spec}{hub_id}@COMMIT, or a local folder, {spec}/path",
        )
    if not COMMIT.fullmatch(revision):
        raise ConfigError(
            f"'{revision}' is no commit of '{hub_id}'",
            where=where,
            fix="write the 40 hex digits of the commit: a branch, a tag or a shortened commit can change its meaning",
        )
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    owner, repository, *inside = parts
    prefix = "".join(f"{part}/" for part in inside)

    def snapshot(names: str, *, local: bool) -> Path | None:
        """Returns the folder, where it holds weights of these names."""
        patterns = (*_CONFIGS, names, f"{names}.index.json")
        folder = hub.snapshot_download(
            f"{owner}/{repository}",
            revision=revision,
            allow_patterns=[prefix + pattern for pattern in patterns],
            local_files_only=local,
        )
        place = Path(folder, *inside)
        return place if _is_complete(place, names) else None

    # Trap: asked for both kinds at once, the client takes a cache without the second kind for incomplete.
    for names in weights:
        try:
            if found := snapshot(names, local=True):
                return found
        except errors.LocalEntryNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise DataError(
                f"the hub's cache cannot be read: {_first_line(error)}", where=where, fix=instead
            ) from error
    if not _may_fetch.get():
        raise DataError(f"'{hub_id}' at {revision[:12]} is not in the hub's cache", where=where, fix=instead)
    if require("huggingface_hub.constants").HF_HUB_OFFLINE:
        raise DataError(
            f"'{hub_id}' at {revision[:12]} is not in the hub's cache, and HF_HUB_OFFLINE is set",
            where=where,
            fix=f"leave HF_HUB_OFFLINE unset once, or {instead}",
        )
    log.info("fetching %s at %s from the hub", hub_id, revision[:12])
    try:
        for names in weights:
            if found := snapshot(names, local=False):
                return found
    except Exception as error:  # the hub's client raises errors of three libraries
        _cannot_fetch(errors, error, hub_id, revision, where=where, instead=instead)
    raise DataError(
        f"'{hub_id}' at {revision[:12]} holds no weights (none of {', '.join(weights)})",
        where=where,
        fix="check that the id is of a model in the layout of this family",
    )


def _is_complete(folder: Path, names: str) -> bool:
    """Whether weights of these names, with all their shards, and a configuration are there."""
    files = [path.name for path in folder.glob(names) if path.is_file()]
    shards = [match for name in files if (match := _SHARD.search(name))]
    wanted = int(shards[0][1]) if shards else 1
    return len(shards or files) >= wanted and any((folder / name).is_file() for name in _CONFIGS)


def _cannot_fetch(errors: Any, error: Exception, hub_id: str, revision: str, *, where: str, instead: str) -> NoReturn:
    """Raises what a failure of the hub's client means for the user."""
    page = f"https://huggingface.co/{'/'.join(hub_id.split('/')[:2])}"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
    match error:
        case errors.GatedRepoError():
            what, fix = (
                "its owner asks for an agreement first",
                f"accept it at {page}, log in (hf auth login), or {instead}",
            )
        case errors.RepositoryNotFoundError():
            what, fix = "there is no such repository, or it is private", f"check {page}, or {instead}"
        case errors.RevisionNotFoundError():
            what, fix = f"it has no commit {revision}", f"take one from {page}/commits/main, or {instead}"
        case _:
            shown = cause or error
            what, fix = f"{type(shown).__name__}: {_first_line(shown)}", f"check the connection, or {instead}"
    raise DataError(f"cannot fetch '{hub_id}': {what}", where=where, fix=fix) from error


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
        _check_file(path)
        try:
            return read_tensors(path)[0]
        except DataError as error:
            raise DataError(error.what, where=error.where, fix=error.fix or FETCH_AGAIN) from error
    state = read_pickle(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping):
        raise _no_dictionary(path, f"it holds a {type(state).__name__}")
    for key, value in state.items():
        if not isinstance(value, Tensor):
            raise _no_dictionary(path, f"'{key}' is a {type(value).__name__}")
    return {str(key): value for key, value in state.items()}


def read_pickle(path: Path) -> object:
    """Returns what a file of `torch.save` holds, on the CPU: tensors, numbers, texts and containers of them.

    Raises:
        DataError: The file is missing or damaged, or holds code or objects, which are never run.
    """
    _check_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own advice on pickles is to run them
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        refuse_text(path)
        if refused := re.search(r"GLOBAL (\S+)", str(error)):
            raise DataError(
                f"'{path.name}' holds pickled code or objects ({refused[1]}), which are not loaded",
                where=str(path),
                fix="get the weights as safetensors, or save a plain dictionary of tensors (or get it again)",
            ) from error
        raise DataError(
            f"'{path.name}' is damaged, or holds pickled code or objects; nothing of it was run",
            where=str(path),
            fix="get the weights as safetensors, or save a plain dictionary of tensors with torch.save",
        ) from error
    except Exception as error:  # a damaged pickle fails in any way
        refuse_text(path)
        raise _damaged(path, error) from error


def _check_file(path: Path) -> None:
    if path.is_dir():
        raise DataError(f"'{path.name}' is a folder, not a weights file", where=str(path), fix="name a file inside it")
    if not path.is_file():
        raise DataError(f"no such file '{path.name}'", where=str(path.parent))
    with path.open("rb") as stream:
        start = stream.read(len(_POINTER))
    if not start:
        raise DataError(f"'{path.name}' is empty", where=str(path), fix=FETCH_AGAIN)
    if start == _POINTER:
        raise DataError(
            f"'{path.name}' is a pointer of Git LFS, not the weights", where=str(path), fix="run: git lfs pull"
        )


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"'{path.name}' is damaged: {_first_line(error)}", where=str(path), fix=FETCH_AGAIN)


def _no_dictionary(path: Path, found: str) -> DataError:
    return DataError(
        f"'{path.name}' is not a dictionary of tensors: {found}",
        where=str(path),
        fix="save the model's state_dict() alone, best as safetensors",
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def seeded(build: Callable[[], M], seed: int) -> M:
    """Returns what `build` makes with torch's generator at a seed of its own; the caller's generator is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, "random-encoder"))  # a GPU's generator keeps its state
        return build()
