"""What `ovbench cache` does: lists, verifies and tidies features, references, steps, crops, towers; prints nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench._base.paths import feature_cache_bytes
from ovbench.harness.cached_work import CachedWork, Freed
from ovbench.harness.feature_cache import FOLDER, FeatureCache
from ovbench.harness.metrics.reference_cache import FOLDER as REFERENCES
from ovbench.harness.metrics.reference_cache import ReferenceStore
from ovbench.results.provenance import utc

ACTIONS = ("ls", "verify", "gc")


def cache_rows(
    action: str, cache_folder: Path, *, older_than: float | None = None, max_gb: float | None = None
) -> list[dict[str, Any]]:
    """Does one of `ACTIONS` and returns what to show.

    Args:
        action: `ls` lists what there is; `verify` reads everything, sets damaged shards and steps aside and removes
            damaged references and crops; `gc` removes damaged files and what killed runs left, and evicts down to the
            bounds. What a process uses stays.
        cache_folder: The folder of the whole cache (`paths.cache_dir()`).
        older_than: Of `gc`: steps, crops and towers that were not used for so many days go too. None: only unfinished
            steps of a week ago.
        max_gb: Of `gc`: what these may take together, in GB of 2^30 bytes; the least recently used go. None:
            no bound. Features and references have their own (`OVBENCH_FEATURE_CACHE_GB`).

    Raises:
        ConfigError: The action is unknown, a number cannot be used, or there is no such folder.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS, where="ovbench cache")
    for flag, value in (("--older-than", older_than), ("--max-gb", max_gb)):
        if value is None:
            continue
        if action != "gc":
            raise ConfigError(f"{flag} has no effect on '{action}'", where=flag, fix="leave it out, or use: gc")
        if not 0 <= value < math.inf:
            raise ConfigError(f"it must be 0 or more, got {value:g}", where=flag)
    if not cache_folder.is_dir():
        raise ConfigError(
            "there is no cache yet", where=str(cache_folder), fix="run something first, or set OVBENCH_CACHE"
        )
    cache = FeatureCache(cache_folder / FOLDER, max_bytes=feature_cache_bytes())
    references = ReferenceStore(cache_folder / REFERENCES, max_bytes=cache.max_bytes)
    work = CachedWork(cache_folder)
    if action == "verify":
        return _verify(cache, references, work)
    if action == "gc":
        bound = None if max_gb is None else int(max_gb * 2**30)
        return _gc(cache, references, work.collect(older_than_days=older_than, max_bytes=bound), bound)
    return [*_features(cache), *_references(references), *_work(work)]


def _gc(cache: FeatureCache, references: ReferenceStore, freed: Freed, bound: int | None) -> list[dict[str, Any]]:
    features = {"what": "features", "freed_bytes": cache.collect(), "kept_bytes": cache.size_bytes()}
    made = {"what": "references", "freed_bytes": references.collect(), "kept_bytes": references.total_bytes()}
    own: dict[str, Any] = {"bound_bytes": cache.max_bytes, "removed": None}  # each has the bound for itself
    work = {"what": "steps, crops, towers", "freed_bytes": freed.num_bytes, "kept_bytes": freed.kept_bytes}
    return [features | own, made | own, work | {"bound_bytes": bound, "removed": freed.words}]


def _verify(cache: FeatureCache, references: ReferenceStore, work: CachedWork) -> list[dict[str, Any]]:
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
    num_work, faults = work.verify()
    num_checked += num_work
    rows += [{"shard": name, "state": fault} for name, fault in faults.items()]
    return [*rows, {"shard": "all", "state": f"{num_checked - len(rows)} sound, {len(rows)} damaged"}]


def _work(work: CachedWork) -> list[dict[str, Any]]:
    return [
        {
            "namespace": held.key[:16],
            "encoder": None,
            "view": held.title,
            "dtype": None,
            "images": None,
            "bytes": held.size_bytes,
            "used": utc(held.used),
            "in_use": held.in_use,
        }
        for held in [*work.all(), *work.notes()]
    ]


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
