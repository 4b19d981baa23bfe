"""Where the tables of a task are: the data folder, then the hub's cache, then the hub where it may be asked."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench._base.paths import data_dir as default_data_dir
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.tables.layouts import FoundLayout, expected, find_layout, hub_files
from ovbench.tasks.tables.manifest import manifest_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Located:
    """Tables that are on the disk."""

    kind: Literal["folder", "pack", "hub cache", "hub"]
    root: Path  # folder of the repository's files
    found: FoundLayout
    repo: str = ""  # where it is known
    revision: str = ""  # commit of the repository, where it is known

    @property
    def name(self) -> str:
        """Repository and commit, or the folder, in words."""
        at = f" at {self.revision[:12]}" if self.revision else ""
        return f"{self.repo}{at} ({self.kind})" if self.repo else str(self.root)

    def provenance(self) -> dict[str, str]:
        """Returns what a record should say about the origin of the data."""
        return {"kind": self.kind, "folder": str(self.root), "repo": self.repo, "revision": self.revision}


def locate(spec: TaskSpec, *, data_dir: Path | None = None, only_there: bool = False) -> Located:
    """Returns where a task's tables are, fetching them from the hub only where nothing is on the disk.

    Args:
        spec: A task whose source is of type `tables`.
        data_dir: A pack, or a folder of repositories, looked at before `$OVBENCH_DATA` or the mounted folder.
        only_there: Look nowhere else.

    Raises:
        ConfigError: The data folder does not exist.
        DataError: The tables are nowhere, or incomplete; the message names every place that was looked at.
    """
    looked: list[str] = []
    others = () if only_there else (default_data_dir(),)
    folders = [folder for folder in dict.fromkeys((data_dir, *others)) if folder is not None]
    for folder in folders:
        if (found := in_folder(spec, folder)) is not None:
            return found
        looked.append(f"{folder / spec.source['folder']} ({expected(spec.source)})")
    if not folders:
        looked.append("no data folder (--data, OVBENCH_DATA, ovbench data mount)")
    if only_there:
        raise _absent(spec, looked)
    for repo in spec.source["repos"]:
        if (found := _in_hub_cache(spec.source, repo, looked)) is not None:
            return found
    if spec.source["repos"]:
        if require("huggingface_hub.constants").HF_HUB_OFFLINE:
            looked.append("the hub was not asked: HF_HUB_OFFLINE is set")
        else:
            for repo in spec.source["repos"]:
                if (found := _fetch(spec.source, repo, looked)) is not None:
                    return found
    raise _absent(spec, looked)


def in_folder(spec: TaskSpec, folder: Path) -> Located | None:
    """Returns where a task's tables are in a data folder, or None.

    Raises:
        ConfigError: There is no such folder.
        DataError: The tables are incomplete, or the pack is of another revision than the task wants.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"there is no data folder '{folder}'",
            where="--data, OVBENCH_DATA or ovbench data mount",
            fix="name a folder made by `ovbench data pack`, or one with a folder per repository",
        )
    source, root = spec.source, folder / spec.source["folder"]
    found = find_layout(source, root)
    if found is None:
        return None
    located = Located(kind="folder", root=root, found=found)
    manifest = manifest_of(folder)
    entry = manifest.sources.get(source["folder"]) if manifest else None
    if manifest is None or entry is None:
        return located
    manifest.check_sizes([path for table in found.tables for path in table.files])
    if source["revision"] and entry["revision"] != source["revision"]:
        raise DataError(
            f"the pack holds revision {entry['revision'] or 'unknown'} of '{source['folder']}', the task "
            f"'{spec.name}' wants {source['revision']}",
            where=str(folder),
            fix=f"make it again: {pack_command(spec)}",
        )
    return replace(located, kind="pack", repo=entry["repo"], revision=entry["revision"])


def pack_command(spec: TaskSpec) -> str:
    """Returns the line that gets a task's data where there is a network."""
    return f"ovbench data pack --tasks {spec.name} --to DIR"


def _absent(spec: TaskSpec, looked: list[str]) -> DataError:
    if spec.source["repos"]:
        fix = (
            f"where there is a network: {pack_command(spec)}; carry DIR here, then: ovbench data mount DIR, or "
            "OVBENCH_DATA=DIR"
        )
    else:
        fix = f"put {expected(spec.source)} into DIR/{spec.source['folder']} and set OVBENCH_DATA=DIR"
    return DataError(
        f"the data of the task '{spec.name}' are not on this machine", where="looked at: " + "; ".join(looked), fix=fix
    )


def _in_hub_cache(source: Mapping[str, Any], repo: str, looked: list[str]) -> Located | None:
    """Returns the tables of a snapshot in the hub's cache, and asks no network."""
    hub = Path(require("huggingface_hub.constants").HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"
    revision = source["revision"] or _cached_revision(hub)
    root = hub / "snapshots" / revision
    try:
        found = find_layout(source, root) if revision and root.is_dir() else None
    except DataError as error:
        looked.append(f"{root} ({error.what})")
        return None
    if found is None:
        looked.append(f"the hub's cache: {root if revision else hub}")
        return None
    return Located(kind="hub cache", root=root, found=found, repo=repo, revision=revision)


def _cached_revision(hub: Path) -> str:
    """Returns the commit that the cache takes for the newest: that of `main`, or the only one."""
    reference = hub / "refs" / "main"
    if reference.is_file():
        return reference.read_text(encoding="utf-8").strip()
    snapshots = sorted(path.name for path in hub.glob("snapshots/*"))
    return snapshots[0] if len(snapshots) == 1 else ""


def _fetch(source: Mapping[str, Any], repo: str, looked: list[str]) -> Located | None:
    """Fetches the files of a task's tables into the hub's cache; what is there already is not fetched again."""
    hub, errors = require("huggingface_hub"), require("huggingface_hub.errors")
    try:
        info = hub.HfApi().dataset_info(repo, revision=source["revision"] or None)
        names = hub_files(source, [sibling.rfilename for sibling in info.siblings or []])
        if not names:
            looked.append(f"{repo} on the hub at {info.sha}: no {expected(source)}")
            return None
        log.info("fetching %d files of %s at %s from the hub", len(names), repo, info.sha)
        paths = [Path(hub.hf_hub_download(repo, name, repo_type="dataset", revision=info.sha)) for name in names]
    except DataError as error:
        looked.append(f"{repo} on the hub: {error.what}")
        return None
    except Exception as error:  # the hub's client raises errors of three libraries
        looked.append(f"{repo} on the hub: {_reason(errors, error)}")
        return None
    root = paths[0].parents[len(Path(names[0]).parts) - 1]
    found = find_layout(source, root)
    assert found is not None, "the files that were fetched are those that the layout asks for"
    return Located(kind="hub", root=root, found=found, repo=repo, revision=str(info.sha))


def _reason(errors: Any, error: Exception) -> str:
    match error:
        case errors.GatedRepoError():
            return "its owner asks for an agreement first (accept it on its page, then: hf auth login)"
        case errors.RepositoryNotFoundError():
            return "there is no such data set, or it is private"
        case errors.RevisionNotFoundError():
            return "it has no such revision"
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
