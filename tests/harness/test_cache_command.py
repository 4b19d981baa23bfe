"""`ovbench cache` shows, verifies and tidies what is there, and says when nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.harness.cache_command import cache_rows
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.reference_cache import FOLDER as REFERENCES
from ovbench.harness.metrics.reference_cache import ReferenceStore


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
    ]
    monkeypatch.setenv("OVBENCH_FEATURE_CACHE_GB", "0")
    features, _ = cache_rows("gc", folder)
    assert features["freed_bytes"] > 0
    assert features["bound_bytes"] == 0
    assert cache_rows("ls", folder) == []


def test_gc_says_what_is_kept_of_each_and_counts_unfinished_references(folder: Path) -> None:
    store = ReferenceStore(folder / REFERENCES, max_bytes=0)
    with store.locked("making"):
        (store.root / "making" / "statistics.features.npy").write_bytes(bytes(700))
        features, references = cache_rows("gc", folder)
    assert features["kept_bytes"] == FeatureCache(folder / FOLDER, max_bytes=0).size_bytes() > 0
    assert (references["freed_bytes"], references["kept_bytes"]) == (0, 700)
    assert features["bound_bytes"] == references["bound_bytes"] > 0
    _, references = cache_rows("gc", folder)
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
