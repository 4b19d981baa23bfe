from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ovbench.results.table import Cell, ComparisonTable, Row, build_tables


def _row(table: ComparisonTable, label: str) -> Row:
    return next(row for row in table.rows if row.label == label)


def _first(table: ComparisonTable, label: str) -> Cell:
    return _row(table, label).cell(table.columns[0])


def test_nothing_gives_no_table() -> None:
    assert build_tables([]) == []


def test_the_title_names_protocol_version_and_seed(make: Any) -> None:
    (table,) = build_tables([make.record()])
    assert table.title == "understanding · protocol mini v1 · one seed (0)"


def test_the_title_names_a_limit_and_a_later_task_version(make: Any) -> None:
    task = dataclasses.replace(make.TASK, version=2)
    (table,) = build_tables([make.record(limit=50, tasks=(task,))])
    assert table.title == "understanding · protocol mini v1 · mini-seed v2 · limit 50 questions per task · one seed (0)"


@pytest.mark.parametrize("change", ["version", "scorer", "data_digest", "n"])
def test_tasks_that_differ_never_share_a_table(make: Any, change: str) -> None:
    other = dataclasses.replace(make.TASK, **{change: 700 if change in ("version", "n") else "other"})
    tables = build_tables([make.record("ovis3/mini"), make.record("clip/mini", tasks=(other,))])
    assert sorted(len(table.rows) for table in tables) == [2, 2]  # each with its chance row


def test_limits_never_share_a_table(make: Any) -> None:
    tables = build_tables([make.record("ovis3/mini", limit=10), make.record("clip/mini")])
    assert [table.limit for table in tables] == [None, 10]


def test_protocol_versions_never_share_a_table(make: Any) -> None:
    old = make.record("ovis3/mini")
    new = make.record("clip/mini", protocol=dataclasses.replace(old.protocol, version=2))
    assert [table.protocol_version for table in build_tables([old, new])] == [2, 1]


def test_the_same_protocol_name_with_other_content_does_not_share_a_table(make: Any) -> None:
    old = make.record("ovis3/mini")
    new = make.record("clip/mini", protocol=dataclasses.replace(old.protocol, content={"lr": 1}))
    assert len(build_tables([old, new])) == 2


def test_another_count_behind_a_metric_is_another_column(make: Any) -> None:
    records = [make.record("ovis3/mini"), make.record("clip/mini", (make.metric(0.6, n=1399),))]
    (table,) = build_tables(records)
    assert [column.n for column in table.columns] == [1399, 1400]
    assert _row(table, "clip/mini").cell(table.columns[1]).value is None


def test_a_run_of_one_task_renews_only_that_task(make: Any) -> None:
    full = make.record(metrics=make.two_tasks(0.6, 0.7), tasks=(make.TASK, make.POPE), day=1)
    later = make.record(metrics=(make.metric(0.65),), day=2)
    (table,) = build_tables([full, later])
    row = _row(table, "ovis3/mini")
    heads = [row.cell(column).value for column in table.columns if column.metric == "accuracy" and not column.group]
    assert heads == [0.65, 0.7, 0.503, 0.5]


def test_a_task_that_was_not_run_is_missing_with_a_reason(make: Any) -> None:
    both = make.record("ovis3/mini", make.two_tasks(0.6, 0.7), tasks=(make.TASK, make.POPE))
    (table,) = build_tables([both, make.record("clip/mini")])
    column = next(column for column in table.columns if column.task == "mini-pope")
    assert _row(table, "clip/mini").cell(column) == Cell(value=None, reason="mini-pope was not run with this encoder")


def test_seeds_are_averaged_and_their_spread_is_kept(make: Any) -> None:
    (table,) = build_tables([make.record(metrics=0.5, seed=0), make.record(metrics=0.6, seed=1)])
    cell = _first(table, "ovis3/mini")
    assert cell.value == pytest.approx(0.55)
    assert cell.spread == pytest.approx(0.1 / 2**0.5)
    # Two seeds 10 points apart say little: sd² = 0.005 / 2 + (0.02 / 1.96)², t with 1.09 degrees of freedom.
    assert cell.low is not None
    assert cell.high is not None
    assert cell.low < 0.1
    assert cell.high == 1.0
    assert cell.seeds == (0, 1)


def test_seeds_that_agree_leave_the_interval_of_the_questions(make: Any) -> None:
    (table,) = build_tables([make.record(metrics=0.55, seed=seed) for seed in range(3)])
    cell = _first(table, "ovis3/mini")
    assert (cell.low, cell.high) == (pytest.approx(0.53), pytest.approx(0.57))


def test_seeds_that_differ_widen_the_interval(make: Any) -> None:
    (table,) = build_tables([make.record(metrics=value, seed=seed) for seed, value in enumerate((0.54, 0.55, 0.56))])
    cell = _first(table, "ovis3/mini")
    assert cell.low is not None
    assert 0.50 < cell.low < 0.53


def test_one_seed_has_no_spread(make: Any) -> None:
    (table,) = build_tables([make.record()])
    assert _first(table, "ovis3/mini").spread is None


def test_a_seed_without_a_value_leaves_the_cell_empty(make: Any) -> None:
    (table,) = build_tables([make.record(metrics=0.5), make.record(metrics=(make.metric(None),), seed=1)])
    cell = _first(table, "ovis3/mini")
    assert cell.value is None
    assert cell.reason == "seed 1: no question was answered yes"


