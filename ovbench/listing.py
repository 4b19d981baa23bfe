"""What there is: rows for `ovbench encoders | tasks | protocols | runs | doctor`. Imports no torch to list."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError, DataError, OvbenchError

Row = dict[str, Any]


def _card(fields: dict[str, Any]) -> list[Row]:
    return [{"field": key, "value": value} for key, value in fields.items()]


def encoder_rows() -> list[Row]:
    """Returns one row per variant of every family with all that is known of it, and one per plug-in, not imported."""
    from ovbench.encoders.plugins import KEY, find_plugins
    from ovbench.encoders.registry import built_in_families, families, providers

    plugins = find_plugins()
    built_in = built_in_families()
    rows: list[Row] = []
    for family in families().values():
        if family.key in plugins and family.key not in built_in:
            continue  # the plug-in's own row says it
        for variant in family.variants:
            rows.append(
                {
                    "encoder": f"{family.key}/{variant.name}",
                    "family": family.title,
                    "aliases": list(family.aliases),
                    "provider": family.provider,
                    "title": variant.title,
                    "objective": variant.objective,
                    "training_data": variant.training_data,
                    "licence": variant.licence,
                    "citation": variant.citation,
                    "default_of": variant.protocol or None,
                    "origin": variant.origin,
                    "weights": variant.weights or None,
                    "revision": variant.revision or None,
                    "frontend": variant.frontend or None,
                    "px": variant.resolution_px or None,
                    "tokens": variant.num_tokens or None,
                    "num_prefix": variant.num_prefix,
                    "dim": variant.dim or None,
                    "depth": variant.depth,
                    "num_params": variant.num_params,
                    "num_params_frontend": variant.num_params_frontend,
                    "control": variant.control,
                    "for_understanding": variant.for_understanding,
                    "fault": None,
                }
            )
    for key, claims in plugins.items():
        fault = None
        if len(owners := providers(key, plugins)) > 1:
            fault = f"name taken twice: {', '.join(owners)}"
        elif not KEY.fullmatch(key):
            fault = "not a name: lower-case letters, digits, '.', '_' and '-' only"
        for plugin in claims:
            rows.append({"encoder": key, "provider": plugin.package, "origin": "plug-in", "fault": fault})
    return rows


_OTHER_COLUMNS = 81  # columns that all but `what` take


def encoder_table(rows: list[Row], *, width: int = 200) -> list[Row]:
    """Returns the rows of `encoder_rows` as words for a terminal of that many columns, 100 or more."""
    narrow = width < 140

    def wrapped(text: str, columns: int) -> str:
        return "\n".join(textwrap.wrap(text, columns, break_on_hyphens=False)) if narrow else text

    return [
        {
            "encoder": row["encoder"],
            "what": wrapped(_what(row), max(19, width - _OTHER_COLUMNS)),
            "px": _count(row.get("px")),
            "tokens": _count(row.get("tokens")),
            "dim": _count(row.get("dim")),
            "M params": _millions(row.get("num_params") or 0, row.get("num_params_frontend") or 0),
            "licence": wrapped(short_licence(row.get("licence", "")), 15),
            "weights": "yours" if row["origin"] == "given" else row["origin"],
        }
        for row in rows
    ]


def _what(row: Row) -> str:
    if row["origin"] == "plug-in":
        return f"of {row['provider']}" + (f"; UNUSABLE, {row['fault']}" if row["fault"] else "")
    title = re.sub(r", \d+ px", "", row["title"])  # the column px says it
    return f"{title} (control)" if row["control"] else title


def _count(value: int | None) -> str:
    return str(value) if value else "—"


def _millions(network: int, frontend: int) -> str:
    parts = [f"{count / 1e6:.0f}" if count >= 1e7 else f"{count / 1e6:.1f}" for count in (network, frontend)]
    if network and frontend:
        return " + ".join(parts)
    return parts[0] if network else parts[1] if frontend else "—"


def short_licence(text: str) -> str:
    """Returns the first licence of a variant in a word or two, and `+ NC` where a non-commercial one is beside it."""
    first = re.split(r"\s*[(;,]", text)[0]
    for long, short in (("not stated by the adapter", "—"), ("see the model's card", "—"), (" Community Licence", "")):
        first = first.replace(long, short)
    rest = text[len(first) :]
    restricted = "non-commercial" in rest or "-NC" in rest
    return (f"{first} + NC" if restricted and "non-commercial" not in first else first) or "—"


def encoder_faults() -> list[Row]:
    """Imports every plug-in and returns one row per plug-in: package, state `ok` or `broken`, and what is wrong."""
    from ovbench.encoders.plugins import plugin_faults

    faults = plugin_faults()
    rows: list[Row] = []
    for row in encoder_rows():
        if row["origin"] != "plug-in":
            continue
        detail = row["fault"] or faults.get(f"{row['provider']}: {row['encoder']}", "")
        rows.append(
            {
                "encoder": row["encoder"],
                "package": row["provider"],
                "state": "broken" if detail else "ok",
                "detail": detail,
            }
        )
    return rows


def check_encoder_flags(name: str | None, *, check: bool, measure: bool, device: str, dtype: str) -> None:
    """Refuses flags of `ovbench encoders` that would have no effect, with the command that was meant.

    Raises:
        ConfigError: `--measure` without one encoder, `--check` with one, or a device or type without `--measure`.
    """
    if measure and name is None:
        raise ConfigError(
            "--measure needs one encoder", where="ovbench encoders", fix="run: ovbench encoders show NAME --measure"
        )
    if check and name is not None:
        raise ConfigError(
            "--check is about all plug-ins",
            where="ovbench encoders show",
            fix=f"run: ovbench encoders --check   or, for one encoder: ovbench check {name}",
        )
    if not measure and (device != "cpu" or dtype != "float32"):
        raise ConfigError(
            "--device and --dtype are those of --measure",
            where="ovbench encoders",
            fix="run: ovbench encoders show NAME --measure --device … --dtype …",
        )


def task_rows() -> list[Row]:
    """Returns one row per task of the catalogue."""
    from ovbench.tasks.load import load_task, task_names
    from ovbench.tasks.pictures import load_picture_task, picture_task_names

    pictures: list[Row] = [
        {
            "task": task.name,
            "version": task.version,
            "title": task.title,
            "kind": task.kind,
            "scoring": task.extractor,
            "headline": task.headline,
            "chance": None,
        }
        for task in map(load_picture_task, picture_task_names())
    ]
    return pictures + [
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
    from ovbench.tasks.pictures import load_picture_task, picture_task_names

    return _card(asdict(load_picture_task(name) if name in picture_task_names() else load_task(name)))


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
