"""Where tables are looked for: the data folder, the hub's cache, the hub; and what is said where they are nowhere."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from tests.tasks.benchmark_files import write_benchmark

COMMIT, OTHER = "a" * 40, "b" * 40


def _cached(hub: Path, repo: str, task: str, *, revision: str = COMMIT, main: bool = True) -> Path:
    """Puts a benchmark into the hub's cache as the hub's client does, and returns the snapshot."""
    folder = hub / f"datasets--{repo.replace('/', '--')}"
    written = write_benchmark(task, hub.parent / f"written-{revision[0]}")
    snapshot = folder / "snapshots" / revision
    shutil.move(written / repo.split("/")[-1], snapshot)
    if main:
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(revision)
    return snapshot


def _pinned(name: str, revision: str) -> TaskSpec:
    spec = load_task(name)
    return replace(spec, source={**spec.source, "revision": revision})


def test_absent_data_name_every_place_and_the_line_that_gets_them(hub: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError) as caught:
        load_data(load_task("gqa"), data_dir=tmp_path / "data")
    assert str(caught.value) == (
        "error: the data of the task 'gqa' are not on this machine\n"
        f"  where: looked at: {tmp_path}/data/GQA (testdev_balanced_instructions/testdev-*.parquet + "
        "testdev_balanced_images/testdev-*.parquet); "
        f"the hub's cache: {hub}/datasets--lmms-lab-encoder--GQA; the hub's cache: {hub}/datasets--lmms-lab--GQA; "
        "the hub was not asked: HF_HUB_OFFLINE is set\n"
        "  fix:   where there is a network: ovbench data pack --tasks gqa --to DIR; carry DIR here, then: "
        "ovbench data mount DIR, or OVBENCH_DATA=DIR"
    )


def test_without_a_data_folder_the_ways_to_name_one_are_said() -> None:
    with pytest.raises(DataError, match=r"no data folder \(--data, OVBENCH_DATA, ovbench data mount\)"):
        try:
            load_data(load_task("gqa"))
        except DataError as error:
            raise DataError(error.where) from None


def test_task_that_no_hub_has_says_which_files_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_data(load_task("pope-v1"), data_dir=tmp_path)
    assert caught.value.fix == (
        "put coco_pope_adversarial.json + coco_pope_popular.json + coco_pope_random.json + val2014/ into DIR/pope-v1 "
        "and set OVBENCH_DATA=DIR"
    )


def test_data_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no data folder"):
        load_data(load_task("gqa"), data_dir=tmp_path / "none")


def test_environment_names_the_data_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_DATA", str(write_benchmark("chartqa", folder)))
    assert load_data(load_task("chartqa")).provenance["folder"] == str(folder / "ChartQA")


def test_flag_comes_before_the_environment(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_DATA", str(write_benchmark("chartqa", tmp_path / "other")))
    data = load_data(load_task("chartqa"), data_dir=write_benchmark("chartqa", folder))
    assert data.provenance["folder"] == str(folder / "ChartQA")


@pytest.mark.parametrize("repo", ["lmms-lab-encoder/ChartQA", "lmms-lab/ChartQA"])
def test_hub_cache_is_read_offline_and_its_commit_is_known(hub: Path, repo: str) -> None:
    snapshot = _cached(hub, repo, "chartqa")
    data = load_data(load_task("chartqa"))
    assert data.provenance == {"kind": "hub cache", "folder": str(snapshot), "repo": repo, "revision": COMMIT}


def test_pinned_commit_is_taken_from_the_cache_and_no_other(hub: Path) -> None:
    _cached(hub, "lmms-lab/ChartQA", "chartqa", revision=OTHER)
    _cached(hub, "lmms-lab/ChartQA", "chartqa", main=False)
    assert load_data(_pinned("chartqa", COMMIT)).provenance["revision"] == COMMIT
    assert load_data(_pinned("chartqa", OTHER)).provenance["revision"] == OTHER
    with pytest.raises(DataError, match="are not on this machine"):
        load_data(_pinned("chartqa", "c" * 40))


def test_cache_without_a_newest_commit_is_not_guessed_at(hub: Path) -> None:
    for revision in (COMMIT, OTHER):
        _cached(hub, "lmms-lab/ChartQA", "chartqa", revision=revision, main=False)
    with pytest.raises(DataError, match="are not on this machine"):
        load_data(load_task("chartqa"))


# --- the hub, by a client that serves a folder ------------------------------------------------------------------------


class Client:
    """Stands for the hub's client: serves snapshots of folders, and counts what was fetched."""

    def __init__(self, hub: Path, repos: dict[str, Path]) -> None:
        self.hub, self.repos, self.fetched = hub, repos, []

    def dataset_info(self, repo: str, *, revision: str | None) -> Any:
        if repo not in self.repos:
            raise ConnectionError("no route to host")
        names = [path.relative_to(self.repos[repo]).as_posix() for path in self.repos[repo].rglob("*.parquet")]
        return SimpleNamespace(sha=revision or COMMIT, siblings=[SimpleNamespace(rfilename=name) for name in names])

    def hf_hub_download(self, repo: str, name: str, *, repo_type: str, revision: str) -> str:
        assert repo_type == "dataset"
        self.fetched.append(name)
        target = self.hub / f"datasets--{repo.replace('/', '--')}" / "snapshots" / revision / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.repos[repo] / name, target)
        return str(target)


