"""`ovbench cache` shows, verifies and tidies what is there, and says when nothing is."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.cache_command import cache_rows
from ovbench.harness.cached_work import CachedWork
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.generation.crop_cache import CropCache
from ovbench.harness.generation.imagenet_sources import open_labelled
from ovbench.harness.metrics.reference_cache import FOLDER as REFERENCES
from ovbench.harness.metrics.reference_cache import ReferenceStore
from ovbench.harness.steps import Step, StepCache
from ovbench.harness.tower_cache import FOLDER as TOWERS
from ovbench.harness.tower_cache import hold_tower
from ovbench.harness.use_marks import mark_in_use, unused
from tests.harness.generation.imagenet_tree import make_tree


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache with two shards in one namespace."""
    space = FeatureCache(tmp_path / FOLDER, max_bytes=2**30).open({"name": "clip/mini", "view": "llm_tokens"})
    for number in range(2):
        space.add({f"{number:064x}": torch.ones(4, 8)})
    space.close()
    return tmp_path


def test_ls_tells_whose_features_they_are(folder: Path) -> None:
    (row,) = cache_rows("ls", folder)
    assert (row["encoder"], row["images"], row["in_use"]) == ("clip/mini", 2, False)
    assert row["bytes"] > 256


def test_verify_finds_the_damaged_shard(folder: Path) -> None:
    assert cache_rows("verify", folder) == [{"shard": "all", "state": "2 sound, 0 damaged"}]
    victim = next(folder.rglob("shard-000001.safetensors"))
    victim.write_bytes(victim.read_bytes()[:-1])
    damaged, total = cache_rows("verify", folder)
    assert damaged["shard"].endswith("/shard-000001.safetensors")
    assert damaged["state"] == "it does not match its digest"
    assert total == {"shard": "all", "state": "1 sound, 1 damaged"}
    assert cache_rows("verify", folder) == [{"shard": "all", "state": "1 sound, 0 damaged"}]
    assert cache_rows("ls", folder)[0]["images"] == 1


