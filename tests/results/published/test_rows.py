from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.results.formats import to_csv
from ovbench.results.published.rows import COLUMNS, FILES, FOLDER, chosen_rows, published_rows
from ovbench.results.published.sheets import published_sheets
from ovbench.results.published.sources import source_of


def test_every_line_of_the_shipped_files_is_a_row_with_a_citation() -> None:
    lines = sum(len(list(csv.reader((FOLDER / name).open(encoding="utf-8")))) - 1 for name in FILES)
    assert len(published_rows()) == lines == 806
    assert all(source_of(row.source).version for row in published_rows())


def test_no_number_is_printed_twice_for_the_same_setting() -> None:
    keys = Counter(
        (row.source, row.table, row.encoder, row.params, row.resolution, row.tokens, row.framework, row.llm, row.metric)
        for row in published_rows()
    )
    assert [key for key, count in keys.items() if count > 1] == []


def test_versions_of_a_paper_are_sources_of_their_own() -> None:
    two, one = (
        {row.value for row in chosen_rows(f"OpenVision 3 {version}") if row.metric == "ImageNet256/gFID"}
        for version in ("v2", "v1")
    )
    assert 1.87 in two
    assert 1.89 in one
    assert 1.89 not in two


def test_an_unknown_source_and_an_unknown_table_list_those_that_there_are() -> None:
    with pytest.raises(ConfigError, match="nothing is published by 'OpenVison 4'") as caught:
        chosen_rows("OpenVison 4")
    assert "OpenVision README" in caught.value.fix
    with pytest.raises(ConfigError, match="no published table 'Table 40' in 'OpenVision 3 v2'") as caught:
        chosen_rows("OpenVision 3 v2", "Table 40")
    assert "Table 4, Table 5" in caught.value.fix


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("s,t,e,,,,f,,m,nan,true", "a published value is nan"),
        ("s,t,e,,,,f,,m,12,yes", "a published row is damaged"),
        ("s,t,e,,,,f,,m", "should have the columns"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, what: str) -> None:
    for name in FILES:
        (tmp_path / name).write_text(f"{','.join(COLUMNS)}\n{line}\n")
    with pytest.raises(DataError, match=what) as caught:
        published_rows(tmp_path)
    assert caught.value.where.endswith("openvision.csv, line 2")


def test_csv_keeps_every_published_number_as_it_was_printed() -> None:
    sheets = published_sheets(published_rows())
    rows = list(csv.DictReader(io.StringIO(to_csv.render(sheets))))
    assert [float(row["value"]) for row in rows] == [row.value for row in published_rows()]
    assert {row["kind"] for row in rows} == {"published"}
    assert all(row["citation"] and row["source_version"] and row["source_table"] for row in rows)
