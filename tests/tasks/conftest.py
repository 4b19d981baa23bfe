"""A small file benchmark, and a task entry to spoil."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

Entry = dict[str, Any]


@pytest.fixture
def entry() -> Entry:
    """A task file's content that loads; its source is JSONL."""
    return {
        "name": "kitchen",
        "version": 1,
        "title": "a kitchen",
        "kind": "choice",
        "source": {
            "type": "jsonl",
            "path": "rows.jsonl",
            "columns": {
                "id": "id",
                "image": "image",
                "question": "question",
                "options": "options",
                "answer": "answer",
                "group": "group",
            },
            "answer": "letter",
        },
        "prompt": "{question}",
        "scoring": "likelihood",
        "parser": "letter",
        "metrics": ["accuracy"],
        "headline": "accuracy",
        "chance": 0.5,
    }


@pytest.fixture
def rows() -> list[Entry]:
    """Six rows of two groups about two pictures."""
    return [
        {
            "id": f"q{number}",
            "image": f"{number % 2}.png",
            "question": f"Question {number}?",
            "options": ["cup", "plate"],
            "answer": "AB"[number % 2],
            "group": "late" if number > 3 else "early",
        }
        for number in range(6)
    ]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes task, rows and two pictures into a folder and returns the task's path."""

    def write_task(entry: Entry, rows: list[Entry] | None = None) -> Path:
        for number, colour in enumerate([(255, 0, 0), (0, 0, 255)]):
            Image.new("RGB", (4, 3), colour).save(tmp_path / f"{number}.png")
        if rows is not None:
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
        path = tmp_path / "task.yaml"
        path.write_text(yaml.safe_dump(entry), encoding="utf-8")
        return path

    return write_task
