"""Scores of pairs: right pictures with right pictures, or an error that says which are no pair."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ovbench._base.errors import OvbenchError
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.jackknife import image_mean_interval
from ovbench.harness.metrics.pair_scores import PairScores, measures_of, score_pairs
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
