"""HTML, Parquet, wide tables and lmms-eval's layout; and that every format gives the same bytes twice."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas
import pytest

from ovbench._base.errors import ConfigError
from ovbench.results.choose import Wanted, keep
from ovbench.results.formats import to_csv, to_html, to_json, to_latex, to_lmms, to_parquet
from ovbench.results.formats.to_rows import COLUMNS, TYPES, to_rows
from ovbench.results.leaderboard import check_export, export, render_as
from ovbench.results.published.rows import chosen_rows, published_rows
from ovbench.results.published.sheets import published_sheets
from ovbench.results.table import ComparisonTable, build_tables

DTYPES = {"str": "string", "int": "Int64", "float": "float64", "bool": "boolean"}
ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def tables(make: Any) -> list[ComparisonTable]:
    return build_tables(make.example())


@pytest.fixture
def everything(tables: list[ComparisonTable]) -> list[Any]:
    return [*tables, *published_sheets(published_rows())]


@pytest.mark.parametrize("suffix", ["csv", "md", "tex", "html", "json", "parquet"])
def test_two_builds_of_the_same_records_are_byte_identical(make: Any, tmp_path: Path, suffix: str) -> None:
    for name in ("one", "two"):
        records = make.example() if name == "one" else list(reversed(make.example()))
        rows = chosen_rows("OpenVision 3 v2")
        export([*build_tables(records), *published_sheets(rows)], tmp_path / f"{name}.{suffix}")
    assert (tmp_path / f"one.{suffix}").read_bytes() == (tmp_path / f"two.{suffix}").read_bytes()


def test_the_csv_loads_in_pandas_with_the_documented_types(everything: list[Any]) -> None:
    dtypes: dict[Any, Any] = {name: DTYPES.get(kind, "string") for name, kind in TYPES.items()}
    # `control` holds the word none, which is a value here.
    frame = pandas.read_csv(
        io.StringIO(to_csv.render(everything)), dtype=dtypes, keep_default_na=False, na_values=[""],
        true_values=["true"], false_values=["false"],
    )  # fmt: skip
    assert list(frame.columns) == list(COLUMNS)
    assert {name: str(kind) for name, kind in frame.dtypes.items()} == dtypes
    assert len(frame) == len(to_rows(everything))
    assert set(frame["control"].dropna()) == {"none", "shuffled", "blind"}


def test_every_column_is_documented_with_its_type() -> None:
    text = (ROOT / "docs" / "leaderboard.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^|]+)` \| ([a-z\[\]]+) \|", text, flags=re.M)
    documented = {name: kind for names, kind in rows for name in names.split("`, `")}
    assert documented == TYPES


def test_parquet_keeps_types_fractions_and_lists(tables: list[ComparisonTable]) -> None:
    frame = pandas.read_parquet(io.BytesIO(to_parquet.render_bytes(tables)))
    assert list(frame.columns) == list(COLUMNS)
    first = frame.iloc[0]
    assert (first["value"], first["unit"], first["num_params"]) == (0.62, "fraction", 812_000)
    assert list(first["seeds"]) == [0]


class _Cells(HTMLParser):
    """Collects the text of all cells, and every address that the page would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.fetched: list[str] = []
        self.open = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag in ("td", "th"):
            self.open += 1
            self.texts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.open -= tag in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts[-1] += data


def test_the_page_holds_every_number_and_fetches_nothing(everything: list[Any]) -> None:
    page = to_html.render(everything)
    cells = _Cells()
    cells.feed(page)
    assert cells.fetched == []
    assert "http" not in re.sub(r"<li>.*?</li>", "", page)
    assert {"62.0* [60.0, 64.0]", "siglip/mini?note=a_b|c&d", "—(1)", "10.119"} <= set(cells.texts)


def test_the_page_sorts_by_numbers_and_not_by_their_text(tables: list[ComparisonTable]) -> None:
    page = to_html.render(tables)
    assert '<td data-key="62.0"><strong>62.0</strong>*' in page
    assert page.count("<th scope=") == page.count('<button type="button">')


def test_names_are_escaped_in_the_page(make: Any) -> None:
    page = to_html.render(build_tables([make.record("clip/<script>alert(1)</script>")]))
    assert "<script>alert" not in page
    assert "clip/&lt;script&gt;alert(1)" in page


