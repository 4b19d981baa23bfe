"""Protocols by name: complete, frozen recipes under which numbers are comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup

_FOLDER = Path(__file__).resolve().parent.parent / "protocols"
_KEYS = {"name", "version", "title", "description", "variants", "understanding"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A recipe with its version; any change of content raises the version."""

    name: str
    version: int
    title: str
    description: str
    variants: str  # the protocol whose default variants a bare family name means
    content: Mapping[str, Any]  # the whole file, as it goes into records

    @property
    def label(self) -> str:
        """Name and version as tables print them, e.g. `mini v1`."""
        return f"{self.name} v{self.version}"


def protocol_names() -> tuple[str, ...]:
    """Returns the names of all protocols."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_protocol(name: str) -> Protocol:
    """Returns a protocol.

    Raises:
        ConfigError: An unknown name (with a suggestion), or a file with unknown or missing keys.
    """
    import yaml

    files = {path.stem: path for path in _FOLDER.glob("*.yaml")}
    path = lookup(files, name, kind="protocol", where="--protocol", listing="ovbench protocols")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    if set(content) != _KEYS:
        wrong = ", ".join(sorted(set(content) ^ _KEYS))
        raise ConfigError(f"the protocol '{name}' has missing or unknown keys: {wrong}", where=str(path))
    return Protocol(
        name=content["name"],
        version=int(content["version"]),
        title=content["title"],
        description=content["description"],
        variants=content["variants"],
        content=content,
    )
