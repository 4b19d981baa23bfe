"""Pictures of questions for pages: drawn or read again from the tasks, where the data are those that a run used."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from ovbench._base.errors import OvbenchError
from ovbench.results.record import TaskRecord
from ovbench.results.report.build import Draw, Drawn
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data

_LONGEST_PX = 512  # a page shows them at half of this


def drawer(data_dir: Path | None = None) -> Draw:
    """Returns what draws the pictures of a task; each task is loaded once.

    A picture is only given where the digest of the task's questions and pictures is the one that the run recorded:
    another picture under the same id would be worse than none.

    Args:
        data_dir: Folder of published benchmarks; None: `$OVBENCH_DATA`, or what `ovbench data mount` remembers.
    """

    @cache
    def loaded(name: str, limit: int | None) -> TaskData:
        return load_data(load_task(name), limit=limit, data_dir=data_dir)

    def draw(task: TaskRecord, limit: int | None, image_ids: Sequence[str]) -> Drawn:
        try:
            data = loaded(task.name, limit)
            if data.digest != task.data_digest:
                return Drawn(files={}, reason=f"the data of '{task.name}' at hand are not those of the run")
            return Drawn(files={name: _png(data, name) for name in image_ids})
        except OvbenchError as error:
            return Drawn(files={}, reason=error.what)

    return draw


def _png(data: TaskData, image_id: str) -> bytes:
    from PIL import Image

    picture = Image.fromarray(data.image(image_id))
    picture.thumbnail((_LONGEST_PX, _LONGEST_PX))
    stream = io.BytesIO()
    picture.save(stream, format="PNG", optimize=True)
    return stream.getvalue()
