"""`ovbench run` from end to end on the smoke protocol: one command, one table; the same again from cache."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pandas
import pytest

from tests.end_to_end.conftest import SMOKE, Cli, call


def answers(folder: Path) -> dict[str, bytes]:
    """Returns every answers file by its step's key."""
    return {path.parent.name: path.read_bytes() for path in (folder / "cache" / "answers").glob("*/answers.jsonl")}


def outcomes(folder: Path) -> pandas.DataFrame:
    """Returns the per-question outcomes of all runs, without the ranked scores' last digits."""
    frames = []
    for path in sorted((folder / "runs").glob("*/samples.parquet")):
        record = json.loads((path.parent / "record.json").read_text())
        frames.append(pandas.read_parquet(path).assign(encoder=record["encoder"]["spec"]))
    columns = ["encoder", "task", "control", "item_id", "image_id", "raw", "parsed", "chosen", "correct"]
    return pandas.DataFrame(pandas.concat(frames), columns=columns).sort_values(by=columns[:4]).reset_index(drop=True)


def test_a_run_leaves_records_and_prints_the_table(finished: Path) -> None:
    again = call(finished, "run", "-e", "clip", "-e", "random", *SMOKE)
    assert again.returncode == 0, again.stderr
    for part in ("mini-smoke v1", "clip/mini", "random/mini (control)", "chance", "mini-seed", "mini-pope"):
        assert part in again.stdout
    assert "clip/mini (embedded weights)" in again.stderr.splitlines()[0]
    assert len(list((finished / "runs").glob("*/record.json"))) == 2


def test_the_same_command_again_is_from_cache_and_fast(finished: Path) -> None:
    began = time.monotonic()
    again = call(finished, "run", "-e", "clip", "-e", "random", *SMOKE)
    took = time.monotonic() - began
    assert again.returncode == 0
    assert "started" not in again.stderr
    assert again.stderr.count("from cache") == 12
    assert took < 60, f"{took:.1f} s from cache"  # about 8 s on a free machine


def test_a_record_holds_what_is_needed_to_believe_it(finished: Path) -> None:
    paths = sorted((finished / "runs").glob("*/record.json"))
    by_spec = {record["encoder"]["spec"]: record for record in (json.loads(path.read_text()) for path in paths)}
    record = by_spec["clip/mini"]
    assert record["protocol"]["content"]["understanding"]["stage1"]["steps"] == 20
    assert {step["name"] for step in record["steps"]} >= {"features", "llava_stage1", "llava_stage2", "answers"}
    assert all(len(step["key"]) == 64 for step in record["steps"])
    controls = {metric["control"] for metric in record["metrics"]}
    assert controls == {"none", "shuffled", "blind"}
    assert record["environment"]["packages"]["torch"]
    assert record["seed"] == 0
    assert record["limit"] == 28
    assert by_spec["random/mini"]["encoder"]["control"] is True


def test_the_same_seed_in_a_fresh_cache_gives_the_same_bytes(finished: Path, ovbench: Cli, tmp_path: Path) -> None:
    done = ovbench("run", "-e", "clip", *SMOKE)
    assert done.returncode == 0, done.stderr
    mine, theirs = answers(tmp_path), answers(finished)
    assert len(mine) == 6
    assert all(theirs[key] == value for key, value in mine.items())


def test_batch_1_gives_the_same_answers_as_batch_64(finished: Path, ovbench: Cli, tmp_path: Path) -> None:
    shutil.copytree(finished / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("answers"))
    done = ovbench("run", "-e", "clip", *SMOKE, "--batch-size", "1")
    assert done.returncode == 0, done.stderr
    everything = outcomes(finished)
    expected = everything.query("encoder == 'clip/mini'").reset_index(drop=True)
    pandas.testing.assert_frame_equal(outcomes(tmp_path), expected)


