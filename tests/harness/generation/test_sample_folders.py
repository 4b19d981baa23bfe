from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.sample_folders import (
    check_space,
    check_target,
    is_saved,
    leftovers,
    run_folders,
)


def test_a_new_folder_is_accepted_and_its_parents_are_made(tmp_path: Path) -> None:
    check_target(tmp_path / "a" / "b")
    assert (tmp_path / "a").is_dir()
    assert not (tmp_path / "a" / "b").exists()


CARD = {"format": 1, "samples": "k" * 64}


def saved(folder: Path, card: dict[str, object] = CARD) -> Path:
    folder.mkdir(parents=True)
    (folder / "000000.png").write_bytes(b"x")
    (folder / "samples.json").write_text(json.dumps(card))
    return folder


@pytest.mark.parametrize("kind", ["folder", "folders", "file", "dangling link"])
def test_whatever_is_not_ours_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "there"
    if kind == "folder":
        path.mkdir()
        (path / "mine.txt").write_text("mine")
    elif kind == "folders":
        saved(path / "clip-mini-seed-0")
        (path / "mine").mkdir()
    elif kind == "file":
        path.write_text("mine")
    else:
        path.symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError) as error:
        check_target(path)
    assert "no file is ever replaced" in error.value.what
    assert str(path) in error.value.where
    assert "new folder" in error.value.fix


def test_samples_of_ours_and_what_a_killed_run_left_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    saved(tmp_path / "one")
    saved(tmp_path / "sweep" / "clip-mini-none-seed-0")
    (tmp_path / "sweep" / ".clip-mini-cfg-2-seed-0.ab12_x9z.tmp").mkdir()
    for name in ("empty", "one", "sweep"):
        check_target(tmp_path / name)


def test_the_same_samples_are_known_and_others_are_refused(tmp_path: Path) -> None:
    assert not is_saved(tmp_path / "new", CARD)
    folder = saved(tmp_path / "s")
    assert is_saved(folder, CARD)
    with pytest.raises(ConfigError, match="holds other samples"):
        is_saved(folder, {**CARD, "samples": "l" * 64})


def test_several_runs_do_not_go_where_one_left_its_samples(tmp_path: Path) -> None:
    folder = saved(tmp_path / "s")
    assert run_folders(folder, ["clip/mini seed 0"]) == [folder]
    with pytest.raises(ConfigError, match="holds the samples of one run"):
        run_folders(folder, ["clip/mini seed 0", "clip/mini seed 1"])


def test_what_is_left_of_one_folder_is_not_that_of_another(tmp_path: Path) -> None:
    mine = tmp_path / ".s.ab12_x9z.tmp"
    for path in (mine, tmp_path / ".t.ab12_x9z.tmp", tmp_path / ".s.notes"):
        path.mkdir()
    assert leftovers(tmp_path / "s") == [mine]


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
