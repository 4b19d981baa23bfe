"""Every format against its golden file, and what each must hold for itself."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from ovbench.results.formats import to_console, to_csv, to_json, to_latex, to_markdown
from ovbench.results.formats.layout import number
from ovbench.results.formats.to_rows import COLUMNS
from ovbench.results.table import ComparisonTable, build_tables


@pytest.fixture
def tables(make: Any) -> list[ComparisonTable]:
    return build_tables(make.example())


def _csv(tables: list[ComparisonTable]) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(to_csv.render(tables))))


@pytest.mark.parametrize(
    ("name", "render"),
    [
        ("example.csv", to_csv.render),
        ("example.md", to_markdown.render),
        ("example.tex", to_latex.render),
        ("example.json", to_json.render),
        ("example.txt", lambda tables: to_console.render(tables, width=140, color=False) + "\n"),
    ],
)
def test_the_format_gives_its_golden_file(
    name: str,
    render: Callable[[list[ComparisonTable]], str],
    tables: list[ComparisonTable],
    golden: Callable[[str, str], None],
) -> None:
    golden(f"tables/{name}", render(tables))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.6214, "fraction", "62.1"),
        (1.0, "fraction", "100.0"),
        (0.0, "fraction", "0.0"),
        (-0.0001, "fraction", "0.0"),
        (-0.01, "fraction", "-1.0"),
        (24.816, "dB", "24.82"),
    ],
)
def test_numbers_become_percent_only_where_they_are_fractions(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_csv_columns_are_fixed(tables: list[ComparisonTable]) -> None:
    assert to_csv.render(tables).splitlines()[0] == ",".join(COLUMNS)


def test_csv_of_nothing_is_its_header() -> None:
    assert to_csv.render([]) == ",".join(COLUMNS) + "\n"


def test_csv_is_in_percent(tables: list[ComparisonTable]) -> None:
    first = _csv(tables)[0]
    assert (first["value"], first["low"], first["high"], first["unit"]) == ("62.0000", "60.0000", "64.0000", "percent")


def test_csv_leaves_a_missing_value_empty_and_says_why(tables: list[ComparisonTable]) -> None:
    missing = [row for row in _csv(tables) if row["value"] == ""]
    assert missing
    assert {row["reason"] for row in missing} == {"no question was answered yes"}
    assert {row["low"] for row in missing} == {""}


def test_csv_has_one_row_per_encoder_task_metric_control_and_group(tables: list[ComparisonTable]) -> None:
    keys = [tuple(row[name] for name in ("limit", "row", "task", "metric", "control", "group")) for row in _csv(tables)]
    assert len(keys) == len(set(keys))


def test_json_keeps_fractions_at_full_precision(make: Any) -> None:
    text = to_json.render(build_tables([make.record(metrics=1 / 3)]))
    row = json.loads(text)["tables"][0]["rows"][0]
    assert (row["value"], row["unit"]) == (1 / 3, "fraction")


def test_a_missing_value_is_a_dash_with_a_footnote(tables: list[ComparisonTable]) -> None:
    text = to_console.render(tables, width=140, color=False)
    assert "— [1]" in text
    assert "[1] no question was answered yes" in text


def test_console_has_no_colour_unless_it_is_asked_for(tables: list[ComparisonTable]) -> None:
    assert "\x1b[" not in to_console.render(tables, width=140)
    assert "\x1b[" in to_console.render(tables, width=140, color=True)


def test_console_names_protocol_controls_and_chance(tables: list[ComparisonTable]) -> None:
    text = to_console.render(tables[:1], width=140, color=False)
    assert text.startswith("understanding · protocol mini v1 · ")
    for word in ("shuffled", "blind", "chance", "random/mini (control)"):
        assert word in text


def test_markup_in_a_name_is_printed_as_it_is(make: Any) -> None:
    text = to_console.render(build_tables([make.record("clip/[red]x[/red]")]), width=140, color=False)
    assert "clip/[red]x[/red]" in text


def test_markdown_rows_have_the_same_number_of_cells(tables: list[ComparisonTable]) -> None:
    blocks = to_markdown.render(tables).replace("\\|", "").split("\n\n")
    grids = [block.splitlines() for block in blocks if block.startswith("|")]
    assert grids
    assert all(len({line.count("|") for line in grid}) == 1 for grid in grids)


def test_latex_escapes_what_has_a_meaning(make: Any) -> None:
    assert to_latex.escape("a_b & 5% {x} ~^\\ #$") == (
        r"a\_b \& 5\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} \#\$"
    )
    assert "a\\_b|c\\&d" in to_latex.render(build_tables(make.example()))


def test_latex_braces_and_environments_are_balanced(tables: list[ComparisonTable]) -> None:
    text = to_latex.render(tables)
    bare = text.replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    assert text.count("\\begin{tabular}") == text.count("\\end{tabular}")


def test_rows_for_listings(make: Any) -> None:
    rows = [{"task": "mini-seed", "chance": 0.25, "ok": True, "groups": ["a", "b"], "note": None}]
    lines = to_console.render_rows(rows, width=80, color=False).splitlines()
    assert lines[0].split() == ["task", "chance", "ok", "groups", "note"]
    assert lines[1].split() == ["mini-seed", "0.25", "yes", "a,", "b"]


def test_no_rows_are_said() -> None:
    assert to_console.render_rows([]) == "nothing to list"


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.625, "fraction", "62.5"), (1250.0, "points", "1250.0"), (3.0, "count", "3"), (1.5, "dB", "1.50")],
)
def test_a_number_is_shown_in_its_unit(value: float, unit: str, text: str) -> None:
    assert number(value, unit) == text


def test_what_is_nested_is_printed_as_lines_of_key_and_value() -> None:
    measurements = [
        {"name": "NFE", "value": 25.0, "unit": "per sample", "reason": None},
        {"name": "latent health: effective_rank", "value": 31.5, "unit": "", "reason": None},
        {"name": "peak_device_memory", "value": None, "unit": "bytes", "reason": "runs on the CPU"},
    ]
    card = [
        {"field": "measurements", "value": measurements},
        {"field": "versions", "value": {"torch": "2.13.0", "timm": None, "of": {"a": 1, "b": [1, 2]}}},
    ]
    lines = [line.strip() for line in to_console.render_rows(card, width=200).splitlines()[1:]]
    assert lines == [
        "measurements  NFE: 25.0 per sample",
        "latent health: effective_rank: 31.5",
        "peak_device_memory: unit bytes, reason runs on the CPU",
        "versions      torch: 2.13.0",
        "timm:",
        "of:",
        "a: 1",
        "b: 1, 2",
    ]
