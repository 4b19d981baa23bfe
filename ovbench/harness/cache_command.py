"""What `ovbench cache` does: lists, verifies and tidies the feature cache; returns rows and prints nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench._base.paths import feature_cache_bytes
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.results.provenance import utc

ACTIONS = ("ls", "verify", "gc")


def cache_rows(action: str, cache_folder: Path) -> list[dict[str, Any]]:
    """Does one of `ACTIONS` and returns what to show.

    Args:
        action: `ls` lists the namespaces, `verify` reads every shard and sets damaged ones aside, `gc` removes damaged
            files and what killed runs left, and evicts down to the bound.
        cache_folder: The folder of the whole cache (`paths.cache_dir()`).

    Raises:
        ConfigError: The action is unknown, or there is no such folder.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS, where="ovbench cache")
    if not cache_folder.is_dir():
        raise ConfigError(
            "there is no cache yet", where=str(cache_folder), fix="run something first, or set OVBENCH_CACHE"
        )
    cache = FeatureCache(cache_folder / FOLDER, max_bytes=feature_cache_bytes())
    if action == "verify":
        num_shards, faults = cache.verify()
        damaged = [{"shard": name, "state": fault} for name, fault in faults.items()]
        return [*damaged, {"shard": "all", "state": f"{num_shards - len(faults)} sound, {len(faults)} damaged"}]
    if action == "gc":
        freed = cache.collect()
        return [{"freed_bytes": freed, "kept_bytes": cache.size_bytes(), "bound_bytes": cache.max_bytes}]
    return [
        {
            "namespace": report.key[:16],
            "encoder": report.inputs.get("name", "not known: its card is damaged"),
            "view": report.inputs.get("view", ""),
            "dtype": report.inputs.get("dtype", ""),
            "images": report.num_images,
            "bytes": report.size_bytes,
            "used": utc(report.used),
            "in_use": report.in_use,
        }
        for report in cache.spaces()
    ]
