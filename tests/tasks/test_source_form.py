"""The source of a task file: what is refused, and by which words."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.tasks.load import load_task, load_task_file
from ovbench.tasks.row_reader import RowForm

Entry = dict[str, Any]
Write = Callable[..., Path]


@pytest.fixture
def published(entry: Entry) -> Entry:
    """A task whose data are a published table."""
    entry["source"] = {
        "type": "tables",
        "repos": ["someone/kitchen"],
        "layouts": [{"tables": [{"split": "test"}]}],
        "columns": {"id": "id", "image": "image", "question": "question", "options": "options", "answer": "answer"},
        "answer": "letter",
        "num_rows": 6,
    }
    return entry


def test_published_table_gets_its_defaults(write: Write, published: Entry) -> None:
    source = load_task_file(write(published)).source
    assert (source["folder"], source["revision"], source["key"]) == ("kitchen", "", "id")
    assert source["layouts"][0]["tables"] == [{"config": "default", "split": "test", "group": ""}]
    assert source["layouts"][0]["columns"] == published["source"]["columns"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"repos": []}, "neither repos nor folder"),
        ({"layouts": [{"tables": [{"config": "x"}]}]}, "a table is either a file or a split"),
        ({"layouts": [{"tables": [{"split": "a", "file": "b"}]}]}, "a table is either a file or a split"),
        ({"layouts": [{"table": []}]}, "did you mean 'tables'"),
        ({"layouts": {}}, "'layouts' must be a list"),
        ({"num_rows": 0}, "'num_rows' must be 1 or more"),
        ({"not_rows": [{"group": "a", "rows": 3}]}, "the key 'task' is missing"),
        ({"question": {"upper": True}}, "unknown key 'upper'"),
        ({"question": {"strip": "yes"}}, "'strip' must be true or false"),
        ({"extra": ["options"]}, "'options' is a placeholder of every prompt"),
        ({"answer": "votes"}, "answer: votes does not fit a task of kind choice"),
        ({"group_names": {1: 2}}, "'1' must be text"),
        ({"path": "x"}, "unknown key 'path'"),
    ],
)
def test_bad_source_is_refused(write: Write, published: Entry, change: Entry, message: str) -> None:
    published["source"] |= change
    with pytest.raises(ConfigError) as caught:
        load_task_file(write(published))
    assert message in str(caught.value)


def test_every_layout_needs_the_options_of_a_choice(write: Write, published: Entry) -> None:
    columns = deepcopy(published["source"]["columns"])
    del columns["options"]
    published["source"]["layouts"].append({"tables": [{"split": "other"}], "columns": columns})
    with pytest.raises(ConfigError, match="a task of kind choice needs its options"):
        load_task_file(write(published))


def test_open_task_has_no_options(write: Write, published: Entry) -> None:
    published["source"]["answer"] = "text"
    with pytest.raises(ConfigError, match="a task of kind open has no options"):
        load_task_file(write(published | {"kind": "open", "parser": "vqa", "scoring": "greedy"}))


def test_no_catalogued_task_makes_up_a_revision() -> None:
    for name in ("pope", "seedbench", "mme", "gqa"):
        assert load_task(name).source["revision"] == ""


def test_only_the_columns_of_a_task_are_read() -> None:
    spec = load_task("mmbench-dev-static")
    form = RowForm.of(spec.kind, spec.source, spec.source["layouts"][0]["columns"])
    assert set(form.needed) == {"index", "image", "question", "A", "B", "C", "D", "answer", "L2-category", "hint"}
