from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovbench.cli import app
from tests.harness.understanding import llava_layouts as layouts


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    return layouts.write_library(tmp_path / "hf", *layouts.library_llava())


def test_export_says_what_it_wrote(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(source), str(tmp_path / "out"), "--layout", "llava", "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(done.stdout)
    assert (written["layout"], written["source_layout"]) == ("llava", "transformers")
    expected = {"config.json", "model.safetensors", "tokenizer.json", "vision_tower/model.safetensors"}
    assert expected <= set(written["files"])
    sizes = [path.stat().st_size for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert (written["size_bytes"], len(written["files"])) == (sum(sizes), len(sizes))


def test_export_prints_a_table_for_people(source: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(source), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert "ovbench_llava.json" in done.stdout


def test_export_of_nothing_is_a_mistake_to_fix(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["export", str(tmp_path), str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "no checkpoint of a known layout" in done.stderr