def test_gc_keeps_to_the_bound(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [(row["what"], row["freed_bytes"]) for row in cache_rows("gc", folder)] == [
        ("features", 0),
        ("references", 0),
        ("steps, crops, towers", 0),
    ]
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", "0")
    features, *_ = cache_rows("gc", folder)
    assert features["freed_bytes"] > 0
    assert features["bound_bytes"] == 0
    assert cache_rows("ls", folder) == []


def test_gc_says_what_is_kept_of_each_and_counts_unfinished_references(folder: Path) -> None:
    store = ReferenceStore(folder / REFERENCES, max_bytes=0)
    with store.locked("making"):
        (store.root / "making" / "statistics.features.npy").write_bytes(bytes(700))
        features, references, _ = cache_rows("gc", folder)
    assert features["kept_bytes"] == FeatureCache(folder / FOLDER, max_bytes=0).size_bytes() > 0
    assert (references["freed_bytes"], references["kept_bytes"]) == (0, 700)
    assert features["bound_bytes"] == references["bound_bytes"] > 0
    _, references, _ = cache_rows("gc", folder)
    assert (references["freed_bytes"], references["kept_bytes"]) == (700, 0)


def test_a_card_that_is_damaged_does_not_hide_the_namespace(folder: Path) -> None:
    next(folder.rglob("namespace.json")).write_text("[1")
    assert cache_rows("ls", folder)[0]["encoder"] == "not known: its card is damaged"


def test_an_unknown_action_and_an_absent_cache_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown action 'verfy'") as caught:
        cache_rows("verfy", tmp_path)
    assert "verify" in caught.value.fix
    with pytest.raises(ConfigError, match="there is no cache yet"):
        cache_rows("ls", tmp_path / "nothing")


DAY = 86_400.0


def step(name: str = "dit") -> Step:
    return Step(name=name, version=1, inputs={"seed": 0})


def build(out: Path, work: Path) -> None:
    del work
    (out / "weights").write_bytes(bytes(1000))


def made(root: Path, name: str, *, days_ago: float = 0.0) -> Path:
    """A finished step that nobody uses, last used so many days ago."""
    path = StepCache(root).obtain(step(name), build).path
    when = time.time() - days_ago * DAY
    os.utime(path / "manifest.json", (when, when))
    return path


def stopped(root: Path, *, days_ago: float = 0.0) -> Path:
    """What a run that was killed left of a step."""

    def crash(out: Path, work: Path) -> None:
        (work / "dit.state.safetensors").write_bytes(bytes(500))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        StepCache(root).obtain(step("dit"), crash)
    (work,) = (root / "work").iterdir()
    when = time.time() - days_ago * DAY
    for path in (*work.iterdir(), work):
        os.utime(path, (when, when))
    return work


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """A cache of crops in three shards, whose process has ended."""
    source = open_labelled(make_tree(tmp_path / "data"), split="train", expected_classes=3)
    cache = CropCache(tmp_path / "cache" / "crops" / "x", source, side_px=16, shard_pictures=5, threads=1)
    cache.fill()
    return cache.folder


def test_ls_tells_of_finished_and_unfinished_steps_and_of_crops(tmp_path: Path, crops: Path) -> None:
    root = tmp_path / "cache"
    made(root, "scores")
    stopped(root)
    found = {row["view"]: row for row in cache_rows("ls", root)}
    assert set(found) == {"step scores", "step dit, unfinished", "crops"}
    assert found["step scores"]["bytes"] > 1000
    assert found["crops"]["bytes"] == sum(path.stat().st_size for path in crops.rglob("*") if path.is_file())
    assert not any(row["in_use"] for row in found.values())


def test_verify_sets_a_damaged_step_aside(tmp_path: Path) -> None:
    path = made(tmp_path, "dit")
    assert cache_rows("verify", tmp_path) == [{"shard": "all", "state": "1 sound, 0 damaged"}]
    (path / "weights").write_bytes(bytes(999))
    damaged, total = cache_rows("verify", tmp_path)
    assert damaged["shard"] == f"dit/{step().key[:16]}"
    assert damaged["state"] == "'weights' does not match its digest"
    assert total["state"] == "0 sound, 1 damaged"
    assert not path.exists()
    *_, freed = cache_rows("gc", tmp_path)
    assert (freed["removed"], freed["freed_bytes"] > 999) == ("1 x damaged", True)


def test_verify_removes_the_damaged_shard_of_crops_and_no_other(tmp_path: Path, crops: Path) -> None:
    shards = sorted(crops.glob("*.u8"))
    data = bytearray(shards[1].read_bytes())
    data[3] ^= 1
    shards[1].write_bytes(bytes(data))
    damaged, _ = cache_rows("verify", tmp_path / "cache")
    assert damaged["shard"].endswith(shards[1].name)
    assert damaged["state"] == "picture 5 does not match its checksum"
    assert [shard.exists() for shard in shards] == [True, False, True]


def test_gc_frees_what_was_not_used_for_so_many_days_and_says_so(tmp_path: Path) -> None:
    old, new = made(tmp_path, "dit", days_ago=31), made(tmp_path, "scores", days_ago=29)
    *_, nothing = cache_rows("gc", tmp_path)
    assert (nothing["freed_bytes"], nothing["removed"]) == (0, "")
    *_, freed = cache_rows("gc", tmp_path, older_than=30)
    assert freed["removed"] == "1 x step dit"
    assert freed["freed_bytes"] > 1000
    assert (old.exists(), new.exists()) == (False, True)


def test_gc_evicts_the_least_recently_used_above_the_bound(tmp_path: Path) -> None:
    paths = [made(tmp_path, name, days_ago=days) for name, days in (("a", 1), ("b", 3), ("c", 2))]
    size = CachedWork(tmp_path).all()[0].size_bytes
    *_, freed = cache_rows("gc", tmp_path, max_gb=2.5 * size / 2**30)
    assert freed["removed"] == "1 x step b"
    assert [path.exists() for path in paths] == [True, False, True]


def test_gc_keeps_the_work_of_a_stopped_run_for_a_week(tmp_path: Path) -> None:
    work = stopped(tmp_path, days_ago=6)
    cache_rows("gc", tmp_path)
    assert work.exists()
    stopped(tmp_path, days_ago=8)
    *_, freed = cache_rows("gc", tmp_path)
    assert freed["removed"] == "1 x step dit, unfinished"
    assert not work.exists()


def test_gc_touches_nothing_that_a_process_uses_or_builds(tmp_path: Path, crops: Path) -> None:
    root = tmp_path / "cache"
    path = made(root, "scores", days_ago=90)
    user = StepCache(root)
    assert user.find(step("scores")) == path
    mark = mark_in_use(crops / "manifest.json")

    def collects(out: Path, work: Path) -> None:
        (out / "weights").write_bytes(bytes(10))
        (work / "state").write_bytes(bytes(10))
        assert {row["view"] for row in cache_rows("ls", root) if row["in_use"]} == {
            "step scores", "step dit, unfinished", "crops",
        }  # fmt: skip
        *_, freed = cache_rows("gc", root, older_than=0, max_gb=0)
        assert freed["removed"] == ""
        assert (work / "state").exists()
        assert (out / "weights").exists()

    assert StepCache(root).obtain(step("dit"), collects).path.is_dir()
    assert path.exists()
    assert crops.exists()
    del user
    assert mark is not None
    mark.close()
    *_, freed = cache_rows("gc", root, older_than=0)
    assert freed["removed"] == "1 x crops, 1 x step dit, 1 x step scores"
    assert freed["kept_bytes"] == 0


def test_a_mark_is_refused_on_what_was_removed_meanwhile(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert mark_in_use(path) is None
    path.write_text("{}")
    mark = mark_in_use(path)
    assert mark is not None
    with unused(path) as free:
        assert not free
    mark.close()
    with unused(path) as free:
        assert free


def test_flags_of_gc_are_refused_elsewhere_and_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--older-than has no effect on 'ls'"):
        cache_rows("ls", tmp_path, older_than=3)
    with pytest.raises(ConfigError, match="it must be 0 or more, got -1"):
        cache_rows("gc", tmp_path, max_gb=-1)


def _tower(root: Path, *, days_ago: float) -> Path:
    """A tower whose process has ended."""
    path = root / TOWERS / ("a" * 32)
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(bytes(5000))
    (path / "config.json").write_text("{}")
    when = time.time() - days_ago * DAY
    os.utime(path / "config.json", (when, when))
    return path


def test_towers_are_listed_and_go_when_they_were_not_used_for_so_long(tmp_path: Path) -> None:
    path = _tower(tmp_path, days_ago=31)
    (row,) = cache_rows("ls", tmp_path)
    assert (row["view"], row["bytes"], row["in_use"]) == ("vision tower of a checkpoint", 5002, False)
    cache_rows("gc", tmp_path)
    assert path.exists()
    *_, freed = cache_rows("gc", tmp_path, older_than=30)
    assert freed["removed"] == "1 x vision tower of a checkpoint"
    assert not path.exists()


def test_a_tower_that_a_process_was_given_stays(tmp_path: Path) -> None:
    path = _tower(tmp_path, days_ago=31)
    assert hold_tower(tmp_path, path.name, lambda out: pytest.fail("it is there")) == path
    (row,) = cache_rows("ls", tmp_path)
    assert row["in_use"]
    *_, freed = cache_rows("gc", tmp_path, older_than=0)
    assert freed["removed"] == ""
    assert path.exists()


def test_a_tower_that_is_being_written_is_no_rubbish(tmp_path: Path) -> None:
    left = tmp_path / TOWERS / f".{'b' * 32}.left.tmp"
    left.mkdir(parents=True)

    def write(out: Path) -> None:
        (out / "config.json").write_text("{}")
        *_, freed = cache_rows("gc", tmp_path, older_than=0)
        assert freed["removed"] == "1 x abandoned"
        assert out.is_dir()
        assert not left.exists()

    path = hold_tower(tmp_path, "c" * 32, write)
    assert (path / "config.json").is_file()
    assert [entry.name for entry in path.parent.iterdir()] == ["c" * 32]


def test_indexes_and_reports_are_listed_and_stay(tmp_path: Path) -> None:
    for name in ("picture-index", "preflight", "tar-index"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text("[]")
    cache_rows("gc", tmp_path, older_than=0, max_gb=0)
    rows = {row["view"]: row["bytes"] for row in cache_rows("ls", tmp_path)}
    assert rows == {"index of pictures": 2, "preflight reports": 2, "index of archives": 2}
