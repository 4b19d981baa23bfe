from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import RecordError
from ovbench.results.store import SAMPLE_COLUMNS, RunStore


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


def test_a_run_folder_holds_config_samples_and_record(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), make.rows())
    folder = store.root / record.run_id
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "record.json", "samples.parquet"]


def test_what_is_kept_is_what_is_read(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), make.rows())
    assert store.records() == [record]
    assert store.record(record.run_id) == record


def test_the_config_holds_the_whole_protocol(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(limit=7, seed=3), [])
    config = json.loads((store.root / record.run_id / "config.json").read_text())
    assert config["protocol"]["content"]["stage"] == {"lr": 0.002}
    assert (config["limit"], config["seed"], config["encoder"]) == (7, 3, "ovis3/mini")


def test_answers_come_back_with_their_gaps(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), make.rows(2))
    frame = store.samples(record.run_id)
    assert tuple(frame.columns) == SAMPLE_COLUMNS
    assert frame["parsed"].isna().tolist() == [True, False]
    assert frame["correct"].tolist() == [True, True]
    assert list(frame["option_scores"][1]) == [-0.1, -2.0, -3.0, -4.0]


def test_no_question_is_a_table_without_rows(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), [])
    assert store.samples(record.run_id).shape == (0, len(SAMPLE_COLUMNS))


def test_the_same_result_is_kept_once(store: RunStore, make: Any) -> None:
    first = store.keep(make.record(day=1), [])
    assert store.keep(make.record(day=2), []) == first
    assert store.records() == [first]


def test_another_result_is_another_run(store: RunStore, make: Any) -> None:
    store.keep(make.record(metrics=0.6, day=1), [])
    store.keep(make.record(metrics=0.7, day=2), [])
    assert [record.metrics[0].value for record in store.records()] == [0.6, 0.7]


def test_a_run_folder_is_never_edited(store: RunStore, make: Any) -> None:
    record = make.record()
    (store.root / record.run_id).mkdir(parents=True)
    with pytest.raises(RecordError, match="exists and holds another run") as caught:
        store.keep(record, [])
    assert "move it away" in caught.value.fix


def test_rows_with_other_columns_are_refused_before_anything_is_written(store: RunStore, make: Any) -> None:
    rows = make.rows()
    del rows[1]["raw"]
    rows[1]["colour"] = "red"
    with pytest.raises(RecordError, match="unknown columns: colour, raw"):
        store.keep(make.record(), rows)
    assert not store.root.exists()


def test_a_failed_write_leaves_no_folder(store: RunStore, make: Any) -> None:
    rows = make.rows()
    rows[0]["correct"] = "maybe"
    with pytest.raises(Exception, match="bool"):
        store.keep(make.record(), rows)
    assert list(store.root.iterdir()) == []


def test_a_folder_without_a_record_is_skipped_and_named(
    store: RunStore, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    record = store.keep(make.record(), [])
    (store.root / "20260101T000000Z-dead").mkdir()
    with caplog.at_level(logging.WARNING):
        assert store.records() == [record]
    assert "20260101T000000Z-dead" in caplog.text


def test_hidden_folders_and_files_are_not_runs(store: RunStore, caplog: pytest.LogCaptureFixture) -> None:
    (store.root / ".half.tmp").mkdir(parents=True)
    (store.root / ".lock").write_text("")
    (store.root / "notes.txt").write_text("")
    with caplog.at_level(logging.WARNING):
        assert store.records() == []
    assert caplog.text == ""


def test_a_damaged_record_is_named(store: RunStore, make: Any) -> None:
    path = store.root / store.keep(make.record(), []).run_id / "record.json"
    path.write_text(path.read_text()[:200])
    with pytest.raises(RecordError, match="damaged") as caught:
        store.records()
    assert caught.value.where == str(path)


def test_a_record_of_a_newer_schema_stops_the_reading(store: RunStore, make: Any) -> None:
    path = store.root / store.keep(make.record(), []).run_id / "record.json"
    path.write_text(path.read_text().replace('"schema_version": 3', '"schema_version": 9'))
    with pytest.raises(RecordError, match="schema version 9"):
        store.records()


def test_a_folder_that_is_not_there_holds_nothing(store: RunStore) -> None:
    assert store.records() == []


def test_an_unknown_run_gets_a_suggestion(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), [])
    with pytest.raises(RecordError, match="unknown run") as caught:
        store.record(record.run_id[:-1])
    assert f"did you mean '{record.run_id}'" in caught.value.fix


def test_a_path_is_not_a_run_id(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), [])
    with pytest.raises(RecordError, match="unknown run"):
        store.record(f"../runs/{record.run_id}")


def test_damaged_answers_are_named(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), make.rows())
    (store.root / record.run_id / "samples.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RecordError, match=r"'samples.parquet' cannot be read"):
        store.samples(record.run_id)


def test_the_newest_of_the_same_kind_counts(store: RunStore, make: Any) -> None:
    for day, value in ((3, 0.7), (1, 0.5), (2, 0.6)):
        store.keep(make.record(metrics=value, day=day), [])
    store.keep(make.record(metrics=0.4, day=1, seed=1), [])
    assert [(record.seed, record.metrics[0].value) for record in store.newest()] == [(1, 0.4), (0, 0.7)]


def test_an_incomplete_run_does_not_count(store: RunStore, make: Any, caplog: pytest.LogCaptureFixture) -> None:
    good = store.keep(make.record(metrics=0.6, day=1), [])
    store.keep(make.record(metrics=0.9, day=2, complete=False, warnings=("mini-pope failed",)), [])
    with caplog.at_level(logging.WARNING):
        assert store.newest() == [good]
    assert "mini-pope failed" in caplog.text


def test_references_extra_columns_and_scores_come_back(store: RunStore, make: Any) -> None:
    record = store.keep(make.record(), make.rows(2))
    frame = store.samples(record.run_id)
    assert [list(answers) for answers in frame["answers"]] == [[], ["bag", "a bag"]]
    assert frame["extra"].tolist() == [{}, {"question_id": "1"}]
    assert frame["score"].isna().tolist() == [True, False]


def test_answers_of_an_older_version_load(store: RunStore, make: Any) -> None:
    import pandas

    record = store.keep(make.record(), make.rows(2))
    path = store.root / record.run_id / "samples.parquet"
    pandas.read_parquet(path).drop(columns=["answers", "extra", "score"]).to_parquet(path)
    frame = store.samples(record.run_id)
    assert tuple(frame.columns) == SAMPLE_COLUMNS
    assert (list(frame["answers"][0]), frame["extra"][0]) == ([], {})
    assert frame["score"].isna().tolist() == [True, True]
