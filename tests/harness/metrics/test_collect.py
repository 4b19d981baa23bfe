"""From pictures to features: threads and batches change nothing, what was computed once is remembered."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ovbench._base.errors import DataError
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.collect import Collected, collect
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.image_sources import ImageSource

from .picture_sets import pictures, toy_extractor, toy_rows, write_folder

IMAGES = pictures(50, 1)
KEEP = ("pool", "logits")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "pictures", IMAGES)


def run(
    folder: Path,
    extractor: Extractor,
    tmp_path: Path,
    *,
    cache: FeatureCache | None = None,
    batch_size: int | None = None,
) -> Collected:
    return collect(
        ImageSource(folder), extractor, keep=KEEP, folder=tmp_path / "scratch", cache=cache, batch_size=batch_size
    )


def remembering(tmp_path: Path, *, max_bytes: int = 2**26) -> FeatureCache:
    return FeatureCache(tmp_path / FOLDER, max_bytes=max_bytes)


@pytest.mark.parametrize("batch_size", [None, 1, 7, 50, 64])
def test_rows_are_the_extractors_in_the_order_of_the_source(
    folder: Path, tmp_path: Path, batch_size: int | None
) -> None:
    found = run(folder, toy_extractor(), tmp_path, batch_size=batch_size)
    wanted = toy_rows(IMAGES)
    for layer in KEEP:
        np.testing.assert_array_equal(found.features.rows[layer], wanted[layer])
    assert found.num_computed == 50
    assert found.names[:2] == ("00000.png", "00001.png")
    assert found.keys == found.names


def test_progress_ends_at_the_end(folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    collect(
        ImageSource(folder),
        toy_extractor(),
        keep=KEEP,
        folder=tmp_path,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen[-1] == (50, 50)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_the_number_of_threads_is_what_it_was(folder: Path, tmp_path: Path) -> None:
    before = torch.get_num_threads()
    run(folder, toy_extractor(), tmp_path)
    assert torch.get_num_threads() == before


def test_the_second_time_nothing_is_computed(folder: Path, tmp_path: Path) -> None:
    first = run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    calls: list[int] = []
    again = run(folder, toy_extractor(calls=calls), tmp_path, cache=remembering(tmp_path))
    assert (again.num_computed, calls) == (0, [])
    np.testing.assert_array_equal(again.features.rows["pool"], first.features.rows["pool"])


def test_another_extractor_has_rows_of_its_own(folder: Path, tmp_path: Path) -> None:
    run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    found = run(folder, toy_extractor(scale=2.0), tmp_path, cache=remembering(tmp_path))
    assert found.num_computed == 50
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES, scale=2.0)["pool"])


def test_a_changed_picture_is_computed_again_and_no_other(folder: Path, tmp_path: Path) -> None:
    run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    changed = IMAGES.copy()
    changed[11] = 255 - changed[11]
    other = write_folder(tmp_path / "changed", changed)
    found = run(other, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    assert found.num_computed == 1
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(changed)["pool"])


def test_an_interrupted_set_goes_on_where_it_stopped(folder: Path, tmp_path: Path) -> None:
    calls: list[int] = []
    working = toy_extractor(calls=calls)

    def breaks(images: torch.Tensor) -> object:
        if sum(calls) >= 24:
            raise KeyboardInterrupt
        return working.run(images)

    broken = Extractor(info=working.info, device=working.device, run=breaks)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        run(folder, broken, tmp_path, cache=remembering(tmp_path), batch_size=8)
    found = run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path), batch_size=8)
    assert 0 < found.num_computed < 50
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES)["pool"])


def test_a_damaged_shard_is_computed_again(folder: Path, tmp_path: Path) -> None:
    run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    for shard in (tmp_path / FOLDER).rglob("shard-*.safetensors"):
        shard.write_bytes(shard.read_bytes()[:-1])
    found = run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    assert found.num_computed == 50
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES)["pool"])


def test_without_room_the_scores_come_all_the_same(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path, max_bytes=20_000))
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES)["pool"])
    assert "not remembered from here on" in caplog.text


def test_pictures_that_are_left_out_leave_no_gap(folder: Path, tmp_path: Path) -> None:
    (folder / "00003.png").write_bytes(b"no picture")
    source = ImageSource(folder, skip_bad=1)
    found = collect(source, toy_extractor(), keep=KEEP, folder=tmp_path / "scratch", batch_size=8)
    assert (found.features.count, len(found.names)) == (49, 49)
    np.testing.assert_array_equal(found.features.rows["pool"], np.delete(toy_rows(IMAGES)["pool"], 3, axis=0))
    assert [entry.name for entry in source.report.bad] == ["00003.png"]


def test_features_that_are_not_finite_are_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="NaN or infinity"):
        run(folder, toy_extractor(scale=float("inf")), tmp_path)


def test_every_pass_takes_as_many_pictures_whatever_is_cached_already(folder: Path, tmp_path: Path) -> None:
    run(write_folder(tmp_path / "some", IMAGES[::3]), toy_extractor(), tmp_path, cache=remembering(tmp_path))
    calls: list[int] = []
    found = run(folder, toy_extractor(calls=calls), tmp_path, cache=remembering(tmp_path), batch_size=8)
    assert found.num_computed == 50 - 17
    assert set(calls) == {8}
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES)["pool"])


def test_another_version_of_the_code_finds_nothing_old(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path))
    monkeypatch.setattr("ovbench.harness.metrics.extractor_base.EXTRACTION_VERSION", 2)
    assert run(folder, toy_extractor(), tmp_path, cache=remembering(tmp_path)).num_computed == 50


def test_a_network_that_cannot_run_side_by_side_runs_one_pass_at_a_time(folder: Path, tmp_path: Path) -> None:
    busy, plain = threading.Lock(), toy_extractor()

    def alone(images: torch.Tensor) -> object:
        assert busy.acquire(blocking=False), "two passes at once"
        try:
            time.sleep(0.01)
            return plain.run(images)
        finally:
            busy.release()

    single = Extractor(info=plain.info, device=plain.device, run=alone, concurrent=False)  # type: ignore[arg-type]
    found = run(folder, single, tmp_path, batch_size=4)
    np.testing.assert_array_equal(found.features.rows["pool"], toy_rows(IMAGES)["pool"])
