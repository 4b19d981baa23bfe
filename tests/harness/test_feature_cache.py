"""The feature cache on disk: kills, damage, eviction and several processes lose nothing and double nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.paths import feature_cache_bytes
from ovbench.encoders.base import Encoder
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from ovbench.harness.feature_cache import CacheFull, FeatureCache, Namespace
from ovbench.harness.feature_shards import DamagedShards, image_digest
from ovbench.harness.features import Features

ROOMY = 2**30
IDS = tuple(f"i{number}" for number in range(12))
ROW = torch.zeros(4, 8, dtype=torch.bfloat16)


def image(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[1:])).integers(0, 256, (64, 64, 3), np.uint8)


def digest(number: int) -> str:
    return f"{number:064x}"


def rows(*numbers: int, size: int = 4) -> dict[str, torch.Tensor]:
    return {digest(number): torch.full((size, 8), number, dtype=torch.bfloat16) for number in numbers}


@pytest.fixture
def cache(tmp_path: Path) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", max_bytes=ROOMY)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return load_encoder("random")


def features(encoder: Encoder, root: Path) -> Features:
    """A batch of 2 in every shard."""
    cache = FeatureCache(root, max_bytes=ROOMY, shard_bytes=1)
    return Features(encoder, IDS, image, cache, dtype="float32", batch_size=2, num_reads=100.0)


def shards(root: Path) -> list[Path]:
    return sorted(root.glob("namespaces/*/shard-*.safetensors"))


def index(root: Path) -> Path:
    (path,) = root.glob("namespaces/*/index.jsonl")
    return path


# --- pictures ------------------------------------------------------------------------------------------------------


def test_a_digest_is_of_shape_and_bytes() -> None:
    wide, high = np.zeros((2, 8, 3), np.uint8), np.zeros((8, 2, 3), np.uint8)
    other = wide.copy()
    other[1, 7, 2] = 1
    assert len({image_digest(item) for item in (wide, high, other)}) == 3
    assert image_digest(np.asfortranarray(other)) == image_digest(other)
    with pytest.raises(DataError, match=r"uint8 \[H, W, 3\], got uint8 \[8, 8\]"):
        image_digest(np.zeros((8, 8), np.uint8))


# --- killed --------------------------------------------------------------------------------------------------------

_FILL = textwrap.dedent(
    """
    import os, sys, time
    from pathlib import Path
    import torch
    from tests.harness.test_feature_cache import features, load_encoder
    torch.set_num_threads(1)
    root, stop, pause = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    encoder = load_encoder("random")
    run, passes = type(encoder).llm_tokens, []
    def counted(self, images, tap=None):
        passes.append(len(images))
        time.sleep(pause)
        if len(passes) == stop:
            os._exit(9)
        return run(self, images, tap)
    type(encoder).llm_tokens = counted
    (root.parent / f"ready-{os.getpid()}").touch()
    while pause and len(list(root.parent.glob("ready-*"))) < 2:
        time.sleep(0.01)
    source = features(encoder, root)
    source.fill()
    print(source.num_encoded)
    """
)


def fill_elsewhere(root: Path, *, stop: int = 0, pause: float = 0.0) -> subprocess.Popen[str]:
    """Fills in another process, which dies in its forward pass `stop`."""
    return subprocess.Popen(
        [sys.executable, "-c", _FILL, str(root), str(stop), str(pause)],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_after_a_kill_nothing_is_encoded_twice(encoder: Encoder, tmp_path: Path) -> None:
    process = fill_elsewhere(tmp_path / "cache", stop=4)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 9, err
    (left,) = FeatureCache(tmp_path / "cache", max_bytes=ROOMY).spaces()
    assert left.num_images == 6
    assert not left.in_use  # the mark of a process that died does not count
    source = features(encoder, tmp_path / "cache")
    source.fill()
    assert source.num_encoded == 6
    whole = features(encoder, tmp_path / "other")
    whole.fill()
    assert torch.equal(source(IDS), whole(IDS))


def test_two_processes_at_once_store_every_picture_once(encoder: Encoder, tmp_path: Path) -> None:
    root = tmp_path / "cache"
    both = [fill_elsewhere(root, pause=0.02) for _ in range(2)]
    outs = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], outs
    listed = [name for line in index(root).read_text().splitlines() for name in json.loads(line)["images"]]
    assert sorted(listed) == sorted(image_digest(image(name)) for name in IDS)
    late = features(encoder, root)
    late.fill()
    assert late.num_encoded == 0
    whole = features(encoder, tmp_path / "other")
    whole.fill()
    assert torch.equal(late(IDS), whole(IDS))


def test_what_another_process_writes_meanwhile_is_not_encoded(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, other = features(encoder, tmp_path), features(encoder, tmp_path)
    run, passes = TokenEncoder.llm_tokens, 0

    def interrupted(self: TokenEncoder, images: torch.Tensor, tap: Any = None) -> torch.Tensor:
        nonlocal passes
        passes += 1
        if passes == 3:
            other.fill()  # all of it, while this pass runs
        return run(self, images, tap)

    monkeypatch.setattr(TokenEncoder, "llm_tokens", interrupted)
    mine.fill()
    assert mine.num_encoded == 6
    assert other.num_encoded == 8  # the four that were not stored yet, and the rest
    listed = [name for line in index(tmp_path).read_text().splitlines() for name in json.loads(line)["images"]]
    assert len(listed) == len(set(listed)) == 12


def test_waiting_tokens_are_stored_after_a_time(encoder: Encoder, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=ROOMY, flush_s=0.0)
    Features(encoder, IDS, image, cache, batch_size=2, num_reads=100.0).fill()
    assert len(shards(tmp_path)) == 5  # two batches wait for the decision, then every batch is late


def test_a_shard_is_about_as_large_as_asked(encoder: Encoder, tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=ROOMY, shard_bytes=4 * 64 * 128 * 4)
    Features(encoder, IDS, image, cache, dtype="float32", batch_size=2, num_reads=100.0).fill()
    assert [len(json.loads(line)["images"]) for line in index(tmp_path).read_text().splitlines()] == [4, 4, 4]


# --- damaged -------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(bytes(data))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "fault"), [(flip, "does not match"), (cut, "does not match"), (Path.unlink, "is missing")]
)
def test_a_damaged_shard_is_set_aside_and_its_pictures_encoded_again(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Any, fault: str
) -> None:
    first = features(encoder, tmp_path)
    first.fill()
    expected = first(IDS)
    victim = shards(tmp_path)[2]
    damage(victim)
    again = features(encoder, tmp_path)
    again.fill()
    assert again.num_encoded == 0
    assert torch.equal(again(IDS), expected)
    assert again.num_encoded == 2
    assert f"{victim.name} is damaged (it {fault}" in caplog.text
    assert not victim.exists()
    assert len(list(tmp_path.glob("damaged/*"))) == (0 if damage is Path.unlink else 1)
    late = features(encoder, tmp_path)
    late.fill()
    assert torch.equal(late(IDS), expected)
    assert late.num_encoded == 0


def test_shards_that_change_places_are_noticed(encoder: Encoder, tmp_path: Path) -> None:
    first = features(encoder, tmp_path)
    first.fill()
    expected = first(IDS)
    lines = [json.loads(line) for line in index(tmp_path).read_text().splitlines()]
    lines[0]["images"], lines[1]["images"] = lines[1]["images"], lines[0]["images"]
    index(tmp_path).write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = features(encoder, tmp_path)
    again.fill()
    assert torch.equal(again(IDS), expected)


@pytest.mark.parametrize("left", [1, 40, -1])
def test_a_torn_index_line_is_cut_off_and_its_shard_made_again(encoder: Encoder, tmp_path: Path, left: int) -> None:
    first = features(encoder, tmp_path)
    first.fill()
    expected = first(IDS)
    *whole, last = index(tmp_path).read_bytes().splitlines(keepends=True)
    index(tmp_path).write_bytes(b"".join(whole) + last[:left])
    again = features(encoder, tmp_path)
    again.fill()
    assert again.num_encoded == 2
    assert torch.equal(again(IDS), expected)
    for line in index(tmp_path).read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    "line",
    [
        b"\x00\xff nonsense",
        b"[]",
        b'"text"',
        b"{}",
        b'{"file": "../../escape", "sha256": "' + b"0" * 64 + b'", "size_bytes": 1, "images": []}',
        b'{"file": "shard-000009.safetensors", "sha256": 5, "size_bytes": 1, "images": []}',
        b'{"file": "shard-000009.safetensors", "sha256": "' + b"0" * 64 + b'", "size_bytes": 1, "images": ["x"]}',
    ],
)
def test_an_unreadable_index_line_is_left_out(
    encoder: Encoder, tmp_path: Path, caplog: pytest.LogCaptureFixture, line: bytes
) -> None:
    first = features(encoder, tmp_path)
    first.fill()
    lines = index(tmp_path).read_bytes().splitlines()
    lines[3] = line
    index(tmp_path).write_bytes(b"\n".join(lines) + b"\n")
    again = features(encoder, tmp_path)
    again.fill()
    assert "a line of" in caplog.text
    assert again.num_encoded == 2
    assert torch.equal(again(IDS), first(IDS))


def test_shards_and_halves_that_a_killed_writer_left_are_removed(cache: FeatureCache) -> None:
    space = cache.open({"e": 1})
    space.add(rows(1))
    for name in ("shard-000007.safetensors", ".shard-000008.safetensors.abc.tmp"):
        (space.shards.folder / name).write_bytes(b"half")
    space.add(rows(2))
    assert [path.name for path in shards(cache.root)] == ["shard-000000.safetensors", "shard-000001.safetensors"]
    assert not list(space.shards.folder.glob(".*.tmp"))


def test_a_cache_that_is_emptied_by_hand_is_filled_again(encoder: Encoder, tmp_path: Path) -> None:
    import shutil

    first = features(encoder, tmp_path)
    first.fill()
    expected = first(IDS)
    shutil.rmtree(tmp_path / "namespaces")
    assert torch.equal(first(IDS), expected)  # mapped files live on
    assert first.missing() == 12
    first.fill()
    assert first.num_encoded == 24
    assert torch.equal(first(IDS), expected)


def test_any_number_of_shards_may_be_damaged_at_once(encoder: Encoder, tmp_path: Path) -> None:
    first = features(encoder, tmp_path)
    first.fill()
    expected = first(IDS)
    for path in shards(tmp_path):
        flip(path)
    again = features(encoder, tmp_path)
    again.fill()
    assert torch.equal(again(IDS), expected)
    assert again.num_encoded == 12


def test_a_disk_that_damages_everything_is_an_error(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = features(encoder, tmp_path)
    source.fill()

    def broken(self: Namespace, digests: Any) -> torch.Tensor:
        raise DamagedShards({self.shards.entries[0].file: "it cannot be read"})

    monkeypatch.setattr(Namespace, "gather", broken)
    with pytest.raises(DataError, match="again and again") as caught:
        source(IDS)
    assert "OVBENCH_FEATURE_CACHE_GB=0" in caught.value.fix


# --- bounded -------------------------------------------------------------------------------------------------------


def fill_space(cache: FeatureCache, name: str, *, numbers: range = range(8)) -> str:
    """Writes about 33 KB in a namespace and closes it."""
    space = cache.open({"name": name})
    space.add({digest(number): torch.zeros(256, 8, dtype=torch.bfloat16) for number in numbers})
    space.close()
    return space.key


def test_the_least_recently_used_namespace_goes_first(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=130_000)
    keys: Mapping[str, str] = {name: fill_space(cache, name) for name in "abc"}
    for age, name in enumerate("bca"):  # b was used longest ago
        os.utime(tmp_path / "namespaces" / keys[name] / "used", (1000 + age, 1000 + age))
    fill_space(cache, "d")
    assert {report.inputs["name"] for report in cache.spaces()} == {"a", "c", "d"}
    cache.open({"name": "c"}).close()  # opening is use
    fill_space(cache, "e")
    assert {report.inputs["name"] for report in cache.spaces()} == {"c", "d", "e"}


def test_a_namespace_in_use_is_not_evicted(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=60_000)
    held = cache.open({"name": "held"})
    held.add({digest(number): torch.zeros(256, 8, dtype=torch.bfloat16) for number in range(8)})
    other = cache.open({"name": "other"})
    with pytest.raises(CacheFull, match="OVBENCH_FEATURE_CACHE_GB"):
        other.add({digest(number): torch.zeros(256, 8, dtype=torch.bfloat16) for number in range(8)})
    assert held.gather([digest(3)]).shape == (1, 256, 8)
    assert [report.in_use for report in cache.spaces()] == [True, True]
    held.close()
    other.add({digest(number): torch.zeros(256, 8, dtype=torch.bfloat16) for number in range(8)})
    assert [report.inputs["name"] for report in cache.spaces()] == ["other"]


def test_the_bound_is_never_exceeded(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=100_000)
    largest = 0
    for number in range(12):
        with_room = number % 3 != 2
        space = cache.open({"name": number})
        try:
            space.add({digest(n): torch.zeros(256 if with_room else 2048, 8) for n in range(4)})
        except CacheFull:
            assert not with_room
        space.close()
        largest = max(largest, cache.size_bytes())
    assert 60_000 < largest <= 100_000


def test_damaged_files_go_before_any_namespace(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=90_000)
    fill_space(cache, "a")
    fill_space(cache, "b")
    flip(next(path for path in shards(tmp_path)))
    assert list(cache.verify()[1].values()) == ["it does not match its digest"]
    assert len(list(tmp_path.glob("damaged/*"))) == 1
    fill_space(cache, "c")
    assert not list(tmp_path.glob("damaged/*"))
    assert len(cache.spaces()) == 3


def test_collecting_removes_what_nobody_needs(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, max_bytes=ROOMY)
    fill_space(cache, "a")
    key = fill_space(cache, "b")
    (tmp_path / "namespaces" / key / "shard-000005.safetensors").write_bytes(b"x" * 500)
    assert cache.collect() == 500
    os.utime(tmp_path / "namespaces" / key / "used", (1000, 1000))
    smaller = FeatureCache(tmp_path, max_bytes=60_000)
    assert smaller.collect() > 30_000
    assert [report.inputs["name"] for report in smaller.spaces()] == ["a"]
    assert FeatureCache(tmp_path / "nothing", max_bytes=1).collect() == 0


def test_entries_are_kept_as_first_stored(cache: FeatureCache) -> None:
    space = cache.open({"e": 1})
    space.add(rows(1, 2))
    other = cache.open({"e": 1})
    other.add({digest(2): ROW + 9, digest(3): ROW + 3})
    other.add({digest(2): ROW + 9})
    space.refresh()
    assert space.gather([digest(3), digest(2), digest(1), digest(2)])[:, 0, 0].tolist() == [3.0, 2.0, 1.0, 2.0]
    assert space.shards.num_images == 3
    assert len(shards(cache.root)) == 2


def test_throughput_is_measured_once_and_leaves_nothing(cache: FeatureCache) -> None:
    speed = cache.throughput()
    assert speed.write_bytes_s > 0
    assert speed.read_bytes_s > 0
    assert cache.throughput() is speed
    assert not list(cache.root.iterdir())


@pytest.mark.parametrize(("text", "size"), [("20", 20 * 2**30), ("0.5", 2**29), ("0", 0), ("", 20 * 2**30)])
def test_the_bound_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch, text: str, size: int) -> None:
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", text)
    assert feature_cache_bytes() == size


@pytest.mark.parametrize("text", ["plenty", "-1", "nan", "inf", "5GB"])
def test_a_bound_that_is_no_number_is_an_error(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", text)
    with pytest.raises(ConfigError, match=f"a number of GB, 0 or more, got '{text}'") as caught:
        feature_cache_bytes()
    assert caught.value.where == "OVBENCH_FEATURE_CACHE_GB"


def test_the_default_bound_is_20_gb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVBENCH_FEATURE_CACHE_GB", raising=False)
    assert feature_cache_bytes() == 20 * 2**30
