"""The cache of crops: bit-equal to the reference, whole or not at all, and healed where it is damaged."""

from __future__ import annotations

import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import folder_lock
from ovbench.harness.generation import crop_cache
from ovbench.harness.generation.crop_cache import MANIFEST, CropCache, centre_crop_u8
from ovbench.harness.generation.imagenet_sources import LabelledSource, open_labelled
from tests.harness.generation.imagenet_tree import CLASSES, jpeg, make_tree

SIDE = 16


def reference_crop(number: int, side: int = SIDE) -> np.ndarray:
    """Guided diffusion's centre crop, written down once more: on the array, as the original cuts it."""
    picture = Image.open(io.BytesIO(jpeg(number))).convert("RGB")
    while min(*picture.size) >= 2 * side:
        picture = picture.resize((picture.size[0] // 2, picture.size[1] // 2), resample=Image.Resampling.BOX)
    scale = side / min(*picture.size)
    size = (round(picture.size[0] * scale), round(picture.size[1] * scale))
    pixels = np.array(picture.resize(size, resample=Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    return pixels[top : top + side, left : left + side]


EXPECTED = np.stack([reference_crop(number) for number in range(12)])


@pytest.fixture
def source(tmp_path: Path) -> LabelledSource:
    return open_labelled(make_tree(tmp_path / "set"), split="train", expected_classes=3)


def cache_of(source: LabelledSource, folder: Path, threads: int = 2) -> CropCache:
    return CropCache(folder, source, side_px=SIDE, shard_pictures=5, threads=threads)


def shards(cache: CropCache) -> list[Path]:
    return sorted(cache.folder.glob("crops-*.u8"))


def test_one_crop_equals_the_reference(source: LabelledSource) -> None:
    for number in range(12):
        np.testing.assert_array_equal(centre_crop_u8(source, number, SIDE), EXPECTED[number])


@pytest.mark.parametrize("threads", [1, 3])
def test_the_cache_equals_the_reference(source: LabelledSource, tmp_path: Path, threads: int) -> None:
    cache = cache_of(source, tmp_path / "cache", threads)
    cache.fill()
    np.testing.assert_array_equal(cache.read(range(12)), EXPECTED)
    np.testing.assert_array_equal(cache.read([11, 0, 11]), EXPECTED[[11, 0, 11]])
    assert cache.read([]).shape == (0, SIDE, SIDE, 3)
    assert [path.name for path in shards(cache)] == ["crops-00000.u8", "crops-00001.u8", "crops-00002.u8"]
    assert sum(path.stat().st_size for path in shards(cache)) == cache.num_bytes == 12 * (SIDE * SIDE * 3 + 4)


def test_shards_do_not_depend_on_the_threads(source: LabelledSource, tmp_path: Path) -> None:
    files = []
    for threads in (1, 4):
        cache = cache_of(source, tmp_path / str(threads), threads)
        cache.fill()
        files.append([path.read_bytes() for path in shards(cache)])
    assert files[0] == files[1]


def test_a_full_cache_decodes_nothing(source: LabelledSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache_of(source, tmp_path / "cache").fill()
    monkeypatch.setattr(source, "read_bytes", lambda index: pytest.fail("a picture was read"))
    again = cache_of(source, tmp_path / "cache")
    again.fill()
    assert again.missing() == []
    np.testing.assert_array_equal(again.read(range(12)), EXPECTED)


def test_another_source_side_or_shard_size_is_another_folder(source: LabelledSource, tmp_path: Path) -> None:
    (tmp_path / "set" / "train" / CLASSES[0] / "more.JPEG").write_bytes(jpeg(0))
    more = open_labelled(tmp_path / "set", split="train", expected_classes=3)
    caches = [
        CropCache(tmp_path / "cache", of, side_px=side, shard_pictures=size)
        for of, side, size in ((source, 16, 5), (more, 16, 5), (source, 8, 5), (source, 16, 6))
    ]
    assert len({cache.folder for cache in caches}) == 4


# --- kills and several writers ----------------------------------------------------------------------------------------

_CHILD = """
import sys, time
from pathlib import Path
from ovbench.harness.generation.crop_cache import CropCache
from ovbench.harness.generation.imagenet_sources import open_labelled
source = open_labelled(sys.argv[1], split="train", expected_classes=3)
read = source.read
def slow(index):
    if index == 8:  # in the middle of the second shard
        print("at 8", flush=True)
        time.sleep(60)
    return read(index)
source.read = slow
CropCache(Path(sys.argv[2]), source, side_px=16, shard_pictures=5, threads=1).fill()
"""


def test_a_killed_process_leaves_whole_shards_and_the_next_goes_on(
    source: LabelledSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", _CHILD, str(tmp_path / "set"), str(tmp_path / "cache")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "at 8\n"
        child.send_signal(signal.SIGKILL)
    cache = cache_of(source, tmp_path / "cache")
    assert [path.name for path in shards(cache)] == ["crops-00000.u8"]
    assert len(list(cache.folder.glob(".crops-00001.u8.*.tmp"))) == 1
    read, numbers = source.read, []
    monkeypatch.setattr(source, "read", lambda index: numbers.append(index) or read(index))
    cache.fill()
    assert sorted(numbers) == list(range(5, 12))
    assert not list(cache.folder.glob(".*.tmp"))
    np.testing.assert_array_equal(cache.read(range(12)), EXPECTED)


def test_several_writers_cut_each_shard_once(source: LabelledSource, tmp_path: Path) -> None:
    cut: list[int] = []

    def fill(rank: int) -> None:
        cache_of(source, tmp_path / "cache").fill(
            rank=rank, num_ranks=3, on_shard=lambda shard, num_shards: cut.append(shard)
        )

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(fill, range(3)))
    assert sorted(cut) == [0, 1, 2]
    np.testing.assert_array_equal(cache_of(source, tmp_path / "cache").read(range(12)), EXPECTED)


def test_a_shard_that_another_process_holds_is_left_for_last(source: LabelledSource, tmp_path: Path) -> None:
    cache, cut = cache_of(source, tmp_path / "cache"), []
    lock = folder_lock(cache.folder / "locks" / "00000")
    lock.__enter__()

    def note(shard: int, num_shards: int) -> None:
        cut.append(shard)
        if len(cut) == 2:
            lock.__exit__(None, None, None)  # the holder died without a shard

    cache.fill(on_shard=note)
    assert cut == [1, 2, 0]
    assert cache.missing() == []


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.unlink()
    path.write_bytes(data)


@pytest.mark.parametrize("place", [2 * SIDE * SIDE * 3 + 100, 5 * SIDE * SIDE * 3 + 8])  # a pixel, a checksum
def test_a_damaged_shard_is_found_and_cut_again(
    source: LabelledSource, tmp_path: Path, place: int, caplog: pytest.LogCaptureFixture
) -> None:
    cache_of(source, tmp_path / "cache").fill()
    cache = cache_of(source, tmp_path / "cache")
    good = shards(cache)[1].read_bytes()
    flip(shards(cache)[1], place)
    assert cache.damaged() == [1]
    np.testing.assert_array_equal(cache.read([0, 7]), EXPECTED[[0, 7]])
    assert "crops-00001.u8 is damaged and is cut again" in caplog.text
    assert shards(cache)[1].read_bytes() == good
    assert cache.damaged() == []


def test_swapped_shards_are_found(source: LabelledSource, tmp_path: Path) -> None:
    cache = cache_of(source, tmp_path / "cache")
    cache.fill()
    shutil.copy(shards(cache)[0], cache.folder / "other")
    os.replace(cache.folder / "other", shards(cache)[1])
    assert cache.damaged() == [1]
    np.testing.assert_array_equal(cache.read([6]), EXPECTED[[6]])


def test_a_shard_of_another_size_or_a_missing_one_is_cut_again(source: LabelledSource, tmp_path: Path) -> None:
    cache_of(source, tmp_path / "cache").fill()
    cache = cache_of(source, tmp_path / "cache")
    os.truncate(shards(cache)[0], 100)
    shards(cache)[2].unlink()
    assert cache.missing() == cache.damaged() == [0, 2]
    np.testing.assert_array_equal(cache.read([11]), EXPECTED[[11]])
    cache.fill()
    np.testing.assert_array_equal(cache.read(range(12)), EXPECTED)


@pytest.mark.parametrize(("text", "what"), [("{", "cannot be read as JSON"), ("{}", "is of other crops")])
def test_a_manifest_that_cannot_be_believed_is_refused(
    source: LabelledSource, tmp_path: Path, text: str, what: str
) -> None:
    cache = cache_of(source, tmp_path / "cache")
    (cache.folder / MANIFEST).write_text(text)
    with pytest.raises(DataError, match=what) as caught:
        cache_of(source, tmp_path / "cache")
    assert f"remove the folder {cache.folder.name}" in caught.value.fix


def test_a_damaged_original_is_named_and_leaves_no_shard(source: LabelledSource, tmp_path: Path) -> None:
    file = tmp_path / "set" / "train" / CLASSES[1] / f"{CLASSES[1]}_06.JPEG"
    file.write_bytes(file.read_bytes()[:100])
    cache = cache_of(source, tmp_path / "cache")
    with pytest.raises(DataError) as caught:
        cache.fill()
    assert str(file) in caught.value.where
    assert [path.name for path in shards(cache)] == ["crops-00000.u8"]
    assert not list(cache.folder.glob(".*.tmp"))


# --- space -----------------------------------------------------------------------------------------------------------


def test_too_little_space_is_said_before_anything_is_cut(
    source: LabelledSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    cache = CropCache(tmp_path / "cache", source, side_px=SIDE, shard_pictures=5)
    monkeypatch.setattr(crop_cache.shutil, "disk_usage", lambda path: usage(10**9, 10**9, cache.num_bytes - 1))
    with pytest.raises(ConfigError, match=r"need 0\.0 MB more on disk \(12 pictures of 16×16×3 bytes") as caught:
        cache.fill()
    assert str(cache.folder) in caught.value.where
    assert not shards(cache)
    monkeypatch.setattr(crop_cache.shutil, "disk_usage", lambda path: usage(10**9, 10**9, cache.num_bytes))
    cache.fill()
    assert len(shards(cache)) == 3


def test_what_others_have_written_of_a_shard_is_not_asked_for_again(
    source: LabelledSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    cache = cache_of(source, tmp_path / "cache")
    partial = cache.folder / ".crops-00001.u8.abc.tmp"
    partial.write_bytes(bytes(1000))
    gone = cache.folder / ".crops-00002.u8.abc.tmp"  # became a shard after it was listed
    monkeypatch.setattr(cache, "_partial", lambda shard: [partial, gone] if shard == "*" else [])
    monkeypatch.setattr(crop_cache.shutil, "disk_usage", lambda path: usage(10**9, 10**9, cache.num_bytes - 1001))
    with pytest.raises(ConfigError, match="more on disk"):
        cache.fill()
    monkeypatch.setattr(crop_cache.shutil, "disk_usage", lambda path: usage(10**9, 10**9, cache.num_bytes - 1000))
    cache.fill()
    assert cache.missing() == []


def test_a_disk_that_becomes_full_keeps_finished_shards(
    source: LabelledSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = cache_of(source, tmp_path / "cache")
    checksum = crop_cache._checksum

    def full(data: bytes, index: int) -> int:
        if index == 7:
            raise OSError(errno.ENOSPC, "No space left on device")
        return checksum(data, index)

    with monkeypatch.context() as patch:
        patch.setattr(crop_cache, "_checksum", full)
        with pytest.raises(ConfigError, match="no space left on the device while writing 'crops-00001.u8'"):
            cache.fill()
    assert [path.name for path in shards(cache)] == ["crops-00000.u8"]
    assert not list(cache.folder.glob(".*.tmp"))
    cache.fill()
    np.testing.assert_array_equal(cache.read(range(12)), EXPECTED)


def test_settings_that_cannot_be_used_are_refused(source: LabelledSource, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="1 or more, got 0"):
        CropCache(tmp_path, source, side_px=0)
    cache = cache_of(source, tmp_path / "cache")
    with pytest.raises(ConfigError, match="rank 2 of 2"):
        cache.fill(rank=2, num_ranks=2)
    with pytest.raises(ConfigError, match="there is no picture 12 of 12"):
        cache.read([12])
