"""What there is: rows for `ovbench encoders | tasks | protocols | runs | doctor`. Imports no torch to list."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError, OvbenchError

Row = dict[str, Any]


def _card(fields: dict[str, Any]) -> list[Row]:
    return [{"field": key, "value": value} for key, value in fields.items()]


def encoder_rows() -> list[Row]:
    """Returns one row per variant of every family."""
    from ovbench.encoders.registry import families

    return [
        {
            "encoder": f"{family.key}/{variant.name}",
            "aliases": ", ".join(family.aliases),
            "title": variant.title,
            "objective": variant.objective,
            "px": variant.resolution_px,
            "tokens": variant.num_tokens,
            "dim": variant.dim,
            "licence": variant.licence,
            "control": variant.control,
        }
        for family in families().values()
        for variant in family.variants
    ]


def encoder_card(name: str) -> list[Row]:
    """Returns everything known of one encoder, parameters and identity included (loads it)."""
    from ovbench.encoders.registry import load_encoder, parse_encoder

    spec = parse_encoder(name, where="ovbench encoders show")
    info = load_encoder(spec).info
    variant = {key: value for key, value in asdict(spec.variant).items() if key not in ("name",)}
    described = {key: value for key, value in asdict(info).items() if key not in ("name",)}
    return _card({"encoder": spec.canonical, "family": spec.family.title, **variant, **described})


def task_rows() -> list[Row]:
    """Returns one row per task of the catalogue."""
    from ovbench.tasks.load import load_task, task_names

    return [
        {
            "task": spec.name,
            "version": spec.version,
            "title": spec.title,
            "kind": spec.kind,
            "scoring": spec.scoring,
            "headline": spec.headline,
            "chance": spec.chance,
        }
        for spec in map(load_task, task_names())
    ]


def task_card(name: str) -> list[Row]:
    """Returns everything a task's file says."""
    from ovbench.tasks.load import load_task

    spec = load_task(name)
    return _card(asdict(spec))


def protocol_rows() -> list[Row]:
    """Returns one row per protocol."""
    from ovbench.harness.protocols import load_protocol, protocol_names

    return [
        {"protocol": protocol.name, "version": protocol.version, "title": protocol.title}
        for protocol in map(load_protocol, protocol_names())
    ]


def protocol_card(name: str) -> list[Row]:
    """Returns a protocol's whole content, flattened."""
    from ovbench.harness.protocols import load_protocol

    return _card(_flat(load_protocol(name).content))


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat.update(_flat(item, f"{prefix}.{key}" if prefix else str(key)))
    return flat


def run_rows(folder: Path) -> list[Row]:
    """Returns one row per record, newest last."""
    from ovbench.results.store import RunStore

    return [
        {
            "run": record.run_id,
            "encoder": record.encoder.spec,
            "suite": record.suite,
            "protocol": f"{record.protocol.name} v{record.protocol.version}",
            "seed": record.seed,
            "limit": record.limit,
            "finished": record.finished_utc,
        }
        for record in RunStore(folder).records()
    ]


def run_card(folder: Path, run_id: str) -> list[Row]:
    """Returns one record, flattened."""
    from ovbench.results.store import RunStore

    return _card(_flat(RunStore(folder).record(run_id).to_dict()))


def doctor_rows() -> list[Row]:
    """Returns one row per thing that a run needs, with `state` ok, absent (optional) or broken."""
    from ovbench._base.paths import cache_dir, runs_dir
    from ovbench.results.provenance import package_versions

    rows = [_row("python", "ok", sys.version.split()[0])]
    for package, version in package_versions().items():
        rows.append(_row(package, "ok" if version else "absent", version or "not installed"))
    rows.append(_embedded_row())
    for name, folder in (("cache", cache_dir()), ("runs", runs_dir())):
        rows.append(_folder_row(name, folder))
    rows.append(_row("cores", "ok", str(os.cpu_count())))
    try:
        import torch

        gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        rows.append(_row("gpu", "ok" if gpus else "absent", ", ".join(gpus) or "none: the mini protocol needs none"))
    except ImportError as error:
        rows.append(_row("gpu", "broken", f"torch cannot be imported: {error}"))
    return rows


def _row(what: str, state: str, detail: str) -> Row:
    return {"what": what, "state": state, "detail": detail}


def _embedded_row() -> Row:
    from ovbench._base.paths import asset, assets_manifest

    try:
        names = list(assets_manifest())
        for name in names:
            asset(name)
    except DataError as error:
        return _row("embedded files", "broken", f"{error.what}; {error.fix}")
    return _row("embedded files", "ok", f"{len(names)} files match their digests")


def _folder_row(name: str, folder: Path) -> Row:
    from ovbench._base.files import make_dir

    place = folder
    while not place.exists():
        place = place.parent
    try:
        if folder.exists():
            make_dir(folder)
        elif not os.access(place, os.W_OK):
            return _row(name, "broken", f"cannot be made below {place}")
    except OvbenchError as error:
        return _row(name, "broken", error.what)
    return _row(name, "ok", f"{folder} ({shutil.disk_usage(place).free / 2**30:.1f} GiB free)")
