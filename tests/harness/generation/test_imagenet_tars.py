"""Tar shards: the index is kept and believed only while it fits, and damage is named."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from ovbench._base.errors import DataError
from ovbench.harness.generation import imagenet_tars
from ovbench.harness.generation.imagenet_tars import TarSource
from tests.harness.generation.imagenet_tree import jpeg, make_tar, make_tars, reference_pixels


def opened(root: Path) -> TarSource:
    shards = sorted(root.glob("*.tar"))
    return TarSource(root, "set", shards, num_classes=None, index_dir=root.parent / "index")


def refusal(root: Path) -> str:
    with pytest.raises(DataError) as caught:
        opened(root)
    assert caught.value.fix
    return str(caught.value)


@pytest.fixture
def walked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tars whose headers were read."""
    names: list[str] = []
    walk = imagenet_tars._walk

    def counting(number: int, shard: Path) -> tuple[np.ndarray, list[str]]:
        names.append(shard.name)
        return walk(number, shard)

    monkeypatch.setattr(imagenet_tars, "_walk", counting)
    return names


def test_a_second_start_reads_no_header(tmp_path: Path, walked: list[str]) -> None:
    root = make_tars(tmp_path / "set")
    first = opened(root)
    assert sorted(walked) == ["train-000000.tar", "train-000001.tar"]
    walked.clear()
    second = opened(root)
    assert not walked
    assert second.digest == first.digest
    assert [second.item(i) for i in range(12)] == [first.item(i) for i in range(12)]
    np.testing.assert_array_equal(np.asarray(second.read(7)), reference_pixels(7))


def test_a_changed_tar_is_indexed_again(tmp_path: Path, walked: list[str]) -> None:
    root = make_tars(tmp_path / "set")
    opened(root)
    walked.clear()
    os.utime(root / "train-000001.tar", ns=(1, 1))
    opened(root)
    assert len(walked) == 2


def test_a_damaged_index_is_made_again(tmp_path: Path, walked: list[str], caplog: pytest.LogCaptureFixture) -> None:
    root = make_tars(tmp_path / "set")
    first = opened(root)
    (index,) = (tmp_path / "index").glob("*.npz")
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    walked.clear()
    assert opened(root).digest == first.digest
    assert len(walked) == 2
    assert "is damaged and is made again" in caplog.text
    assert index.read_bytes()[:2] == b"PK"


def test_a_tar_cut_inside_a_picture_is_refused(tmp_path: Path) -> None:
    root = make_tars(tmp_path / "set")
    os.truncate(root / "train-000001.tar", 3000)
    assert "'train-000001.tar' is truncated" in refusal(root)


@pytest.mark.parametrize("left", [0, 1])
def test_a_tar_cut_between_pictures_or_with_a_damaged_header_is_refused(tmp_path: Path, left: int) -> None:
    # tarfile alone takes both for the end of the archive
    path = make_tar(tmp_path / "set" / "a.tar", [("0.jpg", jpeg(0)), ("0.cls", b"0"), ("1.jpg", jpeg(1))])
    with tarfile.open(path) as archive:
        start = archive.getmember("1.jpg").offset
    data = path.read_bytes()
    path.write_bytes(data[:start] + b"damaged!" * 64 * left)
    assert "no header and no end mark" in refusal(tmp_path / "set")


def test_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    root = make_tars(tmp_path / "set")
    path = root / "train-000000.tar"
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert "compressed or no tar" in refusal(root)


@pytest.mark.parametrize(
    ("entries", "what"),
    [
        ([("0.jpg", jpeg(0))], "'0' has no class (0.cls) in 'a.tar'"),
        ([("0.cls", b"0")], "'0' has a class and no picture"),
        ([("0.jpg", jpeg(0)), ("0.jpeg", jpeg(1)), ("0.cls", b"0")], "'0' has two pictures"),
        ([("0.jpg", jpeg(0)), ("0.cls", b"0"), ("0.cls", b"1")], "'0' has two classes"),
        ([("0.jpg", jpeg(0)), ("0.cls", b"dog")], "the class of '0' in 'a.tar' is no whole number: b'dog'"),
        ([("readme.txt", b"hello")], "'a.tar' holds no pictures"),
    ],
)
def test_a_picture_without_exactly_one_class_is_refused(
    tmp_path: Path, entries: list[tuple[str, bytes]], what: str
) -> None:
    make_tar(tmp_path / "set" / "a.tar", entries)
    assert what in refusal(tmp_path / "set")


def test_a_tar_that_shrank_after_it_was_opened_is_named(tmp_path: Path) -> None:
    root = make_tars(tmp_path / "set")
    source = opened(root)
    os.truncate(root / "train-000000.tar", 600)
    with pytest.raises(DataError, match="was changed after it was opened"):
        source.read(0)
