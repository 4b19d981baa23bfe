from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.sample_folders import check_space, check_target, run_folders


def test_a_new_folder_is_accepted_and_its_parents_are_made(tmp_path: Path) -> None:
    check_target(tmp_path / "a" / "b")
    assert (tmp_path / "a").is_dir()
    assert not (tmp_path / "a" / "b").exists()


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_whatever_is_there_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError) as error:
        check_target(path)
    assert "no file is ever replaced" in error.value.what
    assert str(path) in error.value.where
    assert "new folder" in error.value.fix


def test_names_that_look_alike_as_folders_are_numbered(tmp_path: Path) -> None:
    names = ["clip/mini seed 0", "clip-mini seed 0", "clip mini seed 0", "clip/mini seed 1"]
    found = [path.name for path in run_folders(tmp_path, names)]
    assert found == ["clip-mini-seed-0", "clip-mini-seed-0--2", "clip-mini-seed-0--3", "clip-mini-seed-1"]


def test_a_disk_that_is_too_small_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10 * 2**20))
    check_space(tmp_path / "s", 50, 256)
    with pytest.raises(ConfigError) as error:
        check_space(tmp_path / "s", 50000, 256)
    assert "50000 samples need up to 9375 MiB, and 10 MiB are free" in error.value.what
