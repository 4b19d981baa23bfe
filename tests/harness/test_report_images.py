from __future__ import annotations

import dataclasses
import io
from functools import cache

from ovbench.harness.report_images import drawer
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from tests.results.conftest import TASK


@cache
def _data() -> TaskData:
    return load_data(load_task("mini-seed"), limit=14)


def test_pictures_are_those_that_the_run_asked_about() -> None:
    import numpy as np
    from PIL import Image

    data = _data()
    name = data.image_ids[0]
    drawn = drawer()(dataclasses.replace(TASK, data_digest=data.digest), 14, [name])
    assert drawn.reason == ""
    with Image.open(io.BytesIO(drawn.files[name])) as image:
        assert np.array_equal(np.asarray(image), data.image(name))


def test_other_data_give_no_picture() -> None:
    drawn = drawer()(dataclasses.replace(TASK, data_digest="0" * 64), 14, [_data().image_ids[0]])
    assert drawn.files == {}
    assert drawn.reason == "the data of 'mini-seed' at hand are not those of the run"


def test_unknown_task_gives_no_picture_and_the_reason() -> None:
    drawn = drawer()(dataclasses.replace(TASK, name="of-my-own"), None, ["a"])
    assert drawn.files == {}
    assert "of-my-own" in drawn.reason
