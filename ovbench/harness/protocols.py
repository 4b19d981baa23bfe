"""Protocols by name: complete, frozen recipes under which numbers are comparable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import lookup
from ovbench.tasks.fields import Fields
from ovbench.tasks.load import load_suite, read_yaml

_FOLDER = Path(__file__).resolve().parent.parent / "protocols"
_KEYS = {"name", "version", "title", "description", "variants"}
_SUITES = "suites"  # of a file of the user's own: suite → tasks
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
    origin: str = ""  # name in the catalogue, or the path of a file: what --protocol took

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

    def tasks_of(self, suite: str) -> tuple[str, ...]:
        """Returns the names of a suite's tasks.

        Raises:
            ConfigError: The protocol names none for it.
        """
        named = self.content.get(_SUITES, {})
        if suite in named:
            return Fields(named, named, self.origin).texts(suite)
        if self.is_own:
            raise ConfigError(
                f"the protocol '{self.name}' names no tasks for the suite '{suite}'",
                where=self.origin,
                fix=f"add them, e.g. suites: {{{suite}: [pope]}}, or name them: --tasks",
            )
        return load_suite(suite, self.name)

    @property
    def is_own(self) -> bool:
        """Whether it is a file of the user's own."""
        return self.origin != self.name

    def content_of(self, suite: str) -> dict[str, Any]:
        """Returns what a record of a suite keeps: the head of the file and the section that was used."""
        name = SECTIONS[suite]
        return {key: self.content[key] for key in (*sorted(_KEYS), name)}


def protocol_names() -> tuple[str, ...]:
    """Returns the names of all protocols."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def load_protocol(name: str) -> Protocol:
    """Returns a protocol.

    Args:
        name: A name of the catalogue, or the path of a YAML file (`./my-recipe.yaml`).

    Raises:
        ConfigError: An unknown name (with a suggestion), or a file with unknown or missing keys.
        DataError: The file cannot be read.
    """
    files = {path.stem: path for path in _FOLDER.glob("*.yaml")}
    own = name.endswith((".yaml", ".yml")) or "/" in name
    if own:
        path = Path(name).expanduser().absolute()
    else:
        path = lookup(files, name, kind="protocol", where="--protocol", listing="ovbench protocols")
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise ConfigError("a protocol is a mapping", where=str(path), fix="begin with name: …")
    sections = set(SECTIONS.values()) & set(content)
    known = _KEYS | ({_SUITES} & set(content) if own else set())
    if set(content) - sections != known or not sections:
        wrong = ", ".join(sorted(map(str, (set(content) - sections) ^ known))) or "no section"
        raise ConfigError(
            f"the protocol '{name}' has missing or unknown keys: {wrong}",
            where=str(path),
            fix=f"it has {', '.join(sorted(_KEYS))}, and one or more of: {', '.join(sorted(set(SECTIONS.values())))}",
        )
    if _SUITES in content:
        _check_suites(content[_SUITES], path)
    fields = Fields(content, content, path.name)
    named = fields.text("name")
    if own and named in files:
        raise ConfigError(
            f"the name '{named}' belongs to a protocol of the catalogue",
            where=f"{path}, name",
            fix="give yours another name: results are told apart by it",
        )
    return Protocol(
        name=named,
        version=fields.integer("version", least=1),
        title=fields.text("title"),
        description=fields.text("description"),
        variants=fields.text("variants"),
        content=content,
        origin=str(path) if own else named,
    )


def _check_suites(named: Any, path: Path) -> None:
    if not isinstance(named, dict):
        raise ConfigError(
            "suites are a mapping of suites to tasks",
            where=f"{path}, {_SUITES}",
            fix="write them so: suites: {understanding: [pope]}",
        )
    for suite in named:
        lookup(SECTIONS, str(suite), kind="suite", where=f"{path}, {_SUITES}")
