"""A folder of runs that holds everything a report shows, with texts that try to be markup."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ovbench.results.record import RunRecord, StepRecord, TaskRecord
from ovbench.results.report.build import Drawn
from ovbench.results.store import RunStore
from tests.results.conftest import POPE, TASK, encoder, metric, record, two_tasks

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)>"
GENERATION = dataclasses.replace(
    TASK,
    name="mini-images",
    title="garments by class",
    kind="generation",
    scorer="wardrobe, guidance none",
    headline="FD-wardrobe",
    chance=None,
    groups=("untrained", "2 epochs", "4 epochs"),
    n=64,
    num_total=64,
)
NUM_ITEMS = 24


@functools.cache
def png(width: int = 64, height: int = 64, shift: int = 0) -> bytes:
    from PIL import Image

    image = Image.new("RGB", (width, height))
    image.putdata([((x * 7 + shift) % 256, (y * 11) % 256, (x * y) % 256) for y in range(height) for x in range(width)])
    stream = io.BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def answers(name: str, task: str = "mini-seed") -> list[dict[str, Any]]:
    """Rows of 24 questions about 12 images; the encoders split on some, and every control has its answer."""
    found: list[dict[str, Any]] = []
    for index in range(NUM_ITEMS):
        right = {"ovis3/mini": index % 6 != 5, "clip/mini": index % 3 != 2, "random/mini": index % 4 == 0}.get(
            name, True
        )
        for control in ("none", "shuffled", "blind"):
            correct = right and control == "none"
            said = "bag" if correct else "boot <b>not bold</b>"
            found.append(
                {
                    "task": task,
                    "control": control,
                    "item_id": f"q{index}",
                    "image_id": f"scene{index // 2}",
                    "group": ("identity", "location")[index % 2],
                    "question": f"what is at {index}? {HOSTILE if index == 2 else ''}",
                    "answer": "bag",
                    "raw": said,
                    "parsed": said if index % 5 else None,
                    "chosen": said,
                    "correct": correct,
                    "options": ["bag", "boot <b>not bold</b>"],
                    "option_scores": None,
                    "answers": [],
                    "extra": {},
                    "score": None,
                }
            )
    return found


def of_pictures(spec: str, distance: float, **changes: Any) -> RunRecord:
    about: dict[str, Any] = {
        "task": "mini-images", "name": "FD-wardrobe", "unit": "squared feature units", "higher_is_better": False,
        "n": 64,
    }  # fmt: skip
    moments = zip(GENERATION.groups, (40.0, 20.0, 5.0), strict=True)
    metrics = [metric(distance, half=4.0, **about)]
    metrics += [metric(distance + more, half=6.0, group=group, **about) for group, more in moments]
    fields: dict[str, Any] = {
        "tasks": (GENERATION,),
        "suite": "generation",
        "steps": (StepRecord(name="dit", key=spec[0] * 64, seconds=1.0, cached=False, made_in_s=1.0),),
    }
    return record(spec, metrics, **{**fields, **changes})


def draw(task: TaskRecord, limit: int | None, image_ids: Sequence[str]) -> Drawn:
    """Pictures of questions; two ids share one picture."""
    return Drawn(files={name: png(shift=int(name.removeprefix("scene")) // 2) for name in image_ids})


def fill(root: Path) -> RunStore:
    store = RunStore(root)
    both: tuple[TaskRecord, ...] = (TASK, POPE)
    for spec, seed_accuracy, pope_accuracy in (
        ("ovis3/mini", 0.6234567, 0.71), ("clip/mini", 0.551, 0.7), ("siglip/mini", 0.54, None),
        ("random/mini", 0.3, 0.52),
    ):  # fmt: skip
        made = record(spec, two_tasks(seed_accuracy, pope_accuracy), tasks=both)
        store.keep(made, answers(spec))
    for spec, distance in (("ovis3/mini", 310.25), ("clip/mini", 352.5), ("random/mini", 500.0)):
        path = root.parent / f"{spec.partition('/')[0]}.png"
        path.write_bytes(png(120, 90, shift=len(spec)))
        store.keep(of_pictures(spec, distance), [], {"samples.png": path})
    return store


def fill_cache(cache: Path) -> Path:
    for key in ("o", "c"):
        folder = cache / "dit" / (key * 64)
        folder.mkdir(parents=True)
        rows = [json.dumps({"step": step, "loss": 2.0 / step}) for step in range(1, 40)]
        (folder / "dit.log.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return cache


def make_world(folder: Path) -> SimpleNamespace:
    names = ("of_pictures", "answers", "png", "draw", "HOSTILE", "NUM_ITEMS", "GENERATION")
    makers = {"record": record, "encoder": encoder, "two_tasks": two_tasks, "TASK": TASK, "POPE": POPE}
    own = {name: globals()[name] for name in names} | makers
    return SimpleNamespace(store=fill(folder / "runs"), cache=fill_cache(folder / "cache"), **own)


@pytest.fixture
def world(tmp_path: Path) -> SimpleNamespace:
    """A store, a cache with logs, and the functions of this file."""
    return make_world(tmp_path)


@pytest.fixture(scope="module")
def shared_world(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """The same, for tests that change nothing in it."""
    return make_world(tmp_path_factory.mktemp("world"))
