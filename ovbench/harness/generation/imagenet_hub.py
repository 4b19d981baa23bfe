"""Data sets of the Hugging Face hub: the parquet files of one split at one commit, from the cache or fetched."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any, NoReturn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import COMMIT
from ovbench.harness.generation.labelled_source import check_parts, of_split, split_names

log = logging.getLogger(__name__)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@.*)?")
_INSTEAD = "put the parquet files into a folder and name it"


def is_hub_id(source: str | Path) -> bool:
    """Whether a source is `owner/name@…`; a path of that name comes first."""
    text = str(source)
    return isinstance(source, str) and "@" in text and bool(_HUB_ID.fullmatch(text)) and not Path(text).exists()


def fetch_split(source: str, split: str) -> tuple[Path, list[Path]]:
    """Returns the snapshot folder of a data set and the parquet files of a split in it.

    Args:
        source: `owner/name@COMMIT`.
        split: Name of the split.

    Raises:
        ConfigError: The commit is none, or there is no such split.
        DataError: The files are not on the disk and cannot be fetched, or there are none.
    """
    hub_id, _, commit = source.partition("@")
    names = split_names(split)
    if not COMMIT.fullmatch(commit):
        raise ConfigError(
            f"'{commit}' is no commit of '{hub_id}'",
            where=source,
            fix="write the 40 hex digits of the commit: a branch, a tag or a shortened commit can change its meaning",
        )
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    # Trap: `*` of the hub's client also matches `/`.
    patterns = [f"{head}{name}{tail}" for name in names for head in ("", "*/") for tail in ("-*.parquet", "/*.parquet")]

    def snapshot(*, local: bool) -> tuple[Path, list[Path]]:
        folder = Path(
            hub.snapshot_download(
                hub_id, repo_type="dataset", revision=commit, allow_patterns=patterns, local_files_only=local
            )
        )
        found = of_split([path for path in folder.rglob("*.parquet") if path.is_file()], folder, split)
        check_parts(found, fix=f"start again to fetch them, or {_INSTEAD}")
        return folder, found

    partial = ""
    try:
        folder, shards = snapshot(local=True)
        if shards:
            return folder, shards
    except errors.LocalEntryNotFoundError:
        pass
    except DataError as error:
        partial = f": {error.what}"
    except (OSError, ValueError) as error:
        raise DataError(f"the hub's cache cannot be read: {_line(error)}", where=source, fix=_INSTEAD) from error
    if require("huggingface_hub.constants").HF_HUB_OFFLINE:
        raise DataError(
            f"the split '{split}' of '{hub_id}' at {commit[:12]} is not in the hub's cache, and HF_HUB_OFFLINE is set"
            + partial,
            where=source,
            fix=f"leave HF_HUB_OFFLINE unset once, or {_INSTEAD}",
        )
    log.info("fetching the split %s of %s at %s from the hub", split, hub_id, commit[:12])
    try:
        folder, shards = snapshot(local=False)
    except DataError:
        raise
    except Exception as error:  # the hub's client raises errors of three libraries
        _cannot_fetch(errors, error, hub_id, commit, source)
    if not shards:
        raise DataError(
            f"'{hub_id}' at {commit[:12]} has no parquet files of the split '{split}'",
            where=source,
            fix=f"check the files at https://huggingface.co/datasets/{hub_id}/tree/{commit}, or {_INSTEAD}",
        )
    return folder, shards


def _cannot_fetch(errors: Any, error: Exception, hub_id: str, commit: str, source: str) -> NoReturn:
    page = f"https://huggingface.co/datasets/{hub_id}"
    match error:
        case errors.GatedRepoError():
            what, fix = "its owner asks for an agreement first", f"accept it at {page}, log in (hf auth login)"
        case errors.RepositoryNotFoundError():
            what, fix = "there is no such data set, or it is private", f"check {page}"
        case errors.RevisionNotFoundError():
            what, fix = f"it has no commit {commit}", f"take one from {page}/commits/main"
        case _:
            cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else None
            shown = cause or error
            what, fix = f"{type(shown).__name__}: {_line(shown)}", "check the connection"
    raise DataError(f"cannot fetch '{hub_id}': {what}", where=source, fix=f"{fix}, or {_INSTEAD}") from error


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
