from __future__ import annotations

import csv
import io

import pytest

from ovbench.results.formats.plain_rows import to_csv, to_markdown

ROWS = [{"metric": "f1", "value": 0.5, "how": 'a "word", and\nmore'}, {"metric": "a|b_c", "value": None, "how": ""}]


def test_csv_reads_back_as_it_was() -> None:
    assert list(csv.DictReader(io.StringIO(to_csv(ROWS)))) == [
        {"metric": "f1", "value": "0.5", "how": 'a "word", and\nmore'},
        {"metric": "a|b_c", "value": "", "how": ""},
    ]


def test_markdown_has_a_line_a_row_and_no_markup_in_a_cell() -> None:
    assert to_markdown(ROWS).splitlines() == [
        "| metric | value | how |",
        "| --- | --- | --- |",
        '| f1 | 0.5 | a "word", and more |',
        "| a\\|b\\_c |  |  |",
    ]


@pytest.mark.parametrize("write", [to_csv, to_markdown])
def test_no_row_is_no_text(write: object) -> None:
    assert callable(write)
    assert write([]) == ""
