from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ovbench.cli import app
from ovbench.results.store import RunStore
from tests.harness.comparison.made_runs import clustered, keep_run, questions

RUNNER = CliRunner()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    store = RunStore(tmp_path / "runs")
    samples = questions(20, 2)
    for name, seed, chance in (("clip/mini", 0, 0.9), ("siglip/mini", 1, 0.5)):
        keep_run(store, name, {"mini-seed": (samples, clustered(seed, 20, 2, chance))})
    return store.root


def test_report_writes_one_page_and_says_where(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    done = RUNNER.invoke(app, ["report", "--runs", str(runs), "--out", str(target)])
    assert done.exit_code == 0, done.output
    assert f"written: {target} (" in done.stderr
    assert 'data-row="clip/mini"' in target.read_text(encoding="utf-8")


def test_pictures_of_other_data_are_not_shown(runs: Path, tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["report", "--runs", str(runs), "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "no picture: the data of &#39;mini-seed&#39; at hand are not those of the run" in page


def test_damaged_record_is_a_warning_and_the_page_still_comes_out(runs: Path, tmp_path: Path) -> None:
    record = next(runs.glob("*/record.json"))
    record.write_text("{", encoding="utf-8")
    done = RUNNER.invoke(app, ["report", "--runs", str(runs), "--out", str(tmp_path / "page.html"), "--no-pictures"])
    assert done.exit_code == 0, done.output
    assert f"warning: {record.parent.name}: left out: " in done.stderr


def test_no_runs_ends_with_three_lines_and_exit_code_2(tmp_path: Path) -> None:
    done = RUNNER.invoke(app, ["report", "--runs", str(tmp_path / "none"), "--out", str(tmp_path / "page.html")])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: there is no run to report\n  where: ")
    assert not (tmp_path / "page.html").exists()
