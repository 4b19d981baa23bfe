"""References are made once, found again by what their files are, made again when damaged, and bounded in size."""

from __future__ import annotations

import fcntl
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ovbench._base.errors import DataError
from ovbench.harness.cache_command import cache_rows
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics import references
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.manifold import squared_radii, tile_size
from ovbench.harness.metrics.reference_cache import FOLDER as REFERENCES
from ovbench.harness.metrics.reference_cache import FoundReference, ReferenceStore, reference_of

from .picture_sets import pictures, toy_extractor, toy_rows, write_folder

IMAGES = pictures(30, 2)
Ask = Callable[..., FoundReference]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "real", IMAGES)


@pytest.fixture
def ask(tmp_path: Path) -> Ask:
    def ask(
        path: Path,
        extractor: Extractor | None = None,
        *,
        max_bytes: int = 2**26,
        cached: bool = True,
        **options: object,
    ) -> FoundReference:
        cache = FeatureCache(tmp_path / FOLDER, max_bytes=max_bytes) if cached else None
        return reference_of(ImageSource(path), extractor or toy_extractor(), cache_folder=tmp_path, cache=cache,
                            **({"purpose": "generation"} | options))  # type: ignore[arg-type]  # fmt: skip

    return ask


def test_a_reference_says_what_it_is_of(folder: Path, ask: Ask) -> None:
    found = ask(folder, split="train").reference
    assert (found.name, found.n, found.purpose, found.split) == ("real", 30, "generation", "train")
    assert (found.extractor, found.resize, found.quantise, found.crop) == ("toy", "none", "stored", "none")
    assert found.source_sha256 is not None
    np.testing.assert_array_equal(found.features, toy_rows(IMAGES)["pool"])
    for layer, stats in (("pool", found.pool), ("spatial", found.spatial)):
        assert stats is not None
        np.testing.assert_allclose(
            stats.sigma, np.cov(toy_rows(IMAGES)[layer].astype(np.float64), rowvar=False), atol=1e-12
        )


