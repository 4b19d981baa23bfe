"""What is wrong with a table is found before anything is asked, counted, and named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from ovbench._base.errors import DataError, OvbenchError
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from ovbench.tasks.tables import images
from tests.tasks.benchmark_files import INT, MAKERS, MadeTable, cell, picture, write_table
from tests.tasks.tables.conftest import Load

Spoil = Callable[[MadeTable], None]


def _rows(**cells: object) -> Spoil:
    """Spoils the cells of the third row."""
    return lambda table: table.rows[2].update(cells)


def _drop(column: str) -> Spoil:
    def spoil(table: MadeTable) -> None:
        del table.columns[column]
        table.rows = [{name: value for name, value in row.items() if name != column} for row in table.rows]

    return spoil


def _numbers(column: str) -> Spoil:
    def spoil(table: MadeTable) -> None:
        table.columns[column] = pa.float64()
        for row in table.rows:
            row[column] = 0.5

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("pope", _rows(question_id="1"), "the id 'adversarial-1' occurs twice, in rows 1 and 3"),
        ("gqa", _rows(id="20000000"), "the id '20000000' occurs twice, in rows 1 and 3"),
        ("pope", _drop("question"), "has no column 'question'; it has 'question_id'"),
        ("mme", _drop("question_id"), "has no column 'question_id'; it has 'question'"),
        ("scienceqa-img", _drop("hint"), "has no column 'hint'"),
        ("pope", _drop("image"), "has no column 'image'"),
        ("pope", _rows(category="strange"), "the data hold the group 'strange', which the task does not list"),
        ("chartqa", _rows(type="val"), "row 3: 'type' is 'val', which source.group_names does not list"),
        ("seedbench", _rows(question_type_id=0), "row 3: 'question_type_id' is '0', which source.group_names"),
        ("pope", _rows(answer="maybe"), "row 3: the answer 'maybe' is none of the options"),
        ("pope", _rows(answer=None), "row 3: 'answer' must hold a text, found NoneType"),
        ("seedbench", _rows(answer="E"), "row 3: the answer 'E' is no letter of an option"),
        ("seedbench", _rows(choice_b=None), "row 3: an option is empty"),
        ("scienceqa-img", _rows(answer=7), "row 3: the answer '7' is no index of an option"),
        ("scienceqa-img", _rows(choices=["one"]), "row 3: fewer than two options were found"),
        ("mmbench-dev-static", _rows(B="nan", C="nan", D="nan"), "row 3: fewer than two options were found"),
        ("textvqa", _rows(answers=[]), "row 3: 'answers' holds no reference answer"),
        ("textvqa", _rows(answers=[" ", ""]), "row 3: 'answers' holds no reference answer"),
        ("vizwiz-val", _rows(answers=None), "row 3: 'answers' must hold a list of texts, found NoneType"),
        ("ocrbench", _rows(answer=["CENTRE", ""]), "row 3: 'answer' holds an empty reference answer"),
        ("chartqa", _rows(answer="  "), "row 3: 'answer' is empty"),
        ("gqa", _rows(question=""), "row 3: 'question' is empty"),
        ("gqa", _numbers("question"), "row 1: 'question' must hold a text, found float"),
        ("chartqa", lambda table: table.rows.clear(), "the tables of 'chartqa' hold no rows"),
    ],
)  # fmt: skip
def test_bad_row_is_refused_by_name(name: str, spoil: Spoil, message: str, load: Load) -> None:
    with pytest.raises(DataError) as caught:
        load(name, spoil)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (None, "missing"),
        ({"bytes": None, "path": None}, "missing"),
        ({"bytes": None, "path": "gone.png"}, "'gone.png' is missing"),
        ({"bytes": None, "path": "../gone.png"}, "'../gone.png' leads out of the folder"),
        ({"bytes": b"", "path": "a.png"}, "empty (0 bytes)"),
        ({"bytes": b"no picture", "path": "a.png"}, "no picture that Pillow can read (UnidentifiedImageError)"),
    ],
)
def test_unusable_pictures_are_counted_named_and_refused(broken: object, reason: str, load: Load) -> None:
    def spoil(table: MadeTable) -> None:
        for row in table.rows[3:11]:
            row["image"] = broken

    with pytest.raises(DataError) as caught:
        load("pope", spoil)
    assert "8 of the 72 rows of 'pope' have no usable picture: row 4 (adversarial-4): " in caught.value.what
    assert reason in caught.value.what
    assert "row 8 (adversarial-8)" in caught.value.what
    assert "and 3 more" in caught.value.what


def test_list_of_two_pictures_is_refused(load: Load) -> None:
    with pytest.raises(DataError, match="2 pictures instead of one"):
        load("seedbench", _rows(image=[cell(0), cell(1)]))


def test_picture_that_is_cut_off_is_refused_when_it_is_opened(load: Load) -> None:
    cut = {"bytes": picture(7)[:400], "path": "a.png"}
    data = load("chartqa", _rows(image=cut))
    with pytest.raises(DataError) as caught:
        data.image(data.samples[2].image_id)
    assert "truncated or damaged" in caught.value.what
    assert caught.value.where.endswith("ChartQA/data/test-00000-of-00001.parquet, row 3")


def test_picture_of_another_table_that_is_not_there_is_named(load: Load) -> None:
    with pytest.raises(DataError) as caught:
        load("gqa", _rows(imageId="n77"))
    assert (
        "1 of the 16 rows of 'gqa' have no usable picture: row 3 (20000002): 'n77' is missing in" in caught.value.what
    )


def test_doubled_picture_of_another_table_is_refused(load: Load) -> None:
    with pytest.raises(DataError, match="the picture 'n3' is in the table twice"):
        load("gqa", lambda table: table.rows.append(table.rows[0]), table=1)


@pytest.mark.parametrize("keep", [0, 3, 100, -9])
def test_truncated_parquet_is_refused(keep: int, folder: Path) -> None:
    (path,) = write_table(MAKERS["chartqa"](4)[0], folder)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError) as caught:
        load_data(load_task("chartqa"), data_dir=folder)
    assert "cannot be read as Parquet, it is cut off or damaged" in caught.value.what
    assert "get the file again" in caught.value.fix


def test_damaged_page_of_a_parquet_file_is_refused(folder: Path) -> None:
    (path,) = write_table(MAKERS["chartqa"](4)[0], folder)
    data = bytearray(path.read_bytes())
    data[4:2000] = bytes(1996)
    path.write_bytes(bytes(data))
    with pytest.raises(OvbenchError) as caught:
        load_data(load_task("chartqa"), data_dir=folder)
    assert str(path) in str(caught.value) or "row" in str(caught.value)


def test_option_that_is_given_twice_is_kept_and_said(load: Load, caplog: pytest.LogCaptureFixture) -> None:
    data = load("seedbench", _rows(choice_b="One"))
    assert data.samples[2].options == ("One", "One", "Three", "Four")
    assert "1 questions of 'seedbench' have one option twice, and either letter counts: row-000003" in caplog.text


def test_id_may_be_a_number(load: Load) -> None:
    def spoil(table: MadeTable) -> None:
        table.columns["question_id"] = INT
        for row in table.rows:
            row["question_id"] = int(row["question_id"])

    assert load("pope", spoil).samples[0].item_id == "adversarial-1"


def test_pictures_are_hashed_once_for_an_unchanged_file(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("chartqa")
    again = load_data(first.spec, data_dir=Path(first.provenance["folder"]).parent)
    assert again.digest == first.digest

    def refuse(*arguments: object) -> None:
        raise AssertionError("the pictures were read again")

    monkeypatch.setattr(images, "_check", refuse)
    assert load_data(first.spec, data_dir=Path(first.provenance["folder"]).parent).digest == first.digest


def test_file_that_changes_during_a_run_is_noticed(load: Load, folder: Path) -> None:
    data = load("chartqa")
    (table,) = MAKERS["chartqa"](4)
    for row in table.rows:
        row["image"] = cell(50)
    write_table(table, folder)
    with pytest.raises(DataError, match="the picture of row 1 has changed while it was in use"):
        data.image(data.samples[0].image_id)
