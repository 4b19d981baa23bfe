"""Labelled pictures are the same in every form, and what cannot be used is refused by name."""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.imagenet_sources import LabelledSource, open_labelled
from tests.harness.generation.imagenet_tree import (
    CLASSES,
    make_parquet,
    make_tars,
    make_tree,
    members,
    reference_pixels,
)

MAKERS = {"folders": make_tree, "tar": make_tars, "parquet": make_parquet}


@pytest.fixture(params=sorted(MAKERS))
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def opened(root: Path, split: str = "train", classes: int | None = 3, count: int | None = None) -> LabelledSource:
    return open_labelled(
        root, split=split, expected_classes=classes, expected_count=count, index_dir=root.parent / "index"
    )


def test_every_form_gives_the_same_pictures_and_labels(tmp_path: Path, kind: str) -> None:
    source = opened(MAKERS[kind](tmp_path / "set"))
    assert source.kind == kind
    assert source.num_pictures == 12
    assert source.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    for number in range(12):
        picture = source.read(number)
        assert picture.mode == "RGB"
        np.testing.assert_array_equal(np.asarray(picture), reference_pixels(number))


def test_pictures_are_the_same_from_many_threads_in_any_order(tmp_path: Path, kind: str) -> None:
    source = opened(MAKERS[kind](tmp_path / "set"))
    order = np.random.default_rng(0).permutation(12).tolist() * 5
    with ThreadPoolExecutor(8) as pool:
        for number, picture in zip(order, pool.map(source.read, order), strict=True):
            np.testing.assert_array_equal(np.asarray(picture), reference_pixels(number))


def test_classes_are_folder_names_or_numbers(tmp_path: Path) -> None:
    assert opened(make_tree(tmp_path / "a")).classes == CLASSES
    assert opened(make_tars(tmp_path / "b")).classes == ("0", "1", "2")
    assert opened(make_parquet(tmp_path / "c"), classes=None).classes == ("0", "1", "2")


def test_the_digest_is_of_content_and_not_of_the_place(tmp_path: Path, kind: str) -> None:
    first = opened(MAKERS[kind](tmp_path / "a" / "set"))
    second = opened(MAKERS[kind](tmp_path / "b" / "set"))
    assert first.digest == second.digest
    assert len(first.digest) == 64


def test_the_digest_changes_with_a_name_a_size_and_a_label(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    digests = {opened(root).digest}
    file = root / "train" / CLASSES[0] / f"{CLASSES[0]}_00.JPEG"
    file.write_bytes(file.read_bytes() + b"\0")
    digests.add(opened(root).digest)
    file.rename(file.with_name("other.JPEG"))
    digests.add(opened(root).digest)
    shutil.move(file.with_name("other.JPEG"), root / "train" / CLASSES[1] / "a.JPEG")
    digests.add(opened(root).digest)
    (root / "train" / CLASSES[2]).rename(root / "train" / "n09999999")
    digests.add(opened(root).digest)
    assert len(digests) == 5


def test_the_folder_of_the_split_itself_can_be_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    assert opened(root / "train").digest == opened(root).digest


def test_val_and_validation_name_the_same_split(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set", "val")
    assert opened(root, "validation").num_pictures == opened(root, "val").num_pictures == 12


def test_order_is_that_of_image_folder(tmp_path: Path) -> None:
    # sorted by code points: capitals first, "10" before "9"; other files and hidden ones are not pictures
    folder = tmp_path / "set" / "train" / "n00000001"
    folder.mkdir(parents=True)
    stem, _, data = next(members())
    for name in ("b.jpeg", "B.JPG", "9.png", "10.jpg", ".hidden.jpg", "notes.txt", f"{stem}.JPEG"):
        (folder / name).write_bytes(data)
    source = opened(tmp_path / "set", classes=1)
    assert [source.item(i) for i in range(source.num_pictures)] == [
        f"n00000001/{name}" for name in ("10.jpg", "9.png", "B.JPG", "b.jpeg", f"{stem}.JPEG")
    ]


def test_shards_of_the_other_split_are_left_out(tmp_path: Path) -> None:
    root = make_parquet(make_parquet(tmp_path / "set"), "validation")
    assert opened(root, "train").num_pictures == opened(root, "val").num_pictures == 12


def test_a_single_shard_can_be_named(tmp_path: Path) -> None:
    assert opened(make_tars(tmp_path / "a") / "train-000000.tar", classes=2).num_pictures == 5
    assert opened(make_parquet(tmp_path / "b") / "data" / "train-00001-of-00002.parquet").num_pictures == 5


def test_a_number_outside_is_refused(tmp_path: Path) -> None:
    source = opened(make_tree(tmp_path / "set"))
    for index in (-1, 12):
        with pytest.raises(ConfigError, match=f"there is no picture {index}"):
            source.read(index)


# --- refusals --------------------------------------------------------------------------------------------------------


def refusal(root: Path | str, split: str = "train", classes: int | None = 3, count: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        open_labelled(root, split=split, expected_classes=classes, expected_count=count, index_dir=Path(os.devnull))
    assert caught.value.fix
    return str(caught.value)


def test_flat_validation_pictures_are_refused_with_the_layout(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "val"
    folder.mkdir(parents=True)
    for number, (_, _, data) in enumerate(members()):
        (folder / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(data)
    text = refusal(tmp_path / "set", "val")
    assert "12 pictures lie in 'val' without class folders, first 'ILSVRC2012_val_00000000.JPEG'" in text
    assert "val/n01440764/" in text


def test_a_root_without_the_split_is_refused(tmp_path: Path) -> None:
    assert "has no folder of the split 'val' (it has: train)" in refusal(make_tree(tmp_path / "set"), "val")


def test_shards_of_another_split_alone_are_refused(tmp_path: Path) -> None:
    assert "no .parquet shards of the split 'val'" in refusal(make_parquet(tmp_path / "set"), "val")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    root = make_parquet(tmp_path / "set")
    (root / "data" / "train-00000-of-00002.parquet").unlink()
    assert "1 of 2 shards are missing, first 'train-00000-of-00002.parquet'" in refusal(root)


def test_two_forms_in_one_folder_are_refused(tmp_path: Path) -> None:
    root = make_parquet(make_tree(tmp_path / "set"))
    assert "in two forms: .parquet and class folders" in refusal(root)


def test_an_empty_folder_a_missing_one_and_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "train.tar.gz").write_bytes(b"x")
    assert "'empty' holds no pictures" in refusal(tmp_path / "empty")
    assert "no such file or folder 'gone'" in refusal(tmp_path / "gone")
    assert "is no source of labelled pictures" in refusal(tmp_path / "train.tar.gz")


def test_a_folder_too_high_is_refused_when_it_is_opened(tmp_path: Path) -> None:
    make_tree(tmp_path / "set" / "Data" / "CLS-LOC")
    text = refusal(tmp_path / "set")
    assert "12 pictures lie at the wrong depth: Data/CLS-LOC/train/n01440764/" in text
    assert "name the folder that holds the class folders" in text


def test_another_number_of_classes_or_pictures_is_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    assert "3 classes instead of 1000" in refusal(root, classes=1000)
    assert "12 pictures instead of 50000" in refusal(root, count=50_000)


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    (root / "train" / CLASSES[0] / "link.JPEG").symlink_to(tmp_path / "gone.JPEG")
    assert f"{CLASSES[0]}/link.JPEG" in refusal(root)


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown split 'trian'"):
        opened(make_tree(tmp_path / "set"), "trian")
