"""A data set of the hub: a commit is asked for, the cache comes first, and nothing is fetched offline."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.imagenet_sources import open_labelled
from tests.harness.generation.imagenet_tree import make_parquet

COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = f"someone/pictures@{COMMIT}"


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the hub's cache would hold the data set; the hub is offline."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub" / "datasets--someone--pictures" / "snapshots" / COMMIT


@pytest.fixture
def asked(snapshot: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the hub's client was asked for, with a hub that holds both splits."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def download(repo_id: str, **options: Any) -> str:
        calls.append({"repo_id": repo_id, **options})
        if options["local_files_only"]:
            if not snapshot.is_dir():
                raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
            return str(snapshot)
        for split in ("train", "validation"):
            make_parquet(snapshot, split)
        for path in list(snapshot.rglob("*.parquet")):
            name = path.relative_to(snapshot).as_posix()
            if not any(fnmatch(name, pattern) for pattern in options["allow_patterns"]):
                path.unlink()
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return calls


def opened(source: str = SOURCE, split: str = "train") -> Any:
    return open_labelled(source, split=split, expected_classes=3)


def test_a_cached_set_is_read_offline(snapshot: Path) -> None:
    make_parquet(snapshot)
    source = opened()
    assert source.num_pictures == 12
    assert source.name == "someone/pictures@0123456789ab train"


def test_a_missing_set_offline_says_what_to_do(snapshot: Path) -> None:
    with pytest.raises(DataError, match="is not in the hub's cache, and HF_HUB_OFFLINE is set") as caught:
        opened()
    assert "leave HF_HUB_OFFLINE unset once" in caught.value.fix


def test_a_half_fetched_set_offline_names_the_missing_shard(snapshot: Path) -> None:
    make_parquet(snapshot)
    (snapshot / "data" / "train-00001-of-00002.parquet").unlink()
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set: 1 of 2 shards are missing, first 'train-00001"):
        opened()


def test_only_the_split_is_fetched_and_once(snapshot: Path, asked: list[dict[str, Any]]) -> None:
    assert opened(split="val").num_pictures == 12
    assert [call["local_files_only"] for call in asked] == [True, False]
    assert all(call["repo_type"] == "dataset" and call["revision"] == COMMIT for call in asked)
    assert sorted(path.name[:10] for path in snapshot.rglob("*.parquet")) == ["validation"] * 2
    opened(split="val")
    assert len(asked) == 3
    assert asked[-1]["local_files_only"]


def test_a_half_fetched_set_is_completed(snapshot: Path, asked: list[dict[str, Any]]) -> None:
    make_parquet(snapshot)
    (snapshot / "data" / "train-00001-of-00002.parquet").unlink()
    assert opened().num_pictures == 12
    assert len(asked) == 2


def test_a_set_without_the_split_is_refused(snapshot: Path, asked: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="has no parquet files of the split 'test'"):
        opened(split="test")


@pytest.mark.parametrize("revision", ["main", "0123456", COMMIT.upper(), ""])
def test_a_branch_or_a_short_commit_is_refused(snapshot: Path, revision: str) -> None:
    with pytest.raises(ConfigError, match=f"'{revision}' is no commit of 'someone/pictures'") as caught:
        opened(f"someone/pictures@{revision}")
    assert "40 hex digits" in caught.value.fix


def test_an_id_without_a_commit_is_no_file_and_the_form_is_said(snapshot: Path) -> None:
    with pytest.raises(DataError, match="no such file or folder 'pictures'") as caught:
        opened("someone/pictures")
    assert "owner/name@COMMIT" in caught.value.fix


@pytest.mark.parametrize(
    ("kind", "what", "fix"),
    [
        ("GatedRepoError", "its owner asks for an agreement first", "datasets/someone/pictures"),
        ("RepositoryNotFoundError", "there is no such data set", "datasets/someone/pictures"),
        ("RevisionNotFoundError", f"it has no commit {COMMIT}", "commits/main"),
        ("ConnectionError", "ConnectionError: no route", "check the connection"),
    ],
)
def test_why_it_cannot_be_fetched_is_said(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch, kind: str, what: str, fix: str
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)

    def download(repo_id: str, **options: Any) -> str:
        if options["local_files_only"]:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        if kind == "ConnectionError":
            raise ConnectionError("no route")
        error = getattr(huggingface_hub.errors, kind)
        raise error.__new__(error, "refused")  # its constructor wants the response of a server

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(DataError) as caught:
        opened()
    assert what in caught.value.what
    assert fix in caught.value.fix
