"""Options of generation: guidance as words, and combinations that cannot be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.flow_config import GuidanceConfig
from ovbench.harness.generation.options_config import (
    GenerationOptions,
    guidance_text,
    parse_guidance,
    parse_guidances,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("none", GuidanceConfig()),
        ("cfg:1.5", GuidanceConfig(kind="cfg", scale=1.5)),
        ("CFG:2", GuidanceConfig(kind="cfg", scale=2.0)),
        ("cfg:1.5@0.1-0.9", GuidanceConfig(kind="cfg", scale=1.5, interval=(0.1, 0.9))),
        ("auto:1.42", GuidanceConfig(kind="auto", scale=1.42)),
    ],
)
def test_guidance_is_read_and_written(text: str, expected: GuidanceConfig) -> None:
    assert parse_guidance(text) == expected
    assert parse_guidance(guidance_text(expected)) == expected


@pytest.mark.parametrize(
    "text", ["", "cfg", "cfg:", "none:1.5", "cgf:1.5", "cfg:0.5", "cfg:1.5@0.9-0.1", "cfg:1.5@0-2", "cfg:1..5", "1.5"]
)
def test_what_is_no_guidance_says_what_is(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_guidance(text)
    assert caught.value.where == "--guidance"
    assert "cfg:1.5" in caught.value.fix


def test_a_sweep_holds_each_guidance_once() -> None:
    assert len(parse_guidances(["none", "cfg:1.5", "cfg:1.50"])) == 2
    assert parse_guidances([]) == (None,)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_samples": 1}, "2 or more"),
        ({"num_samples": True}, "2 or more"),
        ({"save_format": "jpg"}, "unknown format of samples 'jpg'"),
        ({"dit_network": "dit-s"}, "no effect without weights"),
        ({"guide_network": "dit-s"}, "no effect without weights"),
        ({"guidance": GuidanceConfig(kind="auto", scale=1.4)}, "needs the weights of a weaker network"),
    ],
)
def test_what_does_not_go_together_is_refused(words: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationOptions(**words)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file") as caught:
        GenerationOptions(decoder=tmp_path / "decoder.pt")
    assert caught.value.where == "--decoder"


def test_a_network_without_its_statistics_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "dit.pt"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match="statistics of its latents"):
        GenerationOptions(dit=path)


def test_a_guide_needs_autoguidance(tmp_path: Path) -> None:
    path = tmp_path / "guide.pt"
    path.write_bytes(b"x")
    with pytest.raises(ConfigError, match="no effect without autoguidance"):
        GenerationOptions(guide=path, guidance=GuidanceConfig(kind="cfg", scale=2.0))
