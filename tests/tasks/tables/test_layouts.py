"""The ways in which a table can lie in a folder give the same questions."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from ovbench._base.errors import DataError
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from ovbench.tasks.tables.layouts import find_layout, hub_files
from tests.tasks.benchmark_files import MAKERS, MadeTable, arrow_table, picture, write_pope_files, write_table
from tests.tasks.tables.conftest import Load


def _load(name: str, folder: Path) -> TaskData:
    return load_data(load_task(name), data_dir=folder)


def _save_to_disk(table: MadeTable, folder: Path) -> None:
    """Writes what `DatasetDict.save_to_disk` writes: a folder per split with arrow streams and their list."""
    place = folder / table.folder / table.place.removeprefix("data/")
    place.mkdir(parents=True)
    halves = [table.rows[: len(table.rows) // 2], table.rows[len(table.rows) // 2 :]]
    names = [f"data-{number:05d}-of-00002.arrow" for number in range(2)]
    for name, rows in zip(names, halves, strict=True):
        content = arrow_table(table, rows)
        with pa.OSFile(str(place / name), "wb") as sink, pa.ipc.new_stream(sink, content.schema) as writer:
            writer.write_table(content, max_chunksize=7)
    (place / "dataset_info.json").write_text("{}", encoding="utf-8")
    (place / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))


@pytest.mark.parametrize("name", ["pope", "seedbench", "gqa", "mmbench-dev-static"])
def test_saved_data_set_gives_the_same_test(name: str, load: Load, tmp_path: Path) -> None:
    expected = load(name)
    for table in MAKERS[name](4):
        _save_to_disk(table, tmp_path / "saved")
    data = _load(name, tmp_path / "saved")
    assert data.samples == expected.samples
    assert data.digest == expected.digest
    assert (data.image(data.image_ids[-1]) == expected.image(data.image_ids[-1])).all()


def test_shards_are_read_in_their_order(load: Load, tmp_path: Path) -> None:
    expected = load("pope")
    for table in MAKERS["pope"](4):
        write_table(table, tmp_path / "shards", num_shards=5)
    assert _load("pope", tmp_path / "shards").digest == expected.digest


def test_pope_s_configuration_full_gives_the_same_test(load: Load, tmp_path: Path) -> None:
    expected = load("pope")
    (table,) = MAKERS["pope"](4)
    for split in ("adversarial", "popular", "random"):
        rows = [row for row in table.rows if row["category"] == split]
        write_table(
            MadeTable(folder="POPE", place=f"Full/{split}", columns=table.columns, rows=rows), tmp_path / "full"
        )
    assert _load("pope", tmp_path / "full").digest == expected.digest


def test_pope_s_own_files_give_the_same_questions(load: Load, tmp_path: Path) -> None:
    expected = load("pope")
    write_pope_files(tmp_path / "own" / "POPE")
    data = _load("pope", tmp_path / "own")
    pairs = [(sample.item_id, sample.prompt, sample.answer) for sample in data.samples]
    assert pairs == [(sample.item_id, sample.prompt, sample.answer) for sample in expected.samples]
    assert len(data.image_ids) == 4


def test_json_lines_with_pictures_beside_them_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "ChartQA"
    folder.mkdir()
    (folder / "one.png").write_bytes(picture(0))
    row = {"type": "human_test", "question": "How many?", "answer": "3", "image": "one.png"}
    (folder / "test.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    data = _load("chartqa", tmp_path)
    assert data.samples[0].prompt == "How many?\nAnswer the question with a single word."
    assert data.image(data.samples[0].image_id).shape == (16, 20, 3)


@pytest.mark.parametrize(("task", "other", "count"), [("pope", "pope-v1", 2910), ("pope-v1", "pope", 3000)])
def test_the_two_releases_of_pope_are_not_taken_for_each_other(
    task: str, other: str, count: int, tmp_path: Path
) -> None:
    folder = tmp_path / load_task(task).source["folder"]
    write_pope_files(folder)
    line = json.loads((folder / "coco_pope_random.json").read_text().splitlines()[0])
    lines = [json.dumps(line | {"question_id": number}) for number in range(count)]
    (folder / "coco_pope_random.json").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError) as caught:
        _load(task, tmp_path)
    assert f"the group 'random' has {count} rows: this is the data of the task '{other}'" in caught.value.what
    assert f"--tasks {other}" in caught.value.fix


def test_missing_shard_is_said(folder: Path) -> None:
    (table,) = MAKERS["chartqa"](4)
    write_table(table, folder, num_shards=3)[1].unlink()
    with pytest.raises(DataError, match="the split 'test' is not whole: 2 of its files are there, of 3"):
        _load("chartqa", folder)


def test_shards_of_two_versions_are_not_mixed(folder: Path) -> None:
    (table,) = MAKERS["chartqa"](4)
    write_table(table, folder, num_shards=2)
    write_table(table, folder, num_shards=3)
    with pytest.raises(DataError, match="is not whole: 5 of its files are there, of 2 or 3"):
        _load("chartqa", folder)


def test_split_whose_name_begins_alike_is_another(folder: Path) -> None:
    (table,) = MAKERS["chartqa"](4)
    table.place = "data/test_mini"
    write_table(table, folder)
    assert find_layout(load_task("chartqa").source, folder / "ChartQA") is None


def test_selection_that_was_saved_is_refused(folder: Path) -> None:
    (table,) = MAKERS["chartqa"](4)
    _save_to_disk(table, folder)
    (folder / "ChartQA/test/state.json").write_text('{"_data_files": [], "_indices_data_files": null}')
    with pytest.raises(DataError, match="is a selection, or lists no files"):
        _load("chartqa", folder)


def test_only_the_files_of_the_task_s_tables_are_fetched() -> None:
    names = [
        "README.md",
        "testdev_all_images/testdev-00000-of-00001.parquet",
        "testdev_balanced_images/testdev-00000-of-00001.parquet",
        "testdev_balanced_instructions/testdev-00001-of-00002-0123abcd.parquet",
        "testdev_balanced_instructions/testdev-00000-of-00002-0123abcd.parquet",
        "train_balanced_images/train-00000-of-00001.parquet",
    ]
    assert hub_files(load_task("gqa").source, names) == [names[4], names[3], names[2]]
    assert hub_files(load_task("gqa").source, names[:3]) == []
