"""`ovbench leaderboard` and `ovbench merge` as a user calls them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ovbench.cli_app import app
from ovbench.results.store import RunStore
from tests.harness.comparison.made_runs import clustered, keep_run, questions


def call(*words: str | Path) -> Result:
    import ovbench.cli  # noqa: F401 - registers the commands

    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Two encoders that answered the same questions: one is a little better on each, so that only pairs tell it."""
    folder = tmp_path / "runs"
    store = RunStore(folder)
    samples = questions(60, 5)
    right = clustered(0, 60, 5, 0.6)
    worse = [value and index % 10 != 0 for index, value in enumerate(right)]
    keep_run(store, "clip/mini", {"mini-seed": (samples, right)})
    keep_run(store, "siglip/mini", {"mini-seed": (samples, worse)})
    return folder


def test_a_table_of_the_paper_comes_out_by_one_command_without_any_run(tmp_path: Path) -> None:
    done = call("leaderboard", "--reported", "OpenVision 3 v2", "--table", "Table 4", "--out", tmp_path / "none")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("PUBLISHED · ") == 1
    assert "OpenVision 3 VAE+L/2      256   256      1405       313          65.8" in done.stdout


def test_all_published_rows_come_out_without_a_source(tmp_path: Path) -> None:
    done = call("leaderboard", "--reported", "--format", "csv", "--out", tmp_path / "none")
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 806


def test_choosing_a_published_table_needs_reported(tmp_path: Path) -> None:
    done = call("leaderboard", "--table", "Table 4", "--out", tmp_path)
    assert done.exit_code == 2
    assert "add --reported" in done.stderr


def test_paired_tests_mark_what_intervals_cannot(runs: Path) -> None:
    plain = call("leaderboard", "--suite", "understanding", "--no-paired", "--format", "csv", "--out", runs)
    tested = call("leaderboard", "--suite", "understanding", "--format", "csv", "--out", runs)

    def found(done: Result) -> dict[str, tuple[str, str, str, str]]:
        rows = csv.DictReader(io.StringIO(done.stdout))
        return {
            row["row"]: (row["mark"], row["mark_basis"], row["rank_low"], row["rank_high"])
            for row in rows
            if row["headline"] == "true" and row["control"] == "none" and row["kind"] == "encoder"
        }

    assert found(plain)["clip/mini"] == ("tied", "intervals", "", "")
    assert found(tested) == {
        "clip/mini": ("best", "paired tests", "1", "1"),
        "siglip/mini": ("", "paired tests", "2", "2"),
    }


def test_a_run_without_its_items_keeps_marks_of_intervals_and_says_so(runs: Path) -> None:
    next(runs.glob("*/samples.parquet")).unlink()
    done = call("leaderboard", "--suite", "understanding", "--out", runs)
    assert done.exit_code == 0, done.output
    assert "no paired tests, marks rest on intervals" in done.stderr
    assert "incomplete: run" in done.stderr
    assert "siglip/mini" in done.stdout


def test_without_a_suite_all_suites_stand_first_in_print_and_csv_holds_each_score_once(runs: Path) -> None:
    done = call("leaderboard", "--no-paired", "--out", runs)
    assert done.stdout.startswith("all suites · ")
    assert "understanding · protocol" in done.stdout
    rows = list(
        csv.DictReader(io.StringIO(call("leaderboard", "--no-paired", "--format", "csv", "--out", runs).stdout))
    )
    assert not [row for row in rows if row["table"].startswith("all suites")]
    only = call("leaderboard", "--suite", "all", "--no-paired", "--format", "csv", "--out", runs)
    assert {row["table"][:10] for row in csv.DictReader(io.StringIO(only.stdout))} == {"all suites"}


def test_filters_and_sorting_reach_the_table(runs: Path) -> None:
    done = call("leaderboard", "-s", "understanding", "-e", "siglip", "--control", "none", "--no-paired", "--out", runs)
    assert "siglip/mini" in done.stdout
    assert "clip/mini " not in done.stdout.replace("siglip/mini ", "")
    done = call("leaderboard", "-s", "understanding", "--sort", "encoder:desc", "--no-paired", "--out", runs)
    assert done.stdout.index("siglip/mini") < done.stdout.index("\nclip/mini")


def test_every_format_is_written_in_one_call(runs: Path, tmp_path: Path) -> None:
    names = ["t.csv", "t.md", "t.tex", "t.html", "t.json", "t.parquet"]
    flags = [word for name in names for word in ("--export", tmp_path / name)]
    done = call("leaderboard", "--suite", "understanding", "--no-paired", *flags, "--out", runs)
    assert done.exit_code == 0, done.output
    assert all((tmp_path / name).stat().st_size > 500 for name in names)


def test_a_foreign_file_is_a_table_of_its_own(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "fid.json").write_text('{"frechet_inception_distance": 18.1}')
    done = call("leaderboard", "--no-paired", "--foreign", tmp_path / "fid.json", "--out", runs)
    assert "FOREIGN · torch-fidelity" in done.stdout
    alone = call("leaderboard", "--foreign", tmp_path / "fid.json", "--out", tmp_path / "none")
    assert alone.exit_code == 0, alone.output
    assert alone.stdout.startswith("FOREIGN")


def test_merge_reports_what_it_did(runs: Path, tmp_path: Path) -> None:
    first = call("merge", runs, "--out", tmp_path / "all")
    assert first.exit_code == 0, first.output
    assert first.stdout == f"2 run(s) copied to {tmp_path / 'all'}, 0 skipped, 0 left out\n"
    again = json.loads(call("merge", runs, "--out", tmp_path / "all", "--json").stdout)
    assert (again["copied"], len(again["skipped"]), again["left_out"]) == ([], 2, [])


def test_merge_refuses_a_conflict_with_exit_code_2(runs: Path, tmp_path: Path) -> None:
    call("merge", runs, "--out", tmp_path / "all")
    path = next(runs.glob("*/config.json"))
    path.write_text("{}")
    done = call("merge", runs, "--out", tmp_path / "all")
    assert done.exit_code == 2
    assert "nothing was merged" in done.stderr
    assert "config.json" in done.stderr