def test_other_weights_of_the_same_encoder_are_not_averaged(make: Any) -> None:
    old = make.record(metrics=0.5, day=1, encoder_changes={"identity": "old"})
    new = make.record(metrics=0.6, day=2, seed=1)
    (table,) = build_tables([old, new])
    assert _first(table, "ovis3/mini").by_seed == (0.6,)
    assert table.notes == ("1 older run(s) of ovis3/mini left out: other weights",)


def test_a_control_may_draw_other_weights_per_seed(make: Any) -> None:
    records = [make.record("random/mini", 0.3, seed=s, encoder_changes={"identity": f"drawn {s}"}) for s in (0, 1)]
    (table,) = build_tables(records)
    assert _first(table, "random/mini").seeds == (0, 1)


def test_another_number_format_is_another_row(make: Any) -> None:
    half = make.record(metrics=0.5, environment=make.environment(dtype="bfloat16"))
    (table,) = build_tables([make.record(metrics=0.6), half])
    assert [row.label for row in table.rows] == ["ovis3/mini", "ovis3/mini (bfloat16)", "chance"]


def test_rows_go_by_score_with_controls_and_chance_last(make: Any) -> None:
    records = [make.record("random/mini", 0.9), make.record("clip/mini", 0.5), make.record("ovis3/mini", 0.6)]
    (table,) = build_tables(records)
    assert [(row.label, row.kind) for row in table.rows] == [
        ("ovis3/mini", "encoder"),
        ("clip/mini", "encoder"),
        ("random/mini", "control"),
        ("chance", "chance"),
    ]


def test_the_order_of_records_changes_nothing(make: Any) -> None:
    records = make.example()
    assert build_tables(records) == build_tables(records[::-1])


def test_columns_begin_with_the_headline_and_its_controls(make: Any) -> None:
    (table,) = build_tables([make.record(metrics=make.two_tasks(0.6, 0.7)[:6])])
    assert [(column.metric, column.group, column.control) for column in table.columns] == [
        ("accuracy", None, "none"),
        ("accuracy", None, "shuffled"),
        ("accuracy", None, "blind"),
        ("accuracy", "identity", "none"),
        ("accuracy", "location", "none"),
        ("unparsed_rate", None, "none"),
    ]


def test_chance_stands_in_the_headline_and_its_controls_only(make: Any) -> None:
    (table,) = build_tables([make.record(metrics=make.two_tasks(0.6, 0.7)[:6])])
    chance = _row(table, "chance")
    assert [chance.cell(column).value for column in table.columns] == [0.25, 0.25, 0.25, None, None, None]


def _marks(make: Any, *values: float, half: float | None = 0.02, better: bool | None = True, **more: Any) -> list[str]:
    records = [
        make.record(f"clip/v{index}", (make.metric(value, half=half, higher_is_better=better),), **more)
        for index, value in enumerate(values)
    ]
    (table,) = build_tables(records)
    return [_row(table, f"clip/v{index}").cell(table.columns[0]).mark for index in range(len(values))]


def test_best_is_marked_where_intervals_do_not_overlap(make: Any) -> None:
    assert _marks(make, 0.6, 0.5, 0.51) == ["best", "", ""]


def test_best_is_lowest_when_lower_is_better(make: Any) -> None:
    assert _marks(make, 0.6, 0.5, 0.61, better=False) == ["", "best", ""]


def test_overlapping_intervals_are_a_tie(make: Any) -> None:
    assert _marks(make, 0.6, 0.57, 0.5) == ["tied", "tied", ""]


def test_touching_intervals_are_a_tie(make: Any) -> None:
    assert _marks(make, 0.75, 0.25, half=0.25) == ["tied", "tied"]


def test_without_intervals_nothing_is_best(make: Any) -> None:
    assert _marks(make, 0.9, 0.1, half=None) == ["tied", "tied"]


def test_a_metric_without_a_direction_has_no_best(make: Any) -> None:
    assert _marks(make, 0.9, 0.1, better=None) == ["", ""]


def test_one_encoder_alone_is_not_best(make: Any) -> None:
    assert _marks(make, 0.9) == [""]


def test_a_control_that_wins_leaves_no_best(make: Any) -> None:
    (table,) = build_tables([make.record("random/mini", 0.9), make.record("clip/mini", 0.5)])
    assert [_first(table, label).mark for label in ("random/mini", "clip/mini")] == ["", ""]


def test_seeds_that_cross_are_a_tie_even_where_mean_intervals_do_not_overlap(make: Any) -> None:
    records = [
        make.record(spec, (make.metric(value, half=0.01),), seed=seed)
        for spec, values in (("clip/mini", (0.50, 0.70)), ("ovis3/mini", (0.52, 0.56)))
        for seed, value in enumerate(values)
    ]
    (table,) = build_tables(records)
    assert _first(table, "clip/mini").mark == "tied"


def test_the_controls_of_a_run_are_not_ranked(make: Any) -> None:
    records = [
        make.record("clip/mini", (make.metric(0.5), make.metric(0.4, control="shuffled"))),
        make.record("ovis3/mini", (make.metric(0.6), make.metric(0.1, control="shuffled"))),
    ]
    (table,) = build_tables(records)
    assert [_row(table, "clip/mini").cell(column).mark for column in table.columns] == ["", ""]
