"""The example of docs/add-a-benchmark.md works as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

from ovbench.tasks.answers import PARSERS
from ovbench.tasks.base import METRICS, TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data

DOCS = Path(__file__).parent.parent.parent / "docs"
TEXT = (DOCS / "add-a-benchmark.md").read_text(encoding="utf-8")
SCORERS = (DOCS / "scorers.md").read_text(encoding="utf-8")  # has those of the published benchmarks


@pytest.fixture
def data(tmp_path: Path) -> TaskData:
    """The example, written into a folder as the document says."""
    blocks = re.findall(r"^`([\w.-]+)`\n\n```\w+\n(.*?)^```", TEXT, flags=re.M | re.S)
    assert [name for name, _ in blocks] == ["my-bench.yaml", "questions.jsonl"]
    for name, content in blocks:
        (tmp_path / name).write_text(content, encoding="utf-8")
    (tmp_path / "pictures").mkdir()
    for name, size in (("one", (10, 6)), ("two", (7, 7))):
        Image.new("RGB", size, (200, 30, 30)).save(tmp_path / "pictures" / f"{name}.png")
    return load_data(load_task(str(tmp_path / "my-bench.yaml")))


def test_example_loads(data: TaskData) -> None:
    assert data.spec.name == "kitchen-choice"
    assert [sample.item_id for sample in data.samples] == ["k-1", "k-2", "k-3"]
    assert [sample.answer for sample in data.samples] == ["plate", "red", "spoon"]
    assert [sample.group for sample in data.samples] == ["object", "colour", "object"]


def test_example_asks_as_llava_does(data: TaskData) -> None:
    assert data.samples[0].prompt == (
        "What is on the table?\nA. cup\nB. plate\nC. spoon\n"
        "Answer with the option's letter from the given choices directly."
    )


def test_example_opens_its_pictures(data: TaskData) -> None:
    assert [data.image(name).shape for name in data.image_ids] == [(6, 10, 3), (7, 7, 3)]


@pytest.mark.parametrize("name", [*PARSERS, *sorted({metric for names in METRICS.values() for metric in names})])
def test_document_names_every_parser_and_metric(name: str) -> None:
    assert f"`{name}`" in TEXT + SCORERS
