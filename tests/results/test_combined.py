from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ovbench.results.combined import CombinedSheet, combined_sheets
from ovbench.results.formats import to_console
from ovbench.results.formats.to_rows import to_rows
from ovbench.results.record import Measurement, ProtocolRecord, RunRecord
from ovbench.results.table import build_tables


@pytest.fixture
def run(make: Any) -> Any:
    """Makes a run of a suite with one headline."""

    def made(spec: str, suite: str, value: float, **changes: Any) -> RunRecord:
        kinds = {"understanding": "choice", "reconstruction": "reconstruction", "generation": "generation"}
        task = dataclasses.replace(make.TASK, name=f"task-{suite}", kind=kinds[suite])
        lower = {} if suite == "understanding" else {"unit": "distance", "higher_is_better": False}
        score = make.metric(value, task=task.name, **lower)
        speed = Measurement(name="encode", value=100.0, unit="images/s", reason=None)
        return make.record(spec, (score,), **{"suite": suite, "tasks": (task,), "measurements": (speed,), **changes})

    return made


def sheets(*records: RunRecord) -> list[CombinedSheet]:
    return combined_sheets(build_tables(records), records)


def test_an_encoder_has_one_row_with_all_headlines(run: Any) -> None:
    (sheet,) = sheets(
        run("ovis3/mini", "understanding", 0.6),
        run("ovis3/mini", "reconstruction", 12.0),
        run("ovis3/mini", "generation", 20.0),
    )
    (row,) = sheet.rows
    assert [headline.table.suite for headline in sheet.headlines] == ["understanding", "reconstruction", "generation"]
    assert [row.cell(at, head).value for at, head in enumerate(sheet.headlines)] == [0.6, 12.0, 20.0]


def test_the_cost_stands_beside_with_the_front_end_apart(run: Any) -> None:
    (sheet,) = sheets(run("ovis3/mini", "understanding", 0.6))
    text = to_console.render([sheet], width=140, color=False)
    assert "0.81        0.39       64        100" in text
    costs = {row["metric"]: row["value"] for row in to_rows([sheet]) if row["task"] == "cost"}
    assert costs == {
        "parameters": 812_000.0,
        "parameters of the front end": 390_000.0,
        "tokens": 64.0,
        "speed": 100.0,
    }


def test_a_suite_that_was_not_run_is_a_dash_with_a_reason(run: Any) -> None:
    (sheet,) = sheets(
        run("ovis3/mini", "understanding", 0.6), run("clip/mini", "understanding", 0.5),
        run("clip/mini", "generation", 20.0),
    )  # fmt: skip
    text = to_console.render([sheet], width=160, color=False)
    assert "— [1]" in text
    assert "[1] generation was not run with this encoder and this protocol" in text


def test_a_speed_that_was_not_measured_says_why(run: Any) -> None:
    (sheet,) = sheets(run("ovis3/mini", "understanding", 0.6, measurements=()))
    assert sheet.rows[0].speed.reason == "no run measured its speed: its features were in the cache"


def test_speeds_of_two_kinds_of_machine_are_not_averaged(run: Any, make: Any) -> None:
    (sheet,) = sheets(
        run("ovis3/mini", "understanding", 0.6),
        run("ovis3/mini", "generation", 20.0, environment=make.environment(cpu="another")),
    )
    assert sheet.rows[0].speed.reason == "its speed was measured on 2 kinds of machine"


def test_protocols_and_limits_are_never_in_one_table(run: Any) -> None:
    other = ProtocolRecord(name="mini", version=2, content={"name": "mini", "version": 2})
    found = sheets(
        run("ovis3/mini", "understanding", 0.6),
        run("ovis3/mini", "generation", 20.0, protocol=other),
        run("ovis3/mini", "generation", 21.0, limit=100),
    )
    assert sorted(sheet.title for sheet in found) == [
        "all suites · protocol mini v1",
        "all suites · protocol mini v1 · limit 100 questions per task",
        "all suites · protocol mini v2",
    ]


def test_the_papers_protocols_meet_and_each_column_names_its_own(run: Any) -> None:
    llava = ProtocolRecord(name="llava15-vicuna7b", version=1, content={})
    rae = ProtocolRecord(name="rae-imagenet256", version=1, content={})
    (sheet,) = sheets(
        run("clip/l14", "understanding", 0.6, protocol=llava), run("clip/l14", "generation", 2.5, protocol=rae)
    )
    assert sheet.title == "all suites · the papers' protocols"
    assert [headline.header[-1] for headline in sheet.headlines] == ["llava15-vicuna7b", "rae-imagenet256"]


def test_other_weights_of_one_name_have_a_row_of_their_own(run: Any) -> None:
    (sheet,) = sheets(
        run("clip/mini", "understanding", 0.6),
        run("clip/mini", "generation", 20.0, encoder_changes={"weights_digest": "v" * 64}),
    )
    assert [row.label for row in sheet.rows] == ["clip/mini weights wwwwwwww", "clip/mini weights vvvvvvvv"]


def test_an_encoder_that_suites_read_at_two_sizes_is_one_row_with_both(run: Any) -> None:
    changes = {"weights_digest": "v" * 64, "grid": (4, 4), "num_tokens": 16}
    (sheet,) = sheets(
        run("clip/mini", "understanding", 0.6), run("clip/mini", "generation", 20.0, encoder_changes=changes)
    )
    (row,) = sheet.rows
    assert row.tokens == (64, 16)
    assert "several numbers of tokens" in " ".join(sheet.notes)


def test_encoders_stand_before_controls_best_first(run: Any) -> None:
    (sheet,) = sheets(
        run("random/mini", "understanding", 0.9), run("a/x", "understanding", 0.4), run("b/x", "understanding", 0.6)
    )
    assert [row.label for row in sheet.rows] == ["b/x", "a/x", "random/mini"]
