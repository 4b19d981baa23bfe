"""`ovbench data mount`: a folder remembered as this user's data folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ovbench._base.errors import DataError
from ovbench._base.files import read_json, write_json
from ovbench._base.paths import config_file
from ovbench.tasks.load import load_task, task_names
from ovbench.tasks.tables.places import in_folder


def mount(folder: Path) -> list[dict[str, Any]]:
    """Remembers a folder as this user's data folder.

    Returns:
        One row per task of the catalogue whose data are in it.

    Raises:
        ConfigError: There is no such folder, or the choice cannot be written down.
        DataError: The folder holds the data of no task.
    """
    folder = folder.expanduser().absolute()
    tasks = [load_task(name) for name in task_names()]
    there = [
        (spec, located)
        for spec in tasks
        if spec.source["type"] == "tables" and (located := in_folder(spec, folder)) is not None
    ]
    if not there:
        raise DataError(
            "the folder holds the data of no task",
            where=str(folder),
            fix="name a folder made by `ovbench data pack`, or one as in docs/benchmarks.md",
        )
    path = config_file()
    settings = read_json(path) if path.is_file() else {}
    write_json(path, {**(settings if isinstance(settings, dict) else {}), "data_dir": str(folder)})
    return [{"task": spec.name, "from": located.name, "folder": str(located.root)} for spec, located in there]
