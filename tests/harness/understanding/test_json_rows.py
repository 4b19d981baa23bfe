from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.understanding import json_rows
from ovbench.harness.understanding.json_rows import JsonRows

ROWS = [
    {"id": "1", "image": "a/b.jpg", "text": 'plain [], {} and " \\ '},
    {"id": 2, "image": "ä/日本.jpg", "text": "Ü\u0085\u00a0😀 " * 20},
    {"id": "3"},
    "a text",
    17,
    [{"image": "no"}],
    {"id": "4", "image": "\u00e9.jpg"},
]


@pytest.fixture(params=[1 << 24, 7])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once with the whole file in one block, once with rows over many."""
    monkeypatch.setattr(json_rows, "_BLOCK_BYTES", request.param)


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("options", [{}, {"ensure_ascii": False}, {"ensure_ascii": False, "indent": 3}])
def test_rows_are_those_of_the_json_module(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS, **options), encoding="utf-8")  # type: ignore[arg-type]
    rows = JsonRows(path)
    assert [rows[number] for number in range(len(rows))] == ROWS
    assert rows.images == ["a/b.jpg", "ä/日本.jpg", None, None, None, None, "é.jpg"]


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize("text", ["[]", " [ ]\n", "\ufeff[1]", "[1 ,\n 2]"])
def test_blanks_and_marks_around_are_allowed(tmp_path: Path, text: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    rows = JsonRows(path)
    assert [rows[number] for number in range(len(rows))] == json.loads(text.lstrip("\ufeff"))


@pytest.mark.usefixtures("block")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[{"id": 1}, {"id": 2,}]', "row 2 is not valid JSON"),
        ('[{"id": 1}, {"id": "2]', "row 2 is not valid JSON: Unterminated string"),
        ('[{"id": 1}, tru', "row 2 is not valid JSON"),
        ('[{"id": 1}, ]', "row 2 is not valid JSON"),
        ('[{"id": 1}', "after row 1: the list is cut off"),
        ('[{"id": 1} {"id": 2}]', "after row 1: expected a comma"),
        ('{"id": 1}', "is no JSON list"),
        ("", "is no JSON list"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "rows.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        JsonRows(path)
    assert str(path) in caught.value.where


def test_the_place_of_a_broken_row_is_told_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('["ä", ?]', encoding="utf-8")
    with pytest.raises(DataError) as caught:
        JsonRows(path)
    assert caught.value.where == f"{path}, byte 7"


def test_a_row_that_is_not_utf8_is_named_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b'["a", "\xff"]')
    rows = JsonRows(path)
    assert rows[0] == "a"
    with pytest.raises(DataError, match="row 2 is not valid JSON"):
        rows[1]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'rows.json' is missing"):
        JsonRows(tmp_path / "rows.json")