def test_another_seed_gives_other_answers_and_a_second_record(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "cache", tmp_path / "cache", ignore=shutil.ignore_patterns("answers", "llava*"))
    done = call(tmp_path, "run", "-e", "random", *SMOKE, "--seed", "1", "--tasks", "mini-seed")
    assert done.returncode == 0, done.stderr
    assert not set(answers(tmp_path)) & set(answers(finished))


def test_one_question_is_enough_and_a_control_that_cannot_be_is_missing_with_a_reason(
    finished: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished / "cache", tmp_path / "cache")
    words = ("-p", "mini-smoke", "--limit", "1", "--tasks", "mini-seed")
    done = call(tmp_path, "run", "-e", "clip", *words)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "runs").glob("*/record.json")
    record = json.loads(path.read_text())
    (metric,) = (metric for metric in record["metrics"] if metric["control"] == "shuffled")
    assert metric["value"] is None
    assert "fewer than two" in metric["reason"]


def test_json_is_clean_on_stdout_and_progress_is_json_lines(finished: Path) -> None:
    done = call(finished, "run", "-e", "random", *SMOKE, "--json")
    assert done.returncode == 0
    (record,) = json.loads(done.stdout)
    assert record["encoder"]["spec"] == "random/mini"
    first, *events = [json.loads(line) for line in done.stderr.splitlines()]
    assert "random/mini (untrained)" in first["headline"]
    assert {event["state"] for event in events} == {"cached"}


@pytest.mark.parametrize("suffix", ["csv", "md", "tex", "json"])
def test_the_leaderboard_exports(finished: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"table.{suffix}"
    done = call(finished, "leaderboard", "--suite", "understanding", "--export", str(path))
    assert done.returncode == 0, done.stderr
    assert "clip/mini" in path.read_text()
    assert "mini-smoke" in path.read_text()


def test_the_csv_equals_the_records(finished: Path, tmp_path: Path) -> None:
    call(finished, "leaderboard", "--export", str(tmp_path / "t.csv"))
    table = pandas.read_csv(tmp_path / "t.csv")
    main = table.query("encoder == 'clip/mini' and task == 'mini-pope' and metric == 'accuracy' and control == 'none'")
    (value,) = main[main["group"].isna()]["value"].tolist()
    items = outcomes(finished).query("encoder == 'clip/mini' and task == 'mini-pope' and control == 'none'")
    assert value == pytest.approx(100 * items["correct"].mean(), abs=0.06)


def test_the_python_interface_gives_the_same_record(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ovbench

    monkeypatch.setenv("OVBENCH_CACHE", str(finished / "cache"))
    record = ovbench.run("random", protocol="mini-smoke", limit=28, out=finished / "runs")
    stored = [json.loads(path.read_text()) for path in (finished / "runs").glob("*/record.json")]
    assert record.run_id in {item["run_id"] for item in stored}
    frame = ovbench.leaderboard(out=finished / "runs")
    assert set(frame.encoder) >= {"clip/mini", "random/mini"}


@pytest.mark.parametrize("command", ["encoders", "tasks", "protocols", "runs", "doctor"])
def test_listings_work_and_are_json_on_request(finished: Path, command: str) -> None:
    assert call(finished, command).returncode == 0
    assert json.loads(call(finished, command, "--json").stdout)


@pytest.mark.parametrize(
    ("command", "name", "holds"),
    [
        ("encoders", "ovis3", "reconstruction"),
        ("tasks", "mini-pope", "POPE"),
        ("protocols", "mini", "understanding.stage1.steps"),
    ],
)
def test_cards_show_one_thing(finished: Path, command: str, name: str, holds: str) -> None:
    done = call(finished, command, "show", name)
    assert done.returncode == 0, done.stderr
    assert holds in done.stdout


def test_a_sheet_of_questions_is_drawn(finished: Path, tmp_path: Path) -> None:
    done = call(finished, "tasks", "show", "mini-seed", "--samples", str(tmp_path / "sheet.png"), "--count", "7")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "sheet.png").read_bytes()[:4] == b"\x89PNG"
