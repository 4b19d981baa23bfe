"""Questions of a task: the world, limits and digests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench.tasks.load import load_task, load_task_file
from ovbench.tasks.sources import balanced_subset, load_data, stated

Entry = dict[str, Any]
Write = Callable[..., Path]


# What version 1 asks. A change here is a change of the test: raise `version` in the task's file with it.
VERSION_1 = {
    "mini-seed": "8a440d935ddeb4697a4cd6d74f6b3548597170b638c315d7f039128b02fa3ca4",
    "mini-pope": "94039e16d818471927abce2df6c2a6991df148e6f590d5ca2aca4c9a033a928a",
}


@pytest.mark.parametrize("name", VERSION_1)
def test_questions_of_a_version_never_change(name: str) -> None:
    data = load_data(load_task(name))
    assert data.spec.version == 1
    assert fingerprint([stated(sample) for sample in data.samples]) == VERSION_1[name]


@pytest.mark.parametrize(("name", "total"), [("mini-seed", 1400), ("mini-pope", 1800)])
def test_mini_task_is_whole(name: str, total: int) -> None:
    data = load_data(load_task(name))
    assert len(data.samples) == data.num_total == total
    assert len({sample.item_id for sample in data.samples}) == total
    assert set(Counter(sample.group for sample in data.samples).values()) == {total // len(data.spec.groups)}
    assert all(sample.answer in sample.options for sample in data.samples)
    assert all(sample.prompt == sample.question for sample in data.samples)


def test_picture_is_drawn_when_asked_for() -> None:
    data = load_data(load_task("mini-seed"), limit=7)
    image = data.image(data.samples[0].image_id)
    assert image.shape == (64, 64, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image, data.image(data.samples[0].image_id))


@pytest.mark.parametrize("image_id", ["train-000001", "test-x", "nonsense"])
def test_foreign_picture_is_refused(image_id: str) -> None:
    with pytest.raises(DataError, match="is no picture of the world's test split"):
        load_data(load_task("mini-seed"), limit=7).image(image_id)


def test_digest_is_repeatable_and_follows_everything() -> None:
    spec = load_task("mini-pope")
    first = load_data(spec)
    assert load_data(spec).digest == first.digest
    other_seed = load_data(replace(spec, source={**spec.source, "seed": 1}))
    other_prompt = load_data(replace(spec, prompt="{question} Say yes or no."))
    part = load_data(spec, limit=10)
    assert len({data.digest for data in (first, other_seed, other_prompt, part)}) == 4
    assert other_prompt.images_digest == first.images_digest
    assert other_seed.images_digest != first.images_digest != part.images_digest


@pytest.mark.parametrize("limit", [0, -3])
def test_limit_below_one_is_refused(limit: int) -> None:
    with pytest.raises(ConfigError) as caught:
        load_data(load_task("mini-seed"), limit=limit)
    assert str(caught.value) == (
        f"error: --limit must be 1 or more, got {limit}\n  where: --limit\n  fix:   leave it out to ask everything"
    )


def test_limit_names_the_flag_that_held_it() -> None:
    with pytest.raises(ConfigError, match="--count must be 1 or more"):
        load_data(load_task("mini-seed"), limit=0, where="--count")


@pytest.mark.parametrize("limit", [1, 6, 10, 700])
def test_limit_is_balanced_over_groups_and_keeps_the_order(limit: int) -> None:
    spec = load_task("mini-seed")
    all_ids = [sample.item_id for sample in load_data(spec).samples]
    data = load_data(spec, limit=limit)
    counts = Counter(sample.group for sample in data.samples)
    assert len(data.samples) == limit
    assert data.num_total == 1400
    assert max(counts.values()) - min(counts.get(group, 0) for group in spec.groups) <= 1
    positions = [all_ids.index(sample.item_id) for sample in data.samples]
    assert positions == sorted(positions)


def test_smaller_limit_is_a_part_of_a_larger_one() -> None:
    spec = load_task("mini-pope")
    small, large = ({sample.item_id for sample in load_data(spec, limit=n).samples} for n in (20, 50))
    assert small < large


def test_limit_takes_what_is_left_when_a_group_runs_out(write: Write, entry: Entry, rows: list[Entry]) -> None:
    data = load_data(load_task_file(write(entry, rows)), limit=5)
    assert [sample.item_id for sample in data.samples] == ["q0", "q1", "q2", "q4", "q5"]


def test_limit_above_the_number_of_rows_is_everything(write: Write, entry: Entry, rows: list[Entry]) -> None:
    assert len(load_data(load_task_file(write(entry, rows)), limit=99).samples) == len(rows)


def test_subset_of_nothing_is_nothing() -> None:
    assert balanced_subset([], 3, ()) == []


def test_group_that_the_task_does_not_list_is_refused(write: Write, entry: Entry, rows: list[Entry]) -> None:
    spec = load_task_file(write(entry | {"groups": ["early"]}, rows))
    with pytest.raises(DataError, match="the data hold the group 'late'"):
        load_data(spec)


def test_too_few_scenes_are_said() -> None:
    for name, key in (("mini-seed", "per_kind"), ("mini-pope", "per_split")):
        spec = load_task(name)
        with pytest.raises(ConfigError) as caught:
            load_data(replace(spec, source={**spec.source, "num_scenes": 12}))
        assert "12 scenes are too few" in caught.value.what
        assert key in caught.value.fix
