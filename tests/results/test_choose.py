from __future__ import annotations

from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.results.choose import Wanted, in_order, keep
from ovbench.results.formats import to_console
from ovbench.results.table import ComparisonTable, build_tables


@pytest.fixture
def tables(make: Any) -> list[ComparisonTable]:
    return build_tables(make.example())


def labels(table: ComparisonTable) -> list[str]:
    return [row.label for row in table.rows]


def test_no_filter_keeps_everything(tables: list[ComparisonTable]) -> None:
    assert Wanted().empty
    assert keep(tables, Wanted()) == tables


@pytest.mark.parametrize("pattern", ["clip/mini", "CLIP/*", "clip", "c?ip/*"])
def test_an_encoder_is_chosen_by_spec_family_or_pattern(tables: list[ComparisonTable], pattern: str) -> None:
    (table,) = keep(tables, Wanted(encoders=(pattern,)))
    assert labels(table) == ["clip/mini", "chance"]


def test_marks_stay_those_against_all_rows(tables: list[ComparisonTable]) -> None:
    (table,) = keep(tables, Wanted(encoders=("clip",)))
    whole = {row.label: row for row in tables[0].rows}["clip/mini"]
    assert dict(table.rows[0].cells) == dict(whole.cells)
    assert table.notes[-1] == "marks were made against all rows, of which only some are shown"


def test_tasks_metrics_controls_and_groups_choose_columns(tables: list[ComparisonTable]) -> None:
    wanted = Wanted(tasks=("mini-pope",), metrics=("accuracy",), controls=("none",), groups=("all", "random"))
    (table,) = keep(tables, wanted)
    assert [(column.task, column.metric, column.control, column.group) for column in table.columns] == [
        ("mini-pope", "accuracy", "none", None),
        ("mini-pope", "accuracy", "none", "random"),
    ]


def test_what_is_no_headline_is_printed_too(tables: list[ComparisonTable]) -> None:
    text = to_console.render(keep(tables, Wanted(metrics=("yes_rate",))), width=140, color=False)
    assert "mini-pope: other metrics" in text
    assert "yes_rate" in text
    only = to_console.render(keep(tables, Wanted(controls=("blind",), tasks=("mini-seed",))), width=140, color=False)
    assert "blind" in only


def test_a_pattern_that_fits_nothing_lists_what_there_is(tables: list[ComparisonTable]) -> None:
    with pytest.raises(ConfigError, match="nothing fits 'mini-sead'") as caught:
        keep(tables, Wanted(tasks=("mini-sead",)))
    assert caught.value.where == "--task"
    assert caught.value.fix == "did you mean 'mini-seed'? There are: mini-pope, mini-seed"


def test_filters_that_fit_nothing_together_are_named(tables: list[ComparisonTable]) -> None:
    with pytest.raises(ConfigError, match="no score fits all filters together") as caught:
        keep(tables, Wanted(tasks=("mini-seed",), metrics=("f1",)))
    assert caught.value.where == "--task mini-seed --metric f1"


def test_rows_are_sorted_best_first_by_a_task(tables: list[ComparisonTable]) -> None:
    table = in_order(tables, "mini-seed")[0]
    assert labels(table)[:2] == ["ovis3/mini", "clip/mini"]
    assert labels(in_order(tables, "mini-seed:asc")[0])[0] == "random/mini"


def test_a_lower_is_better_column_has_its_lowest_first(make: Any) -> None:
    records = [
        make.record(spec, (make.metric(value), make.metric(1 - value, name="unparsed_rate", higher_is_better=False)))
        for spec, value in (("a/x", 0.4), ("b/x", 0.6))
    ]
    (table,) = in_order(build_tables(records), "mini-seed/unparsed_rate")
    assert labels(table) == ["b/x", "a/x", "chance"]


def test_missing_values_and_chance_stay_below(tables: list[ComparisonTable]) -> None:
    for direction in ("", ":asc", ":desc"):
        assert labels(in_order(tables, f"mini-pope{direction}")[0])[-2:] == ["siglip/mini?note=a_b|c&d", "chance"]


def test_rows_are_sorted_by_name_and_by_cost(make: Any) -> None:
    records = [make.record(spec, encoder_changes={"num_params": size}) for spec, size in (("b/x", 9), ("a/x", 5))]
    tables = build_tables(records)
    assert labels(in_order(tables, "encoder")[0]) == ["a/x", "b/x", "chance"]
    assert labels(in_order(tables, "params:desc")[0]) == ["b/x", "a/x", "chance"]


def test_an_unknown_column_and_an_unknown_order_are_refused(tables: list[ComparisonTable]) -> None:
    with pytest.raises(ConfigError, match="no column 'mini-sed'") as caught:
        in_order(tables, "mini-sed")
    assert caught.value.fix.startswith("did you mean 'mini-seed'?")
    with pytest.raises(ConfigError, match="'up' is no order"):
        in_order(tables, "mini-seed:up")
