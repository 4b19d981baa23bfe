"""Scores of pairs: right pictures with right pictures, or an error that says which are no pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.jackknife import image_mean_interval
from ovbench.harness.metrics.pair_scores import (
    BY_ORDER,
    PairScores,
    check_can_pair,
    check_pairing,
    measures_of,
    score_pairs,
)
from ovbench.harness.metrics.reconstruction import psnr, ssim

from .picture_sets import pictures, write_folder

ORIGINALS = pictures(20, 6, side=24)
BACK = (
    (ORIGINALS.astype(int) + np.random.default_rng(0).integers(-9, 10, ORIGINALS.shape)).clip(0, 255).astype(np.uint8)
)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_folder(tmp_path / "originals", ORIGINALS), write_folder(tmp_path / "back", BACK)


def score(first: Path, second: Path, metrics: tuple[str, ...] = ("psnr", "ssim"), skip_bad: int = 0) -> PairScores:
    measures = measures_of(metrics, lpips_weights="random", device="cpu")
    return score_pairs(ImageSource(first, skip_bad=skip_bad), ImageSource(second, skip_bad=skip_bad), measures)


def test_values_are_those_of_the_plain_functions(folders: tuple[Path, Path]) -> None:
    found = score(*folders)
    np.testing.assert_allclose(found.values["psnr"], psnr(ORIGINALS, BACK), atol=1e-12)
    np.testing.assert_allclose(found.values["ssim"], ssim(ORIGINALS, BACK), atol=1e-12)
    by_name = {entry.metric: entry.score for entry in found.scores}
    assert by_name["psnr"].value == pytest.approx(float(psnr(ORIGINALS, BACK).mean()))
    wanted = image_mean_interval(psnr(ORIGINALS, BACK), label="psnr")
    assert by_name["psnr"].interval.low == pytest.approx(wanted.low)
    assert (by_name["psnr"].spec.unit, by_name["psnr"].spec.higher_is_better) == ("dB", True)


def test_an_untrained_lpips_has_a_name_of_its_own(folders: tuple[Path, Path]) -> None:
    (entry,) = score(*folders, ("lpips",)).scores
    assert entry.score.spec.name == "LPIPS-untrained"
    assert entry.score.value is not None
    assert entry.score.value > 0


def test_equal_pictures_are_a_hundred_db_apart(folders: tuple[Path, Path]) -> None:
    found = {entry.metric: entry.score.value for entry in score(folders[0], folders[0]).scores}
    assert found == {"psnr": pytest.approx(100.0), "ssim": pytest.approx(1.0)}


def test_an_npz_is_paired_by_order_and_says_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "back.npz", BACK)
    found = score(folders[0], tmp_path / "back.npz")
    np.testing.assert_allclose(found.values["psnr"], psnr(ORIGINALS, BACK), atol=1e-12)
    assert "by order" in found.warnings[0]


def test_endings_may_differ(folders: tuple[Path, Path]) -> None:
    for path in folders[1].iterdir():
        path.rename(path.with_suffix(".PNG"))
    np.testing.assert_allclose(score(*folders).values["psnr"], psnr(ORIGINALS, BACK), atol=1e-12)


def _rename(first: Path, second: Path) -> None:
    (second / "00004.png").rename(second / "00004b.png")


def _remove(first: Path, second: Path) -> None:
    (second / "00004.png").unlink()


def _shrink(first: Path, second: Path) -> None:
    for path in second.iterdir():
        path.unlink()
    second.rmdir()
    write_folder(second, pictures(20, 6, side=20))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_rename, "'00004.png' and '00004b.png' are no pair"),
        (_remove, "20 originals and 19 reconstructions are no pairs"),
        (_shrink, "the originals are 24×24 pixels and the reconstructions 20×20"),
    ],
)
def test_what_are_no_pairs_is_refused(
    folders: tuple[Path, Path], change: Callable[[Path, Path], None], message: str
) -> None:
    change(*folders)
    with pytest.raises(OvbenchError, match=message) as caught:
        score(*folders)
    assert caught.value.fix


def test_a_damaged_picture_breaks_no_other_pair(folders: tuple[Path, Path]) -> None:
    (folders[1] / "00019.png").write_bytes(b"no picture")
    with pytest.raises(OvbenchError, match="more usable pictures than the other"):
        score(*folders, skip_bad=1)
    (folders[1] / "00004.png").write_bytes(b"no picture")
    with pytest.raises(OvbenchError, match="'00004.png' and '00005.png' are no pair"):
        score(*folders, skip_bad=2)


def test_pictures_without_names_are_never_left_out(folders: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "back.npz", BACK)
    with pytest.raises(OvbenchError, match="would shift all later pairs"):
        score(folders[0], tmp_path / "back.npz", skip_bad=1)


# --- parquet: rows are named by the paths they hold, never by their place ---------------------------------------------

NAMES = [f"{index:05d}.png" for index in range(len(ORIGINALS))]
SWAPPED = [1, 0, *range(2, len(ORIGINALS))]


def write_parquet(path: Path, images: np.ndarray, names: Sequence[str] | None) -> Path:
    data = []
    for image in images:
        stream = BytesIO()
        Image.fromarray(image).save(stream, "PNG")
        data.append(stream.getvalue())
    rows = data if names is None else [{"bytes": one, "path": name} for one, name in zip(data, names, strict=True)]
    pq.write_table(pa.table({"image": rows}), path)
    return path


def test_rows_of_parquet_are_paired_by_their_paths(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "val.parquet", ORIGINALS, NAMES)
    second = write_parquet(tmp_path / "back.parquet", BACK, [name.replace("png", "JPEG") for name in NAMES])
    found = score(first, second, skip_bad=1)
    np.testing.assert_allclose(found.values["psnr"], psnr(ORIGINALS, BACK), atol=1e-12)
    assert found.warnings == ()


@pytest.mark.parametrize("kind", ["parquet", "folder"])
def test_rows_of_parquet_in_another_order_are_no_pairs(tmp_path: Path, kind: str) -> None:
    # Files of one name on both sides: the place of a row is no name of it.
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    second = write_parquet(tmp_path / "other" / "val.parquet", BACK[SWAPPED], [NAMES[index] for index in SWAPPED])
    if kind == "parquet":
        first = write_parquet(tmp_path / "one" / "val.parquet", ORIGINALS, NAMES)
    else:
        first = write_folder(tmp_path / "originals", ORIGINALS)
    with pytest.raises(DataError, match=r"'00000.png' and '00001.png' are no pair: their names differ") as caught:
        score(first, second)
    assert caught.value.where == f"{first}, {second}"


def test_a_folder_and_a_parquet_are_paired_by_their_paths(folders: tuple[Path, Path], tmp_path: Path) -> None:
    second = write_parquet(tmp_path / "back.parquet", BACK, NAMES)
    found = score(folders[0], second, skip_bad=1)
    np.testing.assert_allclose(found.values["psnr"], psnr(ORIGINALS, BACK), atol=1e-12)
    assert found.warnings == ()


@pytest.mark.parametrize("paths", [None, ["image.png"] * len(ORIGINALS)], ids=["without paths", "with one path"])
def test_rows_without_paths_of_their_own_are_paired_by_order_and_say_so(
    folders: tuple[Path, Path], tmp_path: Path, paths: Sequence[str] | None
) -> None:
    back = write_parquet(tmp_path / "back.parquet", BACK, paths)
    for first in (folders[0], write_parquet(tmp_path / "val.parquet", ORIGINALS, paths)):
        found = score(first, back)
        np.testing.assert_allclose(found.values["psnr"], psnr(ORIGINALS, BACK), atol=1e-12)
        assert found.warnings == (BY_ORDER,)
        with pytest.raises(ConfigError, match=r"the pictures of '\w+.parquet' have no names, .* shift all later pairs"):
            score(first, back, skip_bad=1)


def test_a_row_that_is_left_out_on_one_side_is_found_by_the_paths(tmp_path: Path) -> None:
    first = write_parquet(tmp_path / "val.parquet", ORIGINALS, NAMES)
    odd = ORIGINALS[4:5, :20, :20]  # of another size
    second, tables = tmp_path / "back.parquet", []
    for images, names in ((BACK[:4], NAMES[:4]), (odd, NAMES[4:5]), (BACK[5:], NAMES[5:])):
        tables.append(pq.read_table(write_parquet(tmp_path / "part", images, names)))
    pq.write_table(pa.concat_tables(tables), second)
    with pytest.raises(DataError, match=r"'00004.png' and '00005.png' are no pair"):
        score(first, second, skip_bad=1)


def test_keys_are_compared_up_to_the_ending_of_a_picture_file() -> None:
    assert check_pairing(["a/1.png", "v0.5"], ["a/1.JPEG", "v0.5.webp"], "here") == []
    with pytest.raises(DataError, match=r"'v0.5' and 'v0.7' are no pair"):
        check_pairing(["v0.5"], ["v0.7"], "here")
    with pytest.raises(DataError, match=r"'a/1.png' and 'b/1.png' are no pair"):
        check_pairing(["a/1.png"], ["b/1.png"], "here")


def test_the_first_two_that_are_no_pair_are_named() -> None:
    with pytest.raises(DataError, match=r"'2' and '3' are no pair") as caught:
        check_pairing(["1", "2", "3"], ["1", "3"], "here")
    assert (caught.value.where, caught.value.fix) == ("here", "give both pictures of a pair the same name")
    with pytest.raises(DataError, match="one side has more usable pictures than the other"):
        check_pairing(["1", "2"], ["1"], "here")


@pytest.mark.parametrize(("first", "second"), [([None, None], ["1", "2"]), (["1", "2"], [None, None])])
def test_without_keys_the_order_is_all_there_is(first: list[str | None], second: list[str | None]) -> None:
    assert check_pairing(first, second, "here") == [BY_ORDER]
    with pytest.raises(DataError, match="one side has more usable pictures"):
        check_pairing(first, second[:1], "here")


def test_only_sources_with_keys_may_lose_pictures(folders: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "back.npz", BACK)
    named, nameless = ImageSource(folders[0], skip_bad=1), ImageSource(tmp_path / "back.npz")
    check_can_pair(named, named)
    check_can_pair(nameless, nameless)
    for pair in ((named, nameless), (nameless, named)):
        with pytest.raises(ConfigError, match="the pictures of 'back.npz' have no names") as caught:
            check_can_pair(*pair)
        assert caught.value.where == "--skip-bad"
