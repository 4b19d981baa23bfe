from __future__ import annotations

from collections.abc import Callable

import pytest

from ovbench.results.formats import to_console, to_latex, to_markdown
from ovbench.results.published.rows import chosen_rows, published_rows
from ovbench.results.published.sheets import PublishedSheet, published_sheets

OURS = "OpenVision 3 v2"


def sheet_of(table: str) -> PublishedSheet:
    (sheet,) = published_sheets(chosen_rows(OURS, table))
    return sheet


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_a_table_of_the_paper_comes_out_as_it_was_printed(number: int, golden: Callable[[str, str], None]) -> None:
    text = to_console.render([sheet_of(f"Table {number}")], width=140, color=False)
    golden(f"tables/openvision3-v2-table{number}.txt", text + "\n")


def test_a_sheet_holds_one_table_of_one_source() -> None:
    sheets = published_sheets(published_rows())
    titles = [sheet.title for sheet in sheets]
    assert len(set(titles)) == len(titles)
    assert all({(row.source, row.table) for row in sheet.rows} == {(sheet.source, sheet.table)} for sheet in sheets)


def test_a_sheet_says_that_it_is_published_by_whom_and_in_which_version() -> None:
    sheet = sheet_of("Table 4")
    assert sheet.title.startswith("PUBLISHED · OpenVision 3 v2")
    assert "arXiv 2601.15369, v2, March 2026, Table 4" in sheet.notes[0]


def test_encoders_with_another_number_of_tokens_stand_below_a_rule() -> None:
    (section,) = sheet_of("Table 4").lay_out().sections
    assert [line.rule for line in section.rows] == [False, False, True, False]
    assert to_latex.render([sheet_of("Table 4")]).count(r"\midrule") == 2


def test_metrics_of_a_data_set_stand_under_its_name() -> None:
    (section,) = sheet_of("Table 2").lay_out().sections
    assert section.headers[1] == ("ImageNet", "PSNR ↑")
    assert section.headers[-1] == ("COCO", "rFID ↓")


def test_a_generator_that_differs_by_row_is_a_column() -> None:
    (section,) = sheet_of("Table 3").lay_out().sections
    assert section.headers[:2] == (("encoder",), ("framework",))
    assert [cell.value for cell in section.rows[-1].cells] == ["OpenVision 3", "RAE", "1.87", "290.0", "0.84", "0.59"]


def test_a_value_that_was_not_printed_is_a_dash_with_a_reason() -> None:
    text = to_markdown.render(published_sheets(chosen_rows("OpenVision 3 v1", "seen second-hand (public summaries)")))
    assert "| — (1) |" in text
    assert "(1) the publication prints no value" in text


def test_no_published_value_is_marked_as_best() -> None:
    for sheet in published_sheets(published_rows()):
        assert {cell.mark for section in sheet.lay_out().sections for line in section.rows for cell in line.cells} == {
            ""
        }
