"""Protocols of the catalogue and of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench.harness.protocols import load_protocol, protocol_names


def own(folder: Path, **changes: Any) -> str:
    """Writes the proxy under another name, with changes; None deletes a key."""
    content = dict(load_protocol("llava15-proxy").content) | {"name": "mine", "variants": "mini"} | changes
    path = folder / "mine.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return str(path)


@pytest.mark.parametrize("name", protocol_names())
def test_every_protocol_of_the_catalogue_names_tasks_for_its_suites(name: str) -> None:
    protocol = load_protocol(name)
    assert (protocol.name, protocol.is_own) == (name, False)
    for suite in protocol.suites:
        assert protocol.tasks_of(suite)


def test_own_file_names_its_tasks_and_is_known_by_its_path(tmp_path: Path) -> None:
    protocol = load_protocol(own(tmp_path, suites={"understanding": ["pope", "mme"]}))
    assert (protocol.label, protocol.is_own) == ("mine v1", True)
    assert protocol.tasks_of("understanding") == ("pope", "mme")
    assert load_protocol(protocol.origin) == protocol
    assert set(protocol.content_of("understanding")) == {
        "name", "version", "title", "description", "variants", "understanding",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "mini"}, "the name 'mini' belongs to a protocol of the catalogue"),
        ({"recipe": 1}, "missing or unknown keys: recipe"),
        ({"title": None}, "missing or unknown keys: title"),
        ({"understanding": None}, "no section"),
        ({"suites": ["pope"]}, "suites are a mapping of suites to tasks"),
        ({"suites": {"understandig": ["pope"]}}, "unknown suite 'understandig'"),
    ],
)
def test_wrong_own_file_is_refused_in_three_lines(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_protocol(own(tmp_path, **changes))
    assert message in caught.value.what
    assert len(str(caught.value).splitlines()) == 3


def test_own_file_without_tasks_says_how_to_name_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="names no tasks for the suite 'understanding'") as caught:
        load_protocol(own(tmp_path)).tasks_of("understanding")
    assert "--tasks" in caught.value.fix


def test_suite_without_a_section_names_those_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no section 'generation'") as caught:
        load_protocol(own(tmp_path)).section("generation")
    assert caught.value.fix == "use it with: understanding"


def test_file_that_is_not_there_and_near_miss_are_named(tmp_path: Path) -> None:
    with pytest.raises(OvbenchError) as caught:
        load_protocol(str(tmp_path / "none.yaml"))
    assert "none.yaml" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load_protocol("llava15-vicuna7")
    assert "llava15-vicuna7b" in caught.value.fix


def test_file_that_is_no_mapping_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- mini\n")
    with pytest.raises(ConfigError, match="a protocol is a mapping"):
        load_protocol(str(tmp_path / "list.yaml"))
