"""`ovbench data pack`: the tables of tasks in one folder with a manifest."""

from __future__ import annotations

import errno
import hashlib
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ovbench import __version__
from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import atomic_file, folder_lock, make_dir
from ovbench._base.fingerprint import file_sha256
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.load import load_task, task_names
from ovbench.tasks.tables.contents import content_of, size_text
from ovbench.tasks.tables.layouts import expected
from ovbench.tasks.tables.load import data_files, read_located
from ovbench.tasks.tables.manifest import Manifest, manifest_of
from ovbench.tasks.tables.places import Located, in_folder, locate

Row = dict[str, Any]
_BLOCK_BYTES = 1 << 20


def published_tasks(names: Sequence[str]) -> list[TaskSpec]:
    """Returns tasks whose data can be packed.

    Raises:
        ConfigError: A name is unknown, or the task's data are made or lie in the user's own file.
    """
    specs = [load_task(name) for name in names]
    for spec in specs:
        if spec.source["type"] != "tables":
            packed = ", ".join(name for name in task_names() if load_task(name).source["type"] == "tables")
            raise ConfigError(
                f"the task '{spec.name}' has no published data to pack", where="--tasks", fix=f"those that do: {packed}"
            )
    if not specs:
        raise ConfigError("no task is named", where="--tasks", fix="e.g. --tasks pope,seedbench")
    return specs


def pack(names: Sequence[str], target: Path, *, source: Path | None = None) -> list[Row]:
    """Copies the data of tasks into one folder with a manifest; the same command again goes on where it was stopped.

    Args:
        names: Tasks of the catalogue.
        target: The folder. Tasks that are in it already stay.
        source: A data folder to copy from; None: the data folder that is set, the hub's cache, or the hub.

    Returns:
        One row per task: what was packed, and from where.

    Raises:
        ConfigError: The folder cannot be written, or too little space is left.
        DataError: Data are nowhere, damaged, or of another revision than what is in the folder.
    """
    specs = published_tasks(names)
    if source is not None and source.resolve() == target.resolve():
        raise ConfigError("the data would be copied onto themselves", where="--from, --to", fix="name two folders")
    found = [(spec, _origin(spec, source)) for spec in specs]
    contents = [(spec, located, data_files(located, read_located(spec, located))) for spec, located in found]
    with folder_lock(target, purpose="ovbench data pack"):
        manifest = manifest_of(target) or Manifest(folder=target)
        _check_mixture(manifest, found)
        _check_space(contents, target)
        for spec, located, files in contents:
            for path in files:
                name = f"{spec.source['folder']}/{path.relative_to(located.root).as_posix()}"
                manifest.files[name] = _copy(path, target / name)
            manifest.sources[spec.source["folder"]] = {
                "repo": located.repo, "revision": located.revision, "kind": located.kind
            }  # fmt: skip
        rows = []
        manifest.made = datetime.now(UTC).isoformat(timespec="seconds")
        manifest.ovbench = __version__
        manifest.save()  # the files; what the tasks hold is read from them, so that a pack is known to load
        for spec, located, _ in contents:
            content = manifest.tasks[spec.name] = content_of(spec, target)
            rows.append({"task": spec.name, "rows": content["rows"], "images": content["images"], "from": located.name})
        manifest.save()
    return rows


def _origin(spec: TaskSpec, source: Path | None) -> Located:
    if source is None:
        return locate(spec)
    located = in_folder(spec, source)
    if located is None:
        raise DataError(
            f"the data of the task '{spec.name}' are not in the folder",
            where=f"looked at: {source / spec.source['folder']}",
            fix=f"it would have to hold {expected(spec.source)}",
        )
    return located


def _check_mixture(manifest: Manifest, found: Sequence[tuple[TaskSpec, Located]]) -> None:
    for spec, located in found:
        there = manifest.sources.get(spec.source["folder"])
        if there is not None and there["revision"] != located.revision:
            raise DataError(
                f"the pack holds revision {there['revision'] or 'unknown'} of '{spec.source['folder']}', the new data "
                f"are of revision {located.revision or 'unknown'}",
                where=str(manifest.folder),
                fix="choose another folder with --to, or remove this one first",
            )


def _check_space(contents: Sequence[tuple[TaskSpec, Located, list[Path]]], target: Path) -> None:
    """Refuses before the first byte is written where the disk cannot hold everything."""
    needed = sum(
        path.stat().st_size
        for path, aim in {
            (path, target / spec.source["folder"] / path.relative_to(located.root))
            for spec, located, files in contents
            for path in files
        }
        if not aim.is_file()
    )
    free = shutil.disk_usage(make_dir(target)).free
    if needed > free:
        raise ConfigError(
            f"the data need {size_text(needed)}, and {size_text(free)} are free",
            where=str(target),
            fix="free some space, choose another folder with --to, or pack fewer tasks",
        )


def _copy(path: Path, target: Path) -> dict[str, Any]:
    """Copies a file unless it is there already, and returns its digest and size.

    Raises:
        ConfigError: It cannot be written, for instance on a full disk; files that are whole stay.
    """
    size = path.stat().st_size
    if target.is_file() and target.stat().st_size == size:
        digest = file_sha256(path)
        if file_sha256(target) == digest:
            return {"sha256": digest, "bytes": size}
    try:
        with atomic_file(target) as temporary:
            digest = _copy_blocks(path, temporary)
    except ConfigError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ConfigError(
                f"no space left on the device while writing '{target.name}'",
                where=str(target.parent),
                fix="free some space, and give the same command again: files that are whole are kept",
            ) from error
        raise
    return {"sha256": digest, "bytes": size}


def _copy_blocks(path: Path, target: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream, target.open("wb") as out:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
            out.write(block)
    return digest.hexdigest()
