"""Protocols by name: complete, frozen recipes under which numbers are comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup

_FOLDER = Path(__file__).resolve().parent.parent / "protocols"
_KEYS = {"name", "version", "title", "description", "variants"}
SECTIONS = {"understanding": "understanding", "reconstruction": "generation", "generation": "generation"}  # of suites


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A recipe with its version; any change of a section raises the version, a section more does not."""

    name: str
    version: int
    title: str
    description: str
    variants: str  # the protocol whose default variants a bare family name means
    content: Mapping[str, Any]  # the whole file

    @property
    def label(self) -> str:
        """Name and version as tables print them, e.g. `mini v1`."""
        return f"{self.name} v{self.version}"

    @property
    def suites(self) -> tuple[str, ...]:
        """Suites that it has a section for."""
        return tuple(suite for suite, section in SECTIONS.items() if section in self.content)

    def section(self, suite: str) -> Mapping[str, Any]:
        """Returns the settings of a suite.

        Raises:
            ConfigError: The protocol has none for it.
        """
        name = SECTIONS[suite]
        if name not in self.content:
            raise ConfigError(
                f"the protocol '{self.name}' has no section '{name}', which the suite '{suite}' needs",
                where="--protocol",
                fix=f"use it with: {', '.join(self.suites)}",
            )
        return self.content[name]

    def content_of(self, suite: str) -> dict[str, Any]:
        """Returns what a record of a suite keeps: the head of the file and the section that was used."""
        name = SECTIONS[suite]
        return {key: self.content[key] for key in (*sorted(_KEYS), name)}


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
    sections = set(SECTIONS.values()) & set(content)
    if set(content) - sections != _KEYS or not sections:
        wrong = ", ".join(sorted((set(content) - sections) ^ _KEYS)) or "no section"
        raise ConfigError(f"the protocol '{name}' has missing or unknown keys: {wrong}", where=str(path))
    return Protocol(
        name=content["name"],
        version=int(content["version"]),
        title=content["title"],
        description=content["description"],
        variants=content["variants"],
        content=content,
    )
