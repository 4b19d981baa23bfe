"""Pictures are read from their file one at a time: in any order, in another process, in several threads."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ovbench._base.errors import DataError
from ovbench.tasks.tables.images import TablePictures, picture_bytes
from tests.tasks.benchmark_files import MAKERS, MadeTable, cell, picture
from tests.tasks.tables.conftest import Load


def _many(table: MadeTable) -> None:
    """Gives every row a picture of its own, over many row groups."""
    table.rows = [{**MAKERS["chartqa"](4)[0].rows[number % 8], "image": cell(number)} for number in range(200)]


def _pictures(load: Load) -> TablePictures:
    data = load("chartqa", _many, num_shards=2)
    assert isinstance(data.image, TablePictures)
    assert len(data.image_ids) == 200
    return data.image


def _name(number: int) -> str:
    return hashlib.sha256(picture(number)).hexdigest()


@pytest.mark.parametrize("step", [1, -1, 7, 77])
def test_pictures_may_be_asked_for_in_any_order(step: int, load: Load) -> None:
    pictures = _pictures(load)
    for number in [(place * step) % 200 for place in range(200)]:
        assert pictures.encoded(_name(number)) == picture(number)


def test_pictures_go_to_another_process(load: Load) -> None:
    pictures = _pictures(load)
    pictures(_name(3))
    copy = pickle.loads(pickle.dumps(pictures))
    assert (copy(_name(4)) == pictures(_name(4))).all()


def test_threads_get_the_pictures_that_they_ask_for(load: Load) -> None:
    pictures = _pictures(load)
    numbers = [number * 37 % 200 for number in range(200)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: pictures.encoded(_name(number)), numbers))
    assert found == [picture(number) for number in numbers]


def test_going_forward_reads_a_file_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = _pictures(load)
    opened: list[Path] = []
    shard = type(next(iter(pictures.places.values())).shard)
    parquet = shard._parquet
    monkeypatch.setattr(shard, "_parquet", lambda self: opened.append(self.path) or parquet(self))
    for number in range(200):
        pictures.encoded(_name(number))
    assert len(opened) == 2  # one for each file


@pytest.mark.parametrize(
    "stored",
    [picture(0), {"bytes": picture(0), "path": None}, [cell(0)], "0.png", {"path": "0.png"}],
    ids=["bytes", "struct", "list", "path", "struct of a path"],
)
def test_picture_is_found_in_every_form_of_a_cell(stored: object, tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(picture(0))
    assert picture_bytes(stored, [tmp_path]) == picture(0)


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../x.png"])
def test_path_that_leads_out_of_the_folder_is_not_followed(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        picture_bytes(path, [tmp_path])
