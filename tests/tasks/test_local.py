"""Questions out of local files: every format, every way to be wrong."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import DataError
from ovbench._base.fingerprint import file_sha256
from ovbench.tasks.base import TaskData
from ovbench.tasks.load import load_task_file
from ovbench.tasks.sources import load_data

Entry = dict[str, Any]
Write = Callable[..., Path]


def _load(path: Path) -> TaskData:
    return load_data(load_task_file(path))


def _fault(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        _load(path)
    return str(caught.value)


def test_jsonl_is_read(write: Write, entry: Entry, rows: list[Entry]) -> None:
    data = _load(write(entry, rows))
    first = data.samples[0]
    assert (first.item_id, first.image_id, first.question, first.group) == ("q0", "0.png", "Question 0?", "early")
    assert [sample.answer for sample in data.samples] == ["cup", "plate"] * 3
    assert data.image_ids == ("0.png", "1.png")


def test_picture_is_rgb_in_its_own_size(write: Write, entry: Entry, rows: list[Entry]) -> None:
    image = _load(write(entry, rows)).image("1.png")
    assert image.shape == (3, 4, 3)
    assert image.dtype == np.uint8
    assert np.array_equal(image[0, 0], [0, 0, 255])


def test_pictures_are_opened_only_when_asked_for(write: Write, entry: Entry, rows: list[Entry]) -> None:
    path = write(entry, rows)
    (path.parent / "0.png").write_bytes(b"no picture")
    data = _load(path)
    with pytest.raises(DataError, match=r"the picture '0\.png' is in no format"):
        data.image("0.png")


def test_cut_off_picture_is_refused(write: Write, entry: Entry, rows: list[Entry]) -> None:
    path = write(entry, rows)
    whole = (path.parent / "0.png").read_bytes()
    (path.parent / "0.png").write_bytes(whole[:50])
    with pytest.raises(DataError, match="truncated or damaged"):
        _load(path).image("0.png")


def _delimited(path: Path, rows: list[Entry], delimiter: str) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, delimiter=delimiter)
        writer.writerow(rows[0])
        writer.writerows([json.dumps(v) if isinstance(v, list) else v for v in row.values()] for row in rows)


@pytest.mark.parametrize(("kind", "delimiter"), [("csv", ","), ("tsv", "\t")])
def test_delimited_file_gives_the_same_samples(
    write: Write, entry: Entry, rows: list[Entry], kind: str, delimiter: str
) -> None:
    expected = _load(write(entry, rows)).samples
    entry["source"] |= {"type": kind, "path": f"rows.{kind}"}
    path = write(entry)
    _delimited(path.parent / f"rows.{kind}", rows, delimiter)
    assert _load(path).samples == expected


def test_parquet_gives_the_same_samples(write: Write, entry: Entry, rows: list[Entry]) -> None:
    import pyarrow
    import pyarrow.parquet

    expected = _load(write(entry, rows)).samples
    entry["source"] |= {"type": "parquet", "path": "rows.parquet"}
    path = write(entry)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path.parent / "rows.parquet")
    assert _load(path).samples == expected


def test_words_that_look_like_missing_values_stay_words(write: Write, entry: Entry) -> None:
    entry["source"] |= {"type": "tsv", "path": "rows.tsv", "answer": "text"}
    entry["source"]["columns"] |= {"options": ["A", "B"]}
    path = write(entry)
    (path.parent / "rows.tsv").write_text(
        "id\timage\tquestion\tA\tB\tanswer\tgroup\n1\t0.png\tHow many?\tNone\tNA\tNone\tnull\n", encoding="utf-8"
    )
    (sample,) = _load(path).samples
    assert (sample.options, sample.answer, sample.group) == (("None", "NA"), "None", "null")


def test_empty_last_option_columns_are_left_out(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"]["columns"] |= {"options": ["A", "B", "C", "D"]}
    letters = {"A": "cup", "B": "plate", "C": "", "D": None}
    assert _load(write(entry, [row | letters for row in rows])).samples[0].options == ("cup", "plate")


@pytest.mark.parametrize(
    ("form", "answer", "expected"),
    [("letter", "b", "plate"), ("index", 1, "plate"), ("index", "0", "cup"), ("text", "plate", "plate")],
)
def test_answer_is_read_in_its_form(
    write: Write, entry: Entry, rows: list[Entry], form: str, answer: Any, expected: str
) -> None:
    entry["source"]["answer"] = form
    assert _load(write(entry, [rows[0] | {"answer": answer}])).samples[0].answer == expected


@pytest.mark.parametrize(
    ("form", "answer", "message"),
    [
        ("letter", "C", "the answer 'C' is no letter of an option"),
        ("letter", "AB", "it must be A to B"),
        ("index", 2, "it must be 0 to 1"),
        ("index", -1, "the answer '-1' is no index of an option"),
        ("text", "Cup", "the answer 'Cup' is none of the options"),
        ("letter", "", "'answer' is empty"),
        ("letter", None, "'answer' must hold a text, found NoneType"),
        ("index", 1.0, "'answer' must hold a text, found float"),
    ],
)
def test_answer_that_is_no_option_is_refused(
    write: Write, entry: Entry, rows: list[Entry], form: str, answer: Any, message: str
) -> None:
    entry["source"]["answer"] = form
    fault = _fault(write(entry, [rows[0] | {"answer": answer}]))
    assert message in fault
    assert "row 1" in fault


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["cup"], "fewer than two options"),
        (["cup", "cup"], "an option is given twice: cup, cup"),
        (["cup", " "], "an option is empty"),
        (["cup", None], "an option is empty"),
        ("cup, plate", "is not a JSON list"),
        (3, "fewer than two options"),
    ],
)
def test_bad_options_are_refused(write: Write, entry: Entry, rows: list[Entry], options: Any, message: str) -> None:
    assert message in _fault(write(entry, [rows[0] | {"options": options}]))


def test_yesno_reads_yes_and_no_in_any_case(write: Write, entry: Entry, rows: list[Entry]) -> None:
    del entry["source"]["columns"]["options"]
    entry["source"]["answer"] = "text"
    asked = [row | {"answer": word} for row, word in zip(rows, ["Yes", "no", "NO"], strict=False)]
    data = _load(write(entry | {"kind": "yesno", "parser": "pope_official"}, asked))
    assert [sample.answer for sample in data.samples] == ["yes", "no", "no"]
    assert data.samples[0].options == ("yes", "no")


def test_missing_column_gets_a_suggestion(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"]["columns"]["question"] = "questions"
    fault = _fault(write(entry, rows))
    assert "there is no column 'questions'" in fault
    assert "did you mean 'question'?" in fault


def test_missing_picture_names_row_and_folder(write: Write, entry: Entry, rows: list[Entry]) -> None:
    fault = _fault(write(entry, [*rows, rows[0] | {"id": "q9", "image": "nine.png"}]))
    assert "the picture 'nine.png' is missing" in fault
    assert "rows.jsonl, row 7" in fault


def test_picture_with_an_endless_name_is_missing(write: Write, entry: Entry, rows: list[Entry]) -> None:
    assert "is missing" in _fault(write(entry, [rows[0] | {"image": "a" * 5000}]))


def test_grey_picture_of_16_bits_is_scaled_and_not_clipped(write: Write, entry: Entry, rows: list[Entry]) -> None:
    path = write(entry, rows)
    Image.fromarray(np.full((3, 4), 257 * 12, np.uint16)).save(path.parent / "0.png")
    assert (_load(path).image("0.png") == 12).all()


def test_picture_whose_white_is_not_known_is_refused(write: Write, entry: Entry, rows: list[Entry]) -> None:
    path = write(entry, [rows[0] | {"image": "0.tiff"}])
    Image.fromarray(np.full((3, 4), 0.5, np.float32)).save(path.parent / "0.tiff")
    with pytest.raises(DataError, match="cannot be used"):
        _load(path).image("0.tiff")


@pytest.mark.parametrize("change", [{"question": "half \ud800"}, {"options": ["cup", "\ud800"]}, {"id": "\ud800"}])
def test_half_a_character_is_refused(write: Write, entry: Entry, rows: list[Entry], change: Entry) -> None:
    fault = _fault(write(entry, [rows[0] | change]))
    assert "row 1" in fault
    assert "holds half a character" in fault


def test_pictures_may_be_in_another_folder(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"]["images"] = "pictures"
    path = write(entry, rows)
    (path.parent / "pictures").mkdir()
    for name in ("0.png", "1.png"):
        (path.parent / name).rename(path.parent / "pictures" / name)
    assert _load(path).image("0.png").shape == (3, 4, 3)


def test_id_that_occurs_twice_is_refused(write: Write, entry: Entry, rows: list[Entry]) -> None:
    fault = _fault(write(entry, [*rows, rows[2]]))
    assert "the id 'q2' occurs twice, in rows 3 and 7" in fault
    assert "key: row" in fault


def test_counted_rows_may_repeat_an_id(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"]["key"] = "row"
    data = _load(write(entry, [*rows, rows[2]]))
    assert data.samples[6].item_id == "row-000007"


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("jsonl", b"", "holds no rows"),
        ("jsonl", b"[1]\n", "row 1: expected an object, found list"),
        ("jsonl", b"{\n", "line 1 is not JSON"),
        ("csv", b"id,image\n", "holds no rows"),
        ("csv", b"", "holds no rows"),
        ("csv", b"id,id\n1,2\n", "a column name occurs twice"),
        ("csv", b"id,image\n1\n", "row 1: 1 cells, the header has 2"),
        ("tsv", b"id\n\xff\xfe\n", "cannot be read"),
        ("parquet", b"no parquet", "cannot be read as Parquet"),
    ],
)
def test_damaged_file_is_refused(write: Write, entry: Entry, kind: str, content: bytes, message: str) -> None:
    entry["source"] |= {"type": kind, "path": "rows.x"}
    path = write(entry)
    (path.parent / "rows.x").write_bytes(content)
    assert message in _fault(path)


def test_absent_file_is_said(write: Write, entry: Entry) -> None:
    assert "no such file 'rows.jsonl'" in _fault(write(entry))


def test_digest_of_another_file_is_refused(write: Write, entry: Entry, rows: list[Entry]) -> None:
    path = write(entry, rows)
    entry["source"]["sha256"] = file_sha256(path.parent / "rows.jsonl").upper()
    assert len(_load(write(entry, rows)).samples) == 6
    fault = _fault(write(entry, rows[:-1]))
    assert "the task expects" in fault


def test_digest_follows_the_pictures_and_not_the_folder(
    write: Write, entry: Entry, rows: list[Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = write(entry, rows)
    first = _load(path).digest
    copy = tmp_path_factory.mktemp("copy") / "here"
    path.parent.rename(copy)
    assert _load(copy / path.name).digest == first
    (copy / "0.png").write_bytes((copy / "1.png").read_bytes())
    assert _load(copy / path.name).digest != first


# --- open questions, further columns, changes of the question --------------------------------------------------------


@pytest.fixture
def open_entry(entry: Entry) -> Entry:
    """A task of open questions."""
    del entry["source"]["columns"]["options"]
    entry["source"]["answer"] = "texts"
    return entry | {"kind": "open", "parser": "vqa", "scoring": "greedy"}


def test_open_question_has_every_reference_answer(write: Write, open_entry: Entry, rows: list[Entry]) -> None:
    data = _load(write(open_entry, [rows[0] | {"answer": ["two", "2"]}, rows[1] | {"answer": "three"}]))
    assert [(sample.answer, sample.answers, sample.options) for sample in data.samples] == [
        ("two", ("two", "2"), ()),
        ("three", ("three",), ()),
    ]


def test_reference_answers_in_a_cell_of_text_are_a_json_list(
    write: Write, open_entry: Entry, rows: list[Entry]
) -> None:
    open_entry["source"] |= {"type": "csv", "path": "rows.csv", "answer": "votes"}
    path = write(open_entry)
    _delimited(path.parent / "rows.csv", [row | {"answer": ["yes", "yes", "no"]} for row in rows], ",")
    assert _load(path).samples[0].answers == ("yes", "yes", "no")


@pytest.mark.parametrize("answer", [[], ["two", ""], [2], None, ""])
def test_bad_reference_answers_are_refused(write: Write, open_entry: Entry, rows: list[Entry], answer: Any) -> None:
    fault = _fault(write(open_entry, [rows[0] | {"answer": answer}]))
    assert "row 1: 'answer'" in fault


def test_further_columns_reach_the_prompt_and_the_sample(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"] |= {"extra": ["hint", "words"]}
    entry["prompt"] = "[[{hint}: ]]{question} [{words}]"
    asked = [rows[0] | {"hint": "Look", "words": ["a", "b"]}, rows[1] | {"hint": None, "words": 3}]
    first, second = _load(write(entry, asked)).samples
    assert (first.prompt, second.prompt) == ("Look: Question 0? [a, b]", "Question 1? [3]")
    assert second.extra == {"hint": "", "words": "3"}


def test_question_is_changed_as_the_source_says(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"] |= {"question": {"drop": " Say yes.", "capitalize": True}, "blank": ["nan"]}
    data = _load(write(entry, [rows[0] | {"question": "is IT red? Say yes."}]))
    assert data.samples[0].prompt == "Is it red?"
    assert "'question' must hold a text, found NoneType" in _fault(write(entry, [rows[0] | {"question": "nan"}]))


def test_cells_name_groups_by_a_table(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"]["group_names"] = {"early": "morning", "late": "evening"}
    assert {sample.group for sample in _load(write(entry, rows)).samples} == {"morning", "evening"}


def test_group_and_id_together_tell_rows_apart(write: Write, entry: Entry, rows: list[Entry]) -> None:
    entry["source"]["key"] = "group-id"
    data = _load(write(entry, [rows[0], rows[0] | {"group": "late"}]))
    assert [sample.item_id for sample in data.samples] == ["early-q0", "late-q0"]