def test_a_wide_csv_has_a_row_per_encoder_and_a_column_per_score(tables: list[ComparisonTable]) -> None:
    frame = pandas.read_csv(io.StringIO(to_csv.render(tables[:1], wide=True)))
    assert list(frame["row"]) == [row.label for row in tables[0].rows]
    first = frame.iloc[0]
    assert (first["mini-seed/accuracy"], first["mini-seed/accuracy:low"]) == (62.0, 60.0)
    assert first["mini-seed/accuracy/identity"] == 52.0
    assert first["mini-pope/accuracy@shuffled"] == 50.3


def test_wide_json_and_parquet_keep_fractions(tables: list[ComparisonTable]) -> None:
    (table,) = json.loads(to_json.render(tables[:1], wide=True))["tables"]
    frame = pandas.read_parquet(io.BytesIO(to_parquet.render_bytes(tables[:1], wide=True)))
    assert table["rows"][0]["mini-seed/accuracy"] == frame["mini-seed/accuracy"][0] == 0.62


def test_a_wide_table_of_a_paper_has_a_row_per_printed_row() -> None:
    sheets = published_sheets(chosen_rows("OpenVision 3 v2", "Table 8"))
    frame = pandas.read_csv(io.StringIO(to_csv.render(sheets, wide=True)))
    assert list(frame["SeedBench"]) == [62.4, 62.2, 63.6, 62.0]


def test_wide_refuses_two_tables(tables: list[ComparisonTable]) -> None:
    with pytest.raises(ConfigError, match="--pivot wide takes one table, there are 2"):
        render_as(tables, "csv", pivot="wide")


def test_a_pivot_without_effect_or_of_an_unknown_name_is_refused() -> None:
    with pytest.raises(ConfigError, match="--pivot wide changes nothing here"):
        check_export("console", [], "wide")
    with pytest.raises(ConfigError, match="unknown pivot 'tall'"):
        check_export("csv", [], "tall")
    check_export("console", [Path("t.parquet")], "wide")


def test_latex_is_balanced_and_needs_booktabs_alone(everything: list[Any]) -> None:
    text = to_latex.render(everything)
    for name in ("table", "tabular"):
        assert text.count(rf"\begin{{{name}}}") == text.count(rf"\end{{{name}}}") > 0
    assert text.count(r"\toprule") == text.count(r"\bottomrule")
    commands = set(re.findall(r"\\([A-Za-z]+)", text))
    assert commands <= {
        "begin", "end", "centering", "small", "caption", "toprule", "midrule", "bottomrule", "textbf", "par", "medskip",
        "smallskip", "footnotesize", "pm", "uparrow", "downarrow", "cdot", "times", "ldots", "textbackslash",
        "textless", "textgreater", "textasciitilde", "textasciicircum", "S",
    }  # fmt: skip
    assert not re.findall(r"(?<!\\)[#%_]", text)
    grids = re.findall(r"\\begin{tabular}{(.*?)}\n(.*?)\\end{tabular}", text, flags=re.S)
    for columns, body in grids:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) + 1 for line in lines} == {len(columns)}


def test_latex_holds_only_characters_that_every_engine_sets(everything: list[Any]) -> None:
    assert {character for character in to_latex.render(everything) if ord(character) > 126} == set()


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(everything: list[Any], tmp_path: Path) -> None:
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    few = everything[:8]  # LaTeX holds back a limited number of floats
    (tmp_path / "t.tex").write_text(f"{head}{to_latex.render(few)}\\end{{document}}\n", encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:]


def test_the_layout_of_lmms_eval_holds_scores_and_comes_back_as_foreign(
    tables: list[ComparisonTable], tmp_path: Path
) -> None:
    from ovbench.results.foreign.read import read_foreign

    chosen = keep(tables[:1], Wanted(encoders=("ovis3",)))
    export(chosen, tmp_path / "r.lmms.json")
    document = json.loads((tmp_path / "r.lmms.json").read_text())
    assert document["results"]["mini-seed"]["accuracy,none"] == 0.62
    assert document["results"]["mini-seed"]["accuracy_stderr,none"] == pytest.approx(0.02 / 1.96, rel=1e-4)
    assert document["n-samples"]["mini-seed"] == {"original": 1400, "effective": 1400}
    sheet = read_foreign(tmp_path / "r.lmms.json")
    scores = {(score.task, score.metric): score.value for score in sheet.scores}
    assert scores["mini-pope", "accuracy"] == 0.71


def test_the_layout_of_lmms_eval_is_of_one_encoder(tables: list[ComparisonTable]) -> None:
    with pytest.raises(ConfigError, match="is of one encoder in one table, there are 5 rows"):
        to_lmms.render(tables)