def test_the_second_time_no_picture_is_opened(folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ask(folder)
    assert (first.cached, first.num_computed) == (False, 30)

    def refuse(*_: object) -> object:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(ImageSource, "batches", refuse)
    again = ask(folder)
    assert (again.cached, again.num_computed) == (True, 0)
    np.testing.assert_array_equal(again.reference.pool.sigma, first.reference.pool.sigma)
    np.testing.assert_array_equal(again.reference.features, first.reference.features)
    assert again.reference.source_sha256 == first.reference.source_sha256


def test_without_a_cache_nothing_is_kept(folder: Path, ask: Ask, tmp_path: Path) -> None:
    assert not ask(folder, cached=False).cached
    assert not ask(folder, cached=False).cached
    assert not (tmp_path / REFERENCES).exists()


def test_a_changed_file_is_noticed_even_with_its_old_size_and_time(tmp_path: Path, ask: Ask) -> None:
    folder = tmp_path / "bmp"
    folder.mkdir()
    from PIL import Image

    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{index}.bmp")
        os.utime(folder / f"{index}.bmp", (0, 0))
    first = ask(folder).reference
    Image.fromarray(255 - IMAGES[4]).save(folder / "4.bmp")
    os.utime(folder / "4.bmp", (0, 0))
    found = ask(folder)
    assert not found.cached
    assert found.num_computed == 1
    assert found.reference.source_sha256 != first.source_sha256


def test_another_extractor_or_purpose_is_another_reference(folder: Path, ask: Ask) -> None:
    ask(folder)
    assert not ask(folder, toy_extractor(scale=2.0)).cached
    assert ask(folder, purpose="reconstruction").reference.purpose == "reconstruction"
    assert ask(folder).reference.purpose == "generation"


def test_radii_are_kept_and_belong_to_a_tile(folder: Path, ask: Ask) -> None:
    rows = toy_rows(IMAGES)["pool"]
    assert ask(folder).reference.radii_k3 is None
    tile = tile_size(30, 300)
    found = ask(folder, tile=lambda count: tile_size(count, 300)).reference
    assert found.radii_tile == tile
    np.testing.assert_array_equal(found.radii_k3, squared_radii(rows, tile=tile))
    again = ask(folder, tile=lambda count: tile_size(count, 300))
    assert again.cached
    np.testing.assert_array_equal(again.reference.radii_k3, found.radii_k3)


@pytest.mark.parametrize("damage", ["statistics", "features", "no features"])
def test_a_damaged_reference_is_made_again(
    folder: Path, ask: Ask, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = ask(folder).reference
    (statistics,) = (tmp_path / REFERENCES).glob("*/statistics.npz")
    features = statistics.with_suffix(".features.npy")
    match damage:
        case "statistics":
            statistics.write_bytes(statistics.read_bytes()[:200])
        case "features":
            data = bytearray(features.read_bytes())
            data[-1] ^= 1
            features.write_bytes(bytes(data))
        case "no features":
            features.unlink()
    found = ask(folder)
    assert not found.cached
    assert "is damaged and is made again" in caplog.text
    np.testing.assert_array_equal(found.reference.features, first.features)
    assert ask(folder).cached


def test_notes_of_the_pictures_are_kept(tmp_path: Path, ask: Ask) -> None:
    images = IMAGES.copy()
    images[5] = images[2]
    folder = write_folder(tmp_path / "twice", images)
    (note,) = ask(folder).reference.notes
    assert "1 pictures repeat others, first '00005.png' = '00002.png'" in note
    assert ask(folder).reference.notes == (note,)


def test_the_least_recently_used_goes_first(tmp_path: Path, ask: Ask) -> None:
    folders = [write_folder(tmp_path / f"real{index}", pictures(30, index)) for index in range(3)]
    for folder in folders[:2]:
        ask(folder)
    store = ReferenceStore(tmp_path / REFERENCES, max_bytes=0)
    oldest, newest = store.all_keys()
    os.utime(store.path(oldest), (10, 10))
    os.utime(store.path(newest), (20, 20))
    assert ask(folders[0]).cached  # which makes it the newest
    assert store.all_keys() == [newest, oldest]
    room = ReferenceStore(tmp_path / REFERENCES, max_bytes=store.size_bytes(oldest))
    assert room.collect() > 0
    assert room.all_keys() == [oldest]


def test_the_cache_command_shows_verifies_and_removes_references(
    folder: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(folder)
    row = next(row for row in cache_rows("ls", tmp_path) if row["view"].startswith("reference"))
    assert (row["encoder"], row["view"], row["images"], row["in_use"]) == ("toy", "reference real", 30, False)
    assert row["bytes"] > 1000
    assert cache_rows("verify", tmp_path)[-1]["state"] == "2 sound, 0 damaged"
    (statistics,) = (tmp_path / REFERENCES).glob("*/statistics.npz")
    statistics.write_bytes(b"PK")
    damaged, total = cache_rows("verify", tmp_path)
    assert damaged["shard"].startswith("references/")
    assert total["state"] == "1 sound, 1 damaged"
    assert not statistics.exists()
    ask(folder)
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", "0")
    assert cache_rows("gc", tmp_path)[1]["freed_bytes"] > 1000
    assert cache_rows("ls", tmp_path) == []


def test_one_picture_is_no_reference(tmp_path: Path, ask: Ask) -> None:
    with pytest.raises(DataError, match="at least 2 rows"):
        ask(write_folder(tmp_path / "one", IMAGES[:1]))
    assert not list((tmp_path / REFERENCES).glob("*/*.npz"))


def test_what_a_killed_process_left_is_removed(folder: Path, ask: Ask, tmp_path: Path) -> None:
    ask(folder)
    store = ReferenceStore(tmp_path / REFERENCES, max_bytes=2**26)
    (key,) = store.all_keys()
    (store.root / key / ".statistics.npz.x.tmp").write_bytes(bytes(1000))
    orphan = store.root / "orphan"
    orphan.mkdir()
    (orphan / "statistics.features.npy").write_bytes(bytes(5000))
    assert store.collect() >= 6000
    assert not orphan.exists()
    assert not list(store.root.rglob("*.tmp"))
    assert ask(folder).cached


def test_a_reference_in_use_is_not_removed(folder: Path, ask: Ask, tmp_path: Path) -> None:
    ask(folder)
    store = ReferenceStore(tmp_path / REFERENCES, max_bytes=0)
    (key,) = store.all_keys()
    with store.locked(key):
        assert store.collect() == 0
        assert store.all_keys() == [key]
    assert store.collect() > 0
    assert store.all_keys() == []


def test_an_entry_that_vanishes_meanwhile_is_no_error(tmp_path: Path) -> None:
    store = ReferenceStore(tmp_path, max_bytes=0)
    assert store.size_bytes("gone") == 0
    assert store.used("gone") == 0.0
    store.remove("gone")


def test_cold_and_cached_say_the_same_of_the_pictures(folder: Path, ask: Ask) -> None:
    first, again = ask(folder).reference, ask(folder).reference
    assert first.size_px == again.size_px == (16, 16)
    assert first.num_distinct == again.num_distinct == 30
    assert first.left_out == again.left_out == ()


def test_empty_folders_are_removed_and_a_folder_in_use_is_not(folder: Path, ask: Ask, tmp_path: Path) -> None:
    ask(folder)
    store = ReferenceStore(tmp_path / REFERENCES, max_bytes=2**26)
    (key,) = store.all_keys()
    for name in ("empty", "making"):
        (store.root / name).mkdir()
    left = store.root / "making" / "statistics.features.npy"
    with store.locked("making"):
        left.write_bytes(bytes(3000))
        assert store.collect() == 0
        assert left.is_file()
        assert store.total_bytes() == store.size_bytes(key) + 3000
    assert sorted(path.name for path in store.root.iterdir()) == sorted([key, "making"])
    assert store.collect() == 3000
    assert [path.name for path in store.root.iterdir()] == [key]


def test_what_is_being_made_counts_for_the_bound(folder: Path, ask: Ask, tmp_path: Path) -> None:
    ask(folder)
    store = ReferenceStore(tmp_path / REFERENCES, max_bytes=2**26)
    store.max_bytes = store.total_bytes() + 100
    assert store.collect() == 0
    with store.locked("making"):
        (store.root / "making" / "statistics.features.npy").write_bytes(bytes(101))
        assert store.collect() > 1000
    assert store.all_keys() == []


def test_leftovers_beside_the_reference_that_is_written_again_go(folder: Path, ask: Ask, tmp_path: Path) -> None:
    ask(folder)
    (statistics,) = (tmp_path / REFERENCES).glob("*/statistics.npz")
    left = statistics.with_name(".statistics.npz.x.tmp")
    left.write_bytes(bytes(10))
    ask(folder, tile=lambda count: tile_size(count, 300))
    assert not left.exists()
    assert ask(folder).cached


def test_asking_whether_a_removed_reference_is_in_use_does_not_make_its_folder(tmp_path: Path) -> None:
    assert not ReferenceStore(tmp_path, max_bytes=0).in_use("gone")
    assert not list(tmp_path.iterdir())


def test_a_lock_that_was_removed_while_one_waited_for_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReferenceStore(tmp_path, max_bytes=0)
    waits, has_it, may_go = threading.Event(), threading.Event(), threading.Event()
    flock = fcntl.flock

    def wait_for_it() -> None:
        with store.locked("key"):
            has_it.set()
            may_go.wait(10)

    def announced(handle: int, flags: int) -> None:
        if threading.current_thread() is other:
            waits.set()
        flock(handle, flags)

    other = threading.Thread(target=wait_for_it)
    monkeypatch.setattr("fcntl.flock", announced)
    with store.locked("key"):
        other.start()
        assert waits.wait(10)
        shutil.rmtree(tmp_path / "key")
    try:
        assert has_it.wait(10)
        assert store.in_use("key")
    finally:
        may_go.set()
        other.join(10)
    assert not store.in_use("key")


def test_the_cache_command_leaves_out_what_vanishes_meanwhile(
    folder: Path, ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(folder)
    keys = ReferenceStore.all_keys
    monkeypatch.setattr(ReferenceStore, "all_keys", lambda store: [*keys(store), "gone"])
    assert [row["view"] for row in cache_rows("ls", tmp_path) if row["dtype"] == "float64"] == ["reference real"]
    assert cache_rows("verify", tmp_path) == [{"shard": "all", "state": "2 sound, 0 damaged"}]


def test_statistics_are_checked_once_when_they_come_from_the_cache(
    folder: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(folder)
    checked: list[str] = []
    monkeypatch.setattr(references, "check_gaussian", lambda _, *, where: checked.append(where))
    assert ask(folder).cached
    assert checked == ["real: mu, sigma", "real: mu_s, sigma_s"]


def test_pictures_without_variance_are_no_reference(tmp_path: Path, ask: Ask) -> None:
    same = write_folder(tmp_path / "same", np.repeat(IMAGES[:1], 5, axis=0))
    for cached in (True, False):
        with pytest.raises(DataError, match="no variance"):
            ask(same, cached=cached)
