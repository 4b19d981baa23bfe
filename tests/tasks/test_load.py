"""Task files, the catalogue and the suites."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DataError, OvbenchError
from ovbench.tasks.load import load_suite, load_task, load_task_file, suite_names, task_names

Entry = dict[str, Any]
Write = Callable[..., Path]


def test_catalogue_holds_the_mini_tasks() -> None:
    assert {"mini-seed", "mini-pope"} <= set(task_names())


@pytest.mark.parametrize("name", task_names())
def test_catalogue_entry_is_complete(name: str) -> None:
    spec = load_task(name)
    assert spec.name == spec.origin == name
    assert spec.citation
    assert spec.licence
    assert spec.description
    assert spec.groups
    assert spec.family in ("mini", "paper")


def test_mini_tasks_are_scored_as_said() -> None:
    seed, pope = load_task("mini-seed"), load_task("mini-pope")
    assert (seed.scoring, seed.chance, seed.headline, seed.source["per_kind"]) == ("likelihood", 0.25, "accuracy", 200)
    assert (pope.scoring, pope.chance, pope.headline, pope.source["per_split"]) == ("greedy", 0.5, "accuracy", 600)
    assert set(pope.metrics) == {"accuracy", "f1", "precision", "recall", "yes_rate"}
    assert seed.source["num_scenes"] == pope.source["num_scenes"] == 1000


def test_spec_survives_pickling_and_asdict() -> None:
    spec = load_task("mini-seed")
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert asdict(spec)["source"]["generator"] == "seed"


def test_every_suite_names_tasks_of_the_catalogue() -> None:
    assert load_suite("understanding", "mini") == ("mini-seed", "mini-pope")
    assert "understanding" in suite_names()


@pytest.mark.parametrize(
    ("suite", "protocol", "message"),
    [
        ("understandin", "mini", "did you mean 'understanding'?"),
        ("understanding", "huge", "has no tasks under the protocol 'huge'"),
    ],
)
def test_unknown_suite_or_protocol_is_refused(suite: str, protocol: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_suite(suite, protocol)
    assert message in str(caught.value)


def test_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError) as caught:
        load_task("mini-sead")
    assert str(caught.value) == (
        "error: unknown task 'mini-sead'\n  where: --tasks\n  fix:   did you mean 'mini-seed'? All names: ovbench tasks"
    )


def test_path_is_a_task_too(write: Write, entry: Entry, rows: list[Entry]) -> None:
    path = write(entry, rows)
    spec = load_task(str(path))
    assert (spec.name, spec.origin, spec.family) == ("kitchen", str(path), "local")


def test_own_file_cannot_take_a_name_of_the_catalogue(write: Write, entry: Entry) -> None:
    with pytest.raises(ConfigError, match="belongs to a task of the catalogue"):
        load_task(str(write(entry | {"name": "mini-seed"})))


def test_absent_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file 'none.yaml'"):
        load_task(str(tmp_path / "none.yaml"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "cannot be read as YAML"),
        ("name: a\nname: b\n", "the key 'name' is given twice"),
        ("- a\n", "expected a mapping, found a list"),
        ("", "expected a mapping, found nothing"),
        ("name: !!python/object/apply:os.system [ls]\n", "cannot be read as YAML"),
    ],
)
def test_what_is_no_task_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(OvbenchError) as caught:
        load_task_file(path)
    assert message in str(caught.value)
    assert "bad.yaml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"promt": "x"}, "did you mean 'prompt'?"),
        ({"version": "1"}, "'version' must be a whole number, found text ('1')"),
        ({"version": True}, "'version' must be a whole number, found true"),
        ({"version": 0}, "'version' must be 1 or more, got 0"),
        ({"title": 5}, "'title' must be text, found a whole number (5)"),
        ({"metrics": "accuracy"}, "'metrics' must be a list, found text"),
        ({"metrics": [1]}, "'metrics' must be a list of texts"),
        ({"metrics": []}, "no metric named"),
        ({"metrics": ["acuracy"]}, "did you mean 'accuracy'?"),
        ({"metrics": ["accuracy", "accuracy"]}, "a name is given twice"),
        ({"headline": "f1"}, "unknown headline 'f1'"),
        ({"chance": 1.5}, "chance must be in [0, 1), got 1.5"),
        ({"chance": "half"}, "'chance' must be a number"),
        ({"name": "My Bench"}, "'My Bench' is no name for a task"),
        ({"kind": "choices"}, "did you mean 'choice'?"),
        ({"scoring": "greed"}, "did you mean 'greedy'?"),
        ({"family": "minni"}, "did you mean 'mini'?"),
        ({"parser": "leter"}, "did you mean 'letter'?"),
        ({"parser": "pope_official"}, "reads yesno answers, the task is of kind choice"),
        ({"prompt": "{options}"}, "does not hold the question"),
        ({"source": "rows.jsonl"}, "'source' must be a mapping"),
        ({"source": {"type": "json"}}, "did you mean 'jsonl'?"),
        ({"source": {"path": "x"}}, "the key 'type' is missing"),
    ],
)
def test_bad_value_is_refused_with_its_place(write: Write, entry: Entry, change: Entry, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_task_file(write(entry | change))
    assert message in str(caught.value)
    assert "task.yaml" in caught.value.where


@pytest.mark.parametrize("key", ["name", "version", "source", "prompt", "parser", "chance"])
def test_missing_key_is_named(write: Write, entry: Entry, key: str) -> None:
    del entry[key]
    with pytest.raises(ConfigError, match=f"the key '{key}' is missing"):
        load_task_file(write(entry))


def test_whole_number_is_a_chance(write: Write, entry: Entry) -> None:
    assert load_task_file(write(entry | {"chance": 0})).chance == 0.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"colums": {}}, "did you mean 'columns'?"),
        ({"answer": "leter"}, "did you mean 'letter'?"),
        ({"key": "rows"}, "did you mean 'row'?"),
        ({"columns": {"image": "a", "question": "b", "answer": "c"}}, "nothing tells the rows apart"),
        ({"columns": {"id": "i", "image": "a", "question": "b"}}, "the key 'answer' is missing"),
        ({"columns": {"id": "i", "image": "a", "question": "b", "answer": "c"}}, "needs its options"),
        ({"columns": {"picture": "a"}}, "unknown key 'picture'"),
    ],
)
def test_bad_file_source_is_refused(write: Write, entry: Entry, change: Entry, message: str) -> None:
    entry["source"] |= change
    with pytest.raises(ConfigError) as caught:
        load_task_file(write(entry))
    assert message in str(caught.value)


def test_yesno_takes_no_options(write: Write, entry: Entry) -> None:
    with pytest.raises(ConfigError, match="a task of kind yesno has no options"):
        load_task_file(write(entry | {"kind": "yesno", "parser": "yesno_strict"}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"per_kind": 0}, "'per_kind' must be 1 or more, got 0"),
        ({"per_split": 2}, "unknown key 'per_split'"),
        ({"generator": "sed"}, "did you mean 'seed'?"),
        ({"generator": "pope", "per_kind": None, "per_split": 3}, "'per_split' must be even, got 3"),
        ({"generator": "pope", "per_kind": None, "per_split": 4}, "asks yesno questions, the task is of kind choice"),
        ({"split": "val"}, "unknown split 'val'"),
        ({"seed": -1}, "'seed' must be 0 or more, got -1"),
    ],
)
def test_bad_world_source_is_refused(write: Write, entry: Entry, change: Entry, message: str) -> None:
    source = {"type": "world", "generator": "seed", "split": "test", "seed": 1, "num_scenes": 50, "per_kind": 4}
    source = {key: value for key, value in (source | change).items() if value is not None}
    with pytest.raises(ConfigError, match=re.escape(message)):
        load_task_file(write(entry | {"source": source}))


def test_world_task_lists_the_groups_of_its_generator(write: Write, entry: Entry) -> None:
    source = {"type": "world", "generator": "seed", "split": "test", "seed": 1, "num_scenes": 50, "per_kind": 4}
    with pytest.raises(ConfigError, match="the generator makes the groups identity"):
        load_task_file(write(entry | {"source": source, "groups": ["identity"]}))
