"""`ovbench data verify`: a pack against its manifest, file by file and task by task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError, OvbenchError
from ovbench._base.fingerprint import file_sha256
from ovbench.tasks.base import TaskSpec
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from ovbench.tasks.tables.contents import content_of, size_text
from ovbench.tasks.tables.images import TablePictures
from ovbench.tasks.tables.manifest import MANIFEST, Manifest, manifest_of

Row = dict[str, Any]


def verify(folder: Path, *, images: bool = False) -> list[Row]:
    """Holds a pack against its manifest.

    Args:
        folder: The pack.
        images: Decode every picture too.

    Returns:
        One row per file and task: `what`, `state` (`ok` or `broken`) and `detail`.

    Raises:
        DataError: There is no manifest, or it cannot be read.
    """
    manifest = _manifest(folder)
    rows = [_verified_file(folder, name, entry) for name, entry in sorted(manifest.files.items())]
    return rows + [_verified_task(folder, name, entry, images) for name, entry in sorted(manifest.tasks.items())]


def _manifest(folder: Path) -> Manifest:
    manifest = manifest_of(folder)
    if manifest is None:
        raise DataError(
            f"there is no {MANIFEST} of a data pack in the folder",
            where=str(folder),
            fix="name a folder that `ovbench data pack` has made",
        )
    return manifest


def _verified_file(folder: Path, name: str, entry: Row) -> Row:
    path = folder / name
    fault = ""
    if not path.is_file():
        fault = "missing"
    elif path.stat().st_size != entry["bytes"]:
        fault = f"{path.stat().st_size} bytes, the manifest says {entry['bytes']}"
    elif (digest := file_sha256(path)) != entry["sha256"]:
        fault = f"sha256 {digest[:12]}…, the manifest says {str(entry['sha256'])[:12]}…"
    return {"what": name, "state": "broken" if fault else "ok", "detail": fault or size_text(entry["bytes"])}


def _verified_task(folder: Path, name: str, entry: Row, images: bool) -> Row:
    faults: list[str] = []
    shown = ""
    try:
        spec = load_task(name)
        content = content_of(spec, folder)
        faults += [
            f"{key}: {content[key]}, the manifest says {entry[key]}"
            for key in ("rows", "groups", "images")
            if content[key] != entry[key]
        ]
        # Another version of a task may read the same files in another way.
        if content["version"] == entry["version"] and content["digest"] != entry["digest"]:
            faults.append(f"digest {content['digest'][:12]}…, the manifest says {str(entry['digest'])[:12]}…")
        wanted = spec.source["num_rows"]
        shown = f"{content['rows']} rows{'' if content['rows'] == wanted else f' (as published: {wanted})'}, "
        shown += f"{content['images']} pictures{', every one opened' if images else ''}"
        if images:
            faults += _unusable_pictures(spec, folder)
    except OvbenchError as error:
        faults.append(error.what)
    return {"what": f"task {name}", "state": "broken" if faults else "ok", "detail": "; ".join(faults) or shown}


def _unusable_pictures(spec: TaskSpec, folder: Path) -> list[str]:
    data = load_data(spec, data_dir=folder, only_there=True)
    first = {sample.image_id: sample.item_id for sample in reversed(data.samples)}
    assert isinstance(data.image, TablePictures)
    places = data.image.places
    # In the order of the files, so that each is read once.
    names = sorted(data.image_ids, key=lambda name: (str(places[name].shard.path), places[name].row))
    faults = []
    for name in names:
        try:
            data.image(name)
        except DataError as error:
            faults.append(f"{first[name]}: {error.what} ({error.where})")
    return [f"{len(faults)} of {len(names)} pictures cannot be used: {'; '.join(faults)}"] if faults else []
