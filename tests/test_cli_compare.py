from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import ovbench
from ovbench.cli import app
from ovbench.results.store import RunStore
from tests.harness.comparison.made_runs import clustered, keep_run, questions

RUNNER = CliRunner()


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    store = RunStore(tmp_path / "runs")
    samples = questions(40, 4)
    for name, seed, chance in (("clip/mini", 0, 0.9), ("siglip/mini", 1, 0.5)):
        keep_run(store, name, {"mini-seed": (samples, clustered(seed, 40, 4, chance))})
    return store.root


def test_compare_prints_settings_scores_flips_and_power(runs: Path) -> None:
    done = RUNNER.invoke(
        app, ["compare", "clip", "siglip", "--out", str(runs), "--flips", "2", "--power", "--draws", "499"]
    )
    assert done.exit_code == 0, done.output
    for text in (
        "A  clip/mini",
        "B  siglip/mini",
        "understanding · protocol mini v1 · seed 0 · differences are A minus B",
        "encoder spec",
        "mini-seed: 160 common questions about 40 images",
        "right in A alone",
        "accuracy[location] %",
        "p Holm: corrected for 1 headline together",
        "80% power needs",
        "Flipped answers:",
        "right answer",
        "better",
    ):
        assert text in done.output, text
    assert "warning: one seed" in done.stderr


def test_compare_gives_the_same_numbers_as_json_and_from_python(runs: Path) -> None:
    done = RUNNER.invoke(app, ["compare", "clip", "siglip", "--out", str(runs), "--json", "--draws", "499"])
    assert done.exit_code == 0, done.output
    (found,) = ovbench.compare("clip", "siglip", out=runs, draws=499)
    assert json.loads(done.stdout) == [json.loads(json.dumps(found.to_dict()))]


def test_a_mistake_ends_with_three_lines_and_exit_code_2(runs: Path) -> None:
    done = RUNNER.invoke(app, ["compare", "clip", "dinov2", "--out", str(runs)])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: 'dinov2' is no run, no run folder and no encoder that was run\n  where: ")


def test_page_has_all_flipped_answers_and_the_console_only_those_asked_for(runs: Path, tmp_path: Path) -> None:
    target = tmp_path / "page.html"
    arguments = ["compare", "clip", "siglip", "--out", str(runs), "--draws", "499"]
    plain = RUNNER.invoke(app, [*arguments, "--flips", "2"])
    done = RUNNER.invoke(app, [*arguments, "--flips", "2", "--html", str(target)])
    assert done.exit_code == 0, done.output
    assert done.stdout == plain.stdout
    assert f"written: {target}" in done.stderr
    page = target.read_text(encoding="utf-8")
    assert page.count('<details class="question"') == 60
    assert "no picture: the data of &#39;mini-seed&#39; at hand are not those of the run" in page
    for cell in ("accuracy %", "better"):
        assert cell in done.stdout
        assert cell in page


def test_page_that_cannot_be_written_names_its_flag(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file.txt").write_text("mine", encoding="utf-8")
    done = RUNNER.invoke(
        app, ["compare", "clip", "siglip", "--out", str(runs), "--draws", "499", "--html", str(tmp_path / "file.txt")]
    )
    assert done.exit_code == 2
    assert f"where: --html {tmp_path / 'file.txt'}" in done.stderr
