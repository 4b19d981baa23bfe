"""The benchmark of docs/add-a-benchmark.md goes through the main job: one YAML, no line of ovbench changed."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from PIL import Image

from tests.end_to_end.conftest import call

TEXT = (Path(__file__).parents[2] / "docs" / "add-a-benchmark.md").read_text(encoding="utf-8")


def test_one_yaml_is_a_benchmark(finished: Path, tmp_path: Path) -> None:
    for name, content in re.findall(r"^`([\w.-]+)`\n\n```\w+\n(.*?)^```", TEXT, flags=re.M | re.S):
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for name in ("one", "two"):
        Image.new("RGB", (90, 60), (200, 30, 30)).save(tmp_path / "pictures" / f"{name}.png")
    shutil.copytree(finished / "cache", tmp_path / "cache")
    task = str(tmp_path / "my-bench.yaml")
    done = call(tmp_path, "run", "-e", "clip", "-p", "mini-smoke", "--tasks", task)
    assert done.returncode == 0, done.stderr
    assert "kitchen-choice" in done.stdout
    assert "does not know" in done.stderr
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    assert [(item["name"], item["n"]) for item in record["tasks"]] == [("kitchen-choice", 3)]


def test_a_missing_picture_is_said_before_any_training(tmp_path: Path) -> None:
    for name, content in re.findall(r"^`([\w.-]+)`\n\n```\w+\n(.*?)^```", TEXT, flags=re.M | re.S):
        (tmp_path / name).write_text(content, encoding="utf-8")
    done = call(tmp_path, "run", "-e", "clip", "-p", "mini-smoke", "--tasks", str(tmp_path / "my-bench.yaml"))
    assert done.returncode == 2
    assert "pictures/" in done.stderr
    assert "stage 1" not in done.stderr
