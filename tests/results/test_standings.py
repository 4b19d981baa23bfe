from __future__ import annotations

from typing import Any

import pytest

from ovbench.results.formats import to_console
from ovbench.results.formats.to_rows import to_rows
from ovbench.results.standings import TaskStanding, contestants, with_standings
from ovbench.results.table import ComparisonTable, build_tables


@pytest.fixture
def table(make: Any) -> ComparisonTable:
    return build_tables(make.example())[0]


def standing(**changes: Any) -> TaskStanding:
    fields: dict[str, Any] = {
        "best": None,
        "tied": ("ovis3/mini", "clip/mini", "random/mini"),
        "ranks": {"ovis3/mini": (1, 3), "clip/mini": (1, 3), "random/mini": (1, 4)},
        "untested": {},
    }
    return TaskStanding(**{**fields, **changes})


def marks(table: ComparisonTable, task: str) -> dict[str, str]:
    (column,) = [
        column
        for column in table.columns
        if (column.task, column.metric, column.group, column.control) == (task, "accuracy", None, "none")
    ]
    return {row.label: row.cell(column).mark for row in table.rows}


def test_ties_of_paired_tests_replace_the_best_of_intervals(table: ComparisonTable) -> None:
    assert marks(table, "mini-seed")["ovis3/mini"] == "best"
    found = marks(with_standings(table, {"mini-seed": standing()}), "mini-seed")
    assert found["ovis3/mini"] == found["clip/mini"] == "tied"
    assert found["random/mini"] == ""  # a control is never marked


def test_a_best_that_tests_support_is_marked_though_intervals_overlap(table: ComparisonTable) -> None:
    assert marks(table, "mini-pope")["ovis3/mini"] == "tied"
    found = with_standings(table, {"mini-pope": standing(best="ovis3/mini", tied=("ovis3/mini",))})
    assert marks(found, "mini-pope") == dict.fromkeys(marks(table, "mini-pope"), "") | {"ovis3/mini": "best"}


def test_a_control_that_is_best_leaves_nobody_marked(table: ComparisonTable) -> None:
    found = with_standings(table, {"mini-seed": standing(best="random/mini", tied=("random/mini",))})
    assert set(marks(found, "mini-seed").values()) == {""}


def test_other_columns_keep_the_marks_of_their_intervals(table: ComparisonTable) -> None:
    found = with_standings(table, {"mini-seed": standing()})
    assert marks(found, "mini-pope") == marks(table, "mini-pope")
    bases = {(row["task"], row["mark_basis"]) for row in to_rows([found]) if row["mark"]}
    assert ("mini-pope", "intervals") in bases
    assert ("mini-seed", "paired tests") in bases


def test_rank_intervals_are_columns(table: ComparisonTable) -> None:
    rows = to_rows([with_standings(table, {"mini-seed": standing()})])
    ranks = {
        row["row"]: (row["rank_low"], row["rank_high"])
        for row in rows
        if (row["task"], row["metric"], row["group"], row["control"]) == ("mini-seed", "accuracy", None, "none")
    }
    assert ranks["clip/mini"] == (1, 3)
    assert ranks["chance"] == (None, None)


def test_a_table_says_what_its_marks_rest_on_and_which_pairs_were_not_tested(table: ComparisonTable) -> None:
    found = with_standings(table, {"mini-seed": standing(untested={("a", "b"): "no seed in common"})})
    text = to_console.render([found], width=140, color=False)
    assert "marks of mini-seed: paired tests on common items, Holm's correction over all pairs" in text
    assert "=: not told apart from the first" in text
    assert "mini-seed: 1 pair(s) not tested: no seed in common" in text
    assert "ranks on mini-seed that the tests allow: ovis3/mini 1–3" in text


def test_contestants_are_all_rows_but_chance_with_their_runs(make: Any) -> None:
    records = make.example()
    (table, _) = build_tables(records)
    rows = contestants(table, records)
    assert set(rows) == {row.label for row in table.rows} - {"chance"}
    assert len(rows["clip/mini"]) == 2
