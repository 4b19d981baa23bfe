"""Passes of pictures: the same bytes whatever the processes, kills and order; finished ones outlive a full disk."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovbench._base import files as files_module
from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.picture_parts import Content, Made, make_parts, read_parts, trim_parts
from ovbench.harness.generation.slots import Group
from ovbench.harness.parallel import Processes
from tests.harness.generation.ranks import ranks
from tests.harness.metrics.picture_sets import pictures, toy_extractor, toy_rows

COUNT, SIZE, KEPT = 19, 4, 6  # five passes, the last one of three
IMAGES = pictures(COUNT, 3)
LAYERS = ("pool", "logits")


class Killed(BaseException):
    pass


def make(group: Group) -> Made:
    """Pictures of a pass, noise in the slots that nobody wants, and a label of each."""
    filled = pictures(group.size, 99)
    filled[list(group.slots)] = IMAGES[list(group.indices)]
    return Made(images_u8=filled, values={"labels": np.array(group.indices, dtype=np.int64) % 5})


def killed_at(number: int) -> Callable[[Group], Made]:
    def made(group: Group) -> Made:
        if number in group.indices:
            raise Killed
        return make(group)

    return made


def parts(folder: Path, made: Callable[[Group], Made] = make, **changes: Any) -> None:
    make_parts(folder, COUNT, SIZE, made, toy_extractor(), **{"layers": LAYERS, "num_kept": KEPT, **changes})


def read(folder: Path) -> Content:
    scratch = folder.parent / "scratch"
    return read_parts(folder, COUNT, SIZE, toy_extractor().info, layers=LAYERS, scratch=scratch, num_shown=KEPT)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parts") / "passes"
    parts(folder)
    return folder


def test_what_is_read_back_is_what_was_made(whole: Path) -> None:
    content = read(whole)
    for layer in LAYERS:
        np.testing.assert_array_equal(content.features.rows[layer], toy_rows(IMAGES)[layer])
    np.testing.assert_array_equal(content.values["labels"], np.arange(COUNT) % 5)
    np.testing.assert_array_equal(content.images_u8, IMAGES[:KEPT])  # and no other picture is kept


@pytest.mark.parametrize("count", [2, 3, 7])
def test_any_number_of_processes_makes_the_same_bytes(tmp_path: Path, whole: Path, count: int) -> None:
    ranks(count, lambda processes: parts(tmp_path / "passes", processes=processes))
    assert contents(tmp_path / "passes") == contents(whole)


def test_no_pass_is_made_twice(tmp_path: Path) -> None:
    made: list[tuple[int, ...]] = []
    ranks(
        3, lambda processes: parts(tmp_path / "p", lambda g: (made.append(g.indices), make(g))[1], processes=processes)
    )
    assert sorted(made) == [tuple(range(first, min(first + SIZE, COUNT))) for first in range(0, COUNT, SIZE)]


@pytest.mark.parametrize("number", [0, 9, 18])
@pytest.mark.parametrize("count", [1, 2])
def test_a_killed_call_loses_the_pass_in_flight_alone(tmp_path: Path, whole: Path, number: int, count: int) -> None:
    folder = tmp_path / "passes"
    with pytest.raises(Killed):
        parts(folder, killed_at(number))
    finished = set(contents(folder))
    assert len(finished) == number // SIZE
    made: list[int] = []
    ranks(
        count, lambda processes: parts(folder, lambda g: (made.append(g.indices[0]), make(g))[1], processes=processes)
    )
    assert sorted(made) == list(range(number // SIZE * SIZE, COUNT, SIZE))
    assert contents(folder) == contents(whole)


def test_the_order_of_the_passes_changes_nothing(tmp_path: Path, whole: Path) -> None:
    folder = tmp_path / "passes"
    for rank in (3, 0, 4, 2, 1):  # each of them a process that nobody waits for

        class Alone(Processes):
            def barrier(self) -> None:
                pass

        parts(folder, processes=Alone(rank=rank, world_size=5))
    assert contents(folder) == contents(whole)


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "another pass"])
def test_a_damaged_pass_is_refused_and_made_again(tmp_path: Path, whole: Path, damage: str) -> None:
    folder = tmp_path / "passes"
    parts(folder)
    victim = folder / "pass-000002.npz"
    data = {
        "cut": victim.read_bytes()[:-40],
        "empty": b"",
        "garbage": b"x" * 500,
        "another pass": (folder / "pass-000001.npz").read_bytes(),
    }[damage]
    victim.write_bytes(data)
    with pytest.raises(DataError, match="'pass-000002.npz' is missing or damaged") as caught:
        read(folder)
    assert caught.value.where == str(folder)
    made: list[int] = []
    parts(folder, lambda group: (made.append(group.indices[0]), make(group))[1])
    assert made == [8]
    assert contents(folder) == contents(whole)


def test_a_full_disk_keeps_finished_passes_and_says_what_to_do(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "passes"
    replace = files_module.os.replace

    def full(source: str, target: Any) -> None:
        if Path(target).name == "pass-000003.npz":
            raise OSError(errno.ENOSPC, "no space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files_module.os, "replace", full)
        with pytest.raises(ConfigError, match="no space left on the device while writing 'pass-000003.npz'") as caught:
            parts(folder)
    assert "free some space" in (caught.value.fix or "")
    assert sorted(contents(folder)) == [f"pass-00000{number}.npz" for number in range(3)]  # and no half file
    parts(folder)
    assert contents(folder) == contents(whole)


def test_progress_counts_the_items_of_this_process(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    parts(tmp_path / "passes", progress=lambda done, total, **fields: told.append((done, total)))
    assert told == [(4, 19), (8, 19), (12, 19), (16, 19), (19, 19)]


def test_what_is_made_now_is_counted_and_nothing_else(tmp_path: Path) -> None:
    def made_now(count: int) -> int:
        return make_parts(tmp_path, count, SIZE, make, toy_extractor(), layers=LAYERS, num_kept=KEPT)

    assert made_now(COUNT) == COUNT
    (tmp_path / "pass-000001.npz").unlink()
    assert made_now(COUNT) == SIZE
    assert made_now(COUNT) == 0


def test_trimmed_passes_are_those_that_kept_few_from_the_start(tmp_path: Path) -> None:
    for name, kept in (("all", COUNT), ("few", KEPT)):
        make_parts(tmp_path / name, COUNT, SIZE, make, toy_extractor(), layers=LAYERS, num_kept=kept)
    for rank in range(2):

        class Alone(Processes):
            def barrier(self) -> None:
                pass

        trim_parts(
            tmp_path / "all", tmp_path / "cut", COUNT, SIZE, num_kept=KEPT, processes=Alone(rank=rank, world_size=2)
        )
    assert contents(tmp_path / "cut") == contents(tmp_path / "few")


def test_a_value_that_a_pass_of_an_older_version_lacks_is_said_of_none(tmp_path: Path) -> None:
    def with_costs(group: Group) -> Made:
        made = make(group)
        if group.indices[0] == 0:
            return made
        return Made(images_u8=made.images_u8, values={**made.values, "cost": np.ones(len(group.indices))})

    parts(tmp_path / "passes", with_costs)
    assert "cost" not in read(tmp_path / "passes").values
