"""The manifest of a data pack: what is in the folder, where it came from, and how it can be checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_json, write_json

MANIFEST = "manifest.json"
_FORMAT = "ovbench-data"
_VERSION = 1


@dataclass(kw_only=True)
class Manifest:
    """Everything that `manifest.json` says."""

    folder: Path
    made: str = ""  # UTC date and time, ISO 8601
    ovbench: str = ""  # version that wrote it
    sources: dict[str, dict[str, str]] = field(default_factory=dict)  # folder → repo, revision, kind
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)  # name → version, folder, rows, groups, images
    files: dict[str, dict[str, Any]] = field(default_factory=dict)  # path in the folder → sha256, bytes

    def save(self) -> None:
        """Writes it, whole or not at all.

        Raises:
            ConfigError: It cannot be written.
        """
        content = {
            "format": _FORMAT, "version": _VERSION, "made": self.made, "ovbench": self.ovbench, "sources": self.sources,
            "tasks": self.tasks, "files": self.files,
        }  # fmt: skip
        write_json(self.folder / MANIFEST, content)

    def check_sizes(self, paths: Sequence[Path]) -> None:
        """Compares sizes, which costs nothing; `ovbench data verify` compares contents.

        Raises:
            DataError: A file is not in the manifest, or has another size.
        """
        for path in paths:
            name = path.relative_to(self.folder).as_posix()
            wanted = self.files.get(name, {}).get("bytes")
            if wanted != path.stat().st_size:
                raise DataError(
                    f"'{name}' has {path.stat().st_size} bytes, "
                    + ("and is not in the manifest" if wanted is None else f"the manifest says {wanted}"),
                    where=str(self.folder),
                    fix=f"see what else is wrong: ovbench data verify {self.folder}",
                )


def manifest_of(folder: Path) -> Manifest | None:
    """Returns the manifest of a pack, or None of a plain folder.

    Raises:
        DataError: It is damaged, or of a newer ovbench.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, Mapping) or content.get("format") != _FORMAT:
        return None  # a manifest of something else
    try:
        if content["version"] > _VERSION:
            raise DataError(
                f"the pack is of version {content['version']}, this ovbench reads up to {_VERSION}",
                where=str(path),
                fix="update ovbench, or make the pack with this version",
            )
        return Manifest(
            folder=folder,
            made=str(content["made"]),
            ovbench=str(content["ovbench"]),
            sources={name: {key: str(entry[key]) for key in _SOURCE} for name, entry in content["sources"].items()},
            tasks={name: {key: entry[key] for key in _TASK} for name, entry in content["tasks"].items()},
            files={name: {key: entry[key] for key in _FILE} for name, entry in content["files"].items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the manifest is damaged: {type(error).__name__}: {error}", where=str(path), fix="make the pack again"
        ) from error


_SOURCE = ("repo", "revision", "kind")
_TASK = ("version", "folder", "rows", "groups", "images", "digest")
_FILE = ("sha256", "bytes")
