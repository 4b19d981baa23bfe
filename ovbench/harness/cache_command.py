"""What `ovbench cache` does: lists, verifies and tidies cached features and references; prints nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench._base.paths import feature_cache_bytes
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.reference_cache import FOLDER as REFERENCES
from ovbench.harness.metrics.reference_cache import ReferenceStore
from ovbench.results.provenance import utc

ACTIONS = ("ls", "verify", "gc")


def cache_rows(action: str, cache_folder: Path) -> list[dict[str, Any]]:
    """Does one of `ACTIONS` and returns what to show.

    Args:
        action: `ls` lists what there is; `verify` reads everything, sets damaged shards aside and removes damaged
            references; `gc` removes damaged files and what killed runs left, and evicts down to the bound.
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
    references = ReferenceStore(cache_folder / REFERENCES, max_bytes=cache.max_bytes)
    if action == "verify":
        return _verify(cache, references)
    if action == "gc":
        features = {"what": "features", "freed_bytes": cache.collect(), "kept_bytes": cache.size_bytes()}
        made = {"what": "references", "freed_bytes": references.collect(), "kept_bytes": references.total_bytes()}
        return [row | {"bound_bytes": cache.max_bytes} for row in (features, made)]  # each has the bound for itself
    return [*_features(cache), *_references(references)]


def _verify(cache: FeatureCache, references: ReferenceStore) -> list[dict[str, Any]]:
    num_checked, faults = cache.verify()
    rows = [{"shard": name, "state": fault} for name, fault in faults.items()]
    for key in references.all_keys():
        with references.locked(key):
            if not references.path(key).is_file():
                continue  # another process has removed it meanwhile
            num_checked += 1
            if (fault := references.fault(key)) is not None:
                references.remove(key)
                rows.append({"shard": f"references/{key}", "state": fault})
    return [*rows, {"shard": "all", "state": f"{num_checked - len(rows)} sound, {len(rows)} damaged"}]


def _features(cache: FeatureCache) -> list[dict[str, Any]]:
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


def _references(store: ReferenceStore) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for key in store.all_keys():
        card, used = store.card(key), store.used(key)
        if not used:
            continue  # another process has removed it meanwhile
        rows.append(
            {
                "namespace": key[:16],
                "encoder": card.get("extractor", "not known: its card is damaged"),
                "view": f"reference {card.get('name', '')}".strip(),
                "dtype": "float64",
                "images": card.get("n", 0),
                "bytes": store.size_bytes(key),
                "used": utc(used),
                "in_use": store.in_use(key),
            }
        )
    return rows