def _serve(monkeypatch: pytest.MonkeyPatch, hub: Path, repos: dict[str, Path]) -> Client:
    client = Client(hub, repos)
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: client)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", client.hf_hub_download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return client


def test_tables_are_fetched_from_the_first_mirror_that_answers(
    hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark("gqa", folder)
    shutil.copytree(folder / "GQA/testdev_balanced_images", folder / "GQA/testdev_all_images")
    client = _serve(monkeypatch, hub, {"lmms-lab/GQA": folder / "GQA"})
    data = load_data(load_task("gqa"))
    assert {key: data.provenance[key] for key in ("kind", "repo", "revision")} == {
        "kind": "hub", "repo": "lmms-lab/GQA", "revision": COMMIT
    }  # fmt: skip
    assert client.fetched == [
        "testdev_balanced_instructions/testdev-00000-of-00001.parquet",
        "testdev_balanced_images/testdev-00000-of-00001.parquet",
    ]


def test_what_is_on_the_disk_is_not_fetched(hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client = _serve(monkeypatch, hub, {"lmms-lab/ChartQA": write_benchmark("chartqa", folder) / "ChartQA"})
    load_data(load_task("chartqa"), data_dir=folder)
    _cached(hub, "lmms-lab/ChartQA", "chartqa")
    load_data(load_task("chartqa"))
    assert client.fetched == []


def test_hub_that_cannot_be_reached_is_said_for_each_mirror(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _serve(monkeypatch, hub, {})
    with pytest.raises(DataError) as caught:
        load_data(load_task("gqa"))
    for repo in ("lmms-lab-encoder/GQA", "lmms-lab/GQA"):
        assert f"{repo} on the hub: ConnectionError: no route to host" in caught.value.where


def test_repository_without_the_split_is_said(hub: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_benchmark("chartqa", folder)
    _serve(monkeypatch, hub, {"lmms-lab/GQA": folder / "ChartQA"})
    with pytest.raises(DataError) as caught:
        load_data(load_task("gqa"))
    assert f"lmms-lab/GQA on the hub at {COMMIT}: no testdev_balanced_instructions" in caught.value.where


def test_gated_and_missing_repositories_are_told_apart(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    client = _serve(monkeypatch, hub, {})
    faults: Sequence[type[Exception]] = (GatedRepoError, RepositoryNotFoundError)
    left = list(faults)

    def fail(*arguments: Any, **options: Any) -> None:
        raise left.pop(0).__new__(faults[len(faults) - len(left) - 1])

    monkeypatch.setattr(client, "dataset_info", fail)
    with pytest.raises(DataError) as caught:
        load_data(load_task("gqa"))
    assert "lmms-lab-encoder/GQA on the hub: its owner asks for an agreement first" in caught.value.where
    assert "lmms-lab/GQA on the hub: there is no such data set, or it is private" in caught.value.where


def test_what_the_named_folder_lacks_is_taken_from_the_mounted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark("mme", tmp_path / "mounted")
    (tmp_path / "llava").mkdir()
    monkeypatch.setenv("OVBENCH_DATA", str(tmp_path / "mounted"))
    data = load_data(load_task("mme"), data_dir=tmp_path / "llava")
    assert data.provenance["folder"].startswith(str(tmp_path / "mounted"))
