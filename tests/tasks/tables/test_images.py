"""Pictures are read from their file one at a time: in any order, in another process, in several threads."""

from __future__ import annotations

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ovbench._base.errors import DataError
from ovbench.tasks.local import read_rows
from ovbench.tasks.tables import shards
from ovbench.tasks.tables.images import TablePictures, check_shard, picture_bytes
from ovbench.tasks.tables.shards import Shard
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


def test_a_table_with_some_pictures_beside_it_is_hashed_each_time(tmp_path: Path) -> None:
    beside = tmp_path / "beside.png"
    beside.write_bytes(picture(300))
    path = tmp_path / "table.parquet"
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    cells = [{"bytes": picture(0), "path": None}, {"bytes": None, "path": "beside.png"}]
    parquet.write_table(arrow.table({"image": cells}), path)
    shard = Shard(path=path, form="parquet")
    before = check_shard(shard, "image", [0, 1], [tmp_path])
    beside.write_bytes(picture(301))
    after = check_shard(shard, "image", [0, 1], [tmp_path])
    assert after[0] == before[0]
    assert after[1].sha256 == _name(301) != before[1].sha256


def test_json_lines_are_read_once_however_often_a_cell_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"number": {number}}}\n' for number in range(50)))
    read: list[Path] = []
    monkeypatch.setattr(shards, "read_rows", lambda path: read.append(path) or read_rows(path))
    shard = Shard(path=path, form="jsonl")
    assert [next(shard.cells("number", row)) for row in range(50)] == list(range(50))
    assert len(read) == 1
    path.write_text('{"number": -1}\n')  # another size: another file
    assert shard.rows(["number"]) == [{"number": -1}]


@pytest.mark.parametrize("path", ["/etc/passwd", "a/../../x.png"])
def test_path_that_leads_out_of_the_folder_is_not_followed(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="leads out of the folder"):
        picture_bytes(path, [tmp_path])
