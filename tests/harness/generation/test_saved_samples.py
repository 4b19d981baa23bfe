from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.saved_samples import save_samples

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([2, 0, 1])
CARD = {"format": 1, "samples": "k" * 64}


def test_pngs_are_named_by_number_and_their_classes_are_in_a_table(tmp_path: Path) -> None:
    save_samples(tmp_path / "s", [IMAGES[:2], IMAGES[2:]], LABELS, "png", CARD)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == [
        "000000.png", "000001.png", "000002.png", "labels.csv", "samples.json",
    ]  # fmt: skip
    for number, image in enumerate(IMAGES):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "s" / f"{number:06d}.png")), image)
    assert (tmp_path / "s" / "labels.csv").read_text() == "index,label\n0,2\n1,0\n2,1\n"


def test_the_archive_has_the_arrays_of_adms_files(tmp_path: Path) -> None:
    save_samples(tmp_path / "s", [IMAGES[:2], IMAGES[2:]], LABELS, "npz", CARD)
    with np.load(tmp_path / "s" / "samples.npz", allow_pickle=False) as arrays:
        assert list(arrays) == ["arr_0", "arr_1"]
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
        assert arrays["arr_1"].dtype == np.int64
        assert arrays["arr_1"].tolist() == [2, 0, 1]


def test_nothing_that_appeared_meanwhile_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        save_samples(tmp_path / "s", [IMAGES[:2], IMAGES[2:]], LABELS, "png", CARD)
    assert [path.name for path in (tmp_path / "s").iterdir()] == ["mine.txt"]


def test_the_same_samples_are_left_as_they_are_and_leftovers_of_killed_runs_go(tmp_path: Path) -> None:
    left = tmp_path / ".s.ab12_x9z.tmp"
    left.mkdir()
    save_samples(tmp_path / "s", [IMAGES], LABELS, "png", CARD)
    assert not left.exists()
    before = (tmp_path / "s" / "000000.png").stat().st_mtime_ns

    def never() -> Any:
        raise AssertionError("read again")
        yield

    save_samples(tmp_path / "s", never(), LABELS, "png", CARD)
    assert (tmp_path / "s" / "000000.png").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="holds other samples"):
        save_samples(tmp_path / "s", [IMAGES], LABELS, "png", {**CARD, "samples": "l" * 64})


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, count = Image.Image.save, 0

    def second_fails(self: Image.Image, *words: Any, **settings: Any) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, *words, **settings)

    monkeypatch.setattr(Image.Image, "save", second_fails)
    with pytest.raises(ConfigError, match="no space left") as error:
        save_samples(tmp_path / "s", [IMAGES[:2], IMAGES[2:]], LABELS, "png", CARD)
    assert error.value.fix
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("save_format", ["png", "npz"])
def test_another_number_of_pictures_than_classes_is_refused(tmp_path: Path, save_format: Any) -> None:
    with pytest.raises(DataError, match="3 pictures have 2 classes"):
        save_samples(tmp_path / "s", [IMAGES], LABELS[:2], save_format, CARD)
    assert not (tmp_path / "s").exists()
