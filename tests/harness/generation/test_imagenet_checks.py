"""What a training would stumble over is found before it starts, and named."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from ovbench._base.errors import DataError
from ovbench.harness.generation.imagenet_checks import _sample, check_labelled, check_same_classes
from ovbench.harness.generation.imagenet_sources import open_labelled
from tests.harness.generation.imagenet_tree import CLASSES, jpeg, make_parquet, make_tars, make_tree


def check(root: Path, classes: int | None = 3, least: int = 1, open_classes: int | None = None) -> None:
    source = open_labelled(root, split="train", expected_classes=open_classes, index_dir=root.parent / "index")
    check_labelled(source, expected_classes=classes, per_class_min=least, where="--train")


def refusal(root: Path, classes: int | None = 3, least: int = 1, open_classes: int | None = None) -> str:
    with pytest.raises(DataError) as caught:
        check(root, classes, least, open_classes)
    assert caught.value.fix
    return str(caught.value)


def test_good_sets_pass_with_grey_and_cmyk_pictures(tmp_path: Path) -> None:
    for maker in (make_tree, make_tars, make_parquet):
        check(maker(tmp_path / maker.__name__), least=4)


def test_a_missing_class_folder_is_told_by_the_number(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    shutil.rmtree(root / "train" / CLASSES[1])
    text = refusal(root)
    assert "2 classes instead of 3" in text
    assert f"--train: {root / 'train'}" in text


def test_an_extra_folder_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    (root / "train" / "thumbnails").mkdir()
    assert "4 classes instead of 3; unlike ImageNet's: thumbnails" in refusal(root)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    (root / "train" / "n01491361").mkdir()
    assert "1 of 4 classes have no pictures: n01491361" in refusal(root, classes=4)


def test_a_class_without_pictures_is_named_where_there_are_no_folders(tmp_path: Path) -> None:
    assert "2 of 5 classes have no pictures: 3, 4" in refusal(make_tars(tmp_path / "set"), classes=5, open_classes=5)


@pytest.mark.parametrize("place", ["flat.JPEG", f"{CLASSES[0]}/deeper/still/a.JPEG"])
def test_pictures_at_the_wrong_depth_are_named(tmp_path: Path, place: str) -> None:
    root = make_tree(tmp_path / "set")
    file = root / "train" / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(jpeg(0))
    assert f"1 pictures lie at the wrong depth: {place}" in refusal(root)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_refused_when_the_set_is_opened(tmp_path: Path, label: int) -> None:
    root = make_parquet(tmp_path / "set", changed={"label": label})
    text = refusal(root, open_classes=3)
    assert f"12 labels are out of range 0…2: train-00000-of-00002.parquet[0] has {label}" in text


def test_too_few_pictures_of_a_class_are_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    (root / "train" / CLASSES[2] / f"{CLASSES[2]}_09.JPEG").unlink()
    check(root, least=3)
    assert f"1 of 3 classes have fewer than 4 pictures: {CLASSES[2]} (3)" in refusal(root, least=4)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    (root / "train" / CLASSES[1] / f"{CLASSES[1]}_05.JPEG").write_bytes(b"")
    assert f"1 pictures are empty (0 bytes): {CLASSES[1]}/{CLASSES[1]}_05.JPEG" in refusal(root)


def test_a_picture_that_does_not_decode_is_named(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "set")
    file = root / "train" / CLASSES[2] / f"{CLASSES[2]}_11.JPEG"
    file.write_bytes(file.read_bytes()[:200])
    assert str(file) in refusal(root)


def test_the_sample_has_both_ends_and_is_the_same_each_time() -> None:
    drawn = _sample(1_281_167, 64, 0)
    assert drawn == sorted(set(drawn)) == _sample(1_281_167, 64, 0)
    assert (drawn[0], drawn[-1]) == (0, 1_281_166)
    assert 60 <= len(drawn) <= 64
    assert drawn != _sample(1_281_167, 64, 1)
    assert _sample(5, 64, 0) == [0, 1, 2, 3, 4]


def test_two_sets_must_number_the_same_classes(tmp_path: Path) -> None:
    def opened(root: Path, split: str) -> object:
        return open_labelled(root, split=split, expected_classes=None, index_dir=tmp_path / "index")

    root = make_tree(make_tree(tmp_path / "set"), "val")
    train, tars = opened(root, "train"), opened(make_tars(tmp_path / "tars"), "train")
    check_same_classes(train, opened(root, "val"), where="--val")  # type: ignore[arg-type]
    check_same_classes(train, tars, where="--val")  # type: ignore[arg-type]
    (root / "val" / CLASSES[1]).rename(root / "val" / "n01999999")
    with pytest.raises(DataError, match=f"class 1 is 'n01999999', and '{CLASSES[1]}' among"):
        check_same_classes(train, opened(root, "val"), where="--val")  # type: ignore[arg-type]
    shutil.rmtree(root / "val" / "n01999999")
    with pytest.raises(DataError, match=f"2 classes, and the training pictures have 3; missing: {CLASSES[1]}"):
        check_same_classes(train, opened(root, "val"), where="--val")  # type: ignore[arg-type]


def test_labels_cannot_be_changed(tmp_path: Path) -> None:
    source = open_labelled(make_tree(tmp_path / "set"), split="train", expected_classes=3)
    assert source.labels.dtype == np.int64
    with pytest.raises(ValueError, match="read-only"):
        source.labels[0] = 1
