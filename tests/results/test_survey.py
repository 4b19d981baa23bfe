"""Bad input: each fault is named, and the rest of the table still comes out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import RecordError
from ovbench.results.leaderboard import leaderboard
from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore, read_record
from ovbench.results.survey import survey

GOLDEN = Path(__file__).parent.parent / "golden" / "records"


@pytest.fixture
def store(tmp_path: Path, make: Any) -> RunStore:
    store = RunStore(tmp_path / "runs")
    store.keep(make.record("ovis3/mini", 0.62), make.rows())
    store.keep(make.record("clip/mini", 0.55), make.rows())
    return store


def path_of(store: RunStore, spec: str = "clip/mini") -> Path:
    (found,) = [folder for folder in store.root.iterdir() if f'"{spec}"' in (folder / "record.json").read_text()]
    return found / "record.json"


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def test_a_sound_folder_has_no_faults(store: RunStore) -> None:
    found = survey(store)
    assert found.faults == ()
    assert list(found.records) == store.records()


def truncated(path: Path) -> None:
    path.write_text(path.read_text()[:-200])


def newer(path: Path) -> None:
    change(path, lambda document: document.update(schema_version=99))


def nan(path: Path) -> None:
    change(path, lambda document: document["metrics"][0].update(value=float("nan")))


def edited(path: Path) -> None:
    change(path, lambda document: document["metrics"][0].update(value=0.56))


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (truncated, "'record.json' is damaged: "),
        (newer, "this record has schema version 99; this ovbench reads up to"),
        (nan, "'metrics[0].value' should be a finite number, got nan"),
        (edited, "it was changed after the run"),
    ],
)
def test_a_bad_record_is_named_and_the_others_are_compared(
    store: RunStore, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None], what: str
) -> None:
    path = path_of(store)
    harm(path)
    with caplog.at_level("WARNING"):
        (table,) = leaderboard(store)
    assert [row.label for row in table.rows if row.kind == "encoder"] == ["ovis3/mini"]
    assert what in caplog.text
    assert str(path) in caplog.text


def test_a_hand_edited_score_shows_both_digests(store: RunStore) -> None:
    path = path_of(store)
    run_id = path.parent.name
    edited(path)
    (fault,) = survey(store).faults
    digest = read_record(path).fingerprint[:8]
    assert f"has the digest {digest}, its id says {run_id[-8:]}" in fault.what


def test_what_is_beside_the_result_may_differ_without_a_fault(store: RunStore) -> None:
    change(path_of(store), lambda document: document["environment"].update(cpu="another"))
    assert survey(store).faults == ()


def test_two_different_records_of_one_id_are_both_left_out_and_named(store: RunStore) -> None:
    path = path_of(store)
    shutil.copytree(path.parent, store.root / "copy")
    change(store.root / "copy" / "record.json", lambda document: document.update(warnings=["other"]))
    found = survey(store)
    assert [record.encoder.spec for record in found.records] == ["ovis3/mini"]
    (fault,) = found.faults
    assert fault.what == f"2 different records claim the run id '{path.parent.name}'"
    assert "copy" in fault.where


def test_copies_of_one_record_count_once(store: RunStore) -> None:
    path = path_of(store)
    shutil.copytree(path.parent, store.root / "copy")
    found = survey(store)
    assert len(found.records) == 2
    assert "is here 2 times, counted once" in found.faults[0].what


def test_a_missing_file_of_items_is_said_and_the_scores_stay(store: RunStore) -> None:
    path = path_of(store)
    (path.parent / "samples.parquet").unlink()
    found = survey(store)
    assert len(found.records) == 2
    (fault,) = found.faults
    assert str(fault).startswith(f"incomplete: run '{path.parent.name}' has no samples.parquet")


def test_nothing_but_bad_records_is_an_error_that_counts_them(store: RunStore) -> None:
    for spec in ("ovis3/mini", "clip/mini"):
        truncated(path_of(store, spec))
    with pytest.raises(RecordError, match=r"no finished run to compare: 2 record\(s\) cannot be used"):
        leaderboard(store)


def test_the_store_stays_strict(store: RunStore) -> None:
    truncated(path_of(store))
    with pytest.raises(RecordError, match="is damaged"):
        store.records()


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_record_of_every_schema_keeps_the_digest_in_its_id(tmp_path: Path, version: int) -> None:
    record = read_record(GOLDEN / f"v{version}.json")
    folder = tmp_path / record.run_id
    folder.mkdir()
    shutil.copy(GOLDEN / f"v{version}.json", folder / "record.json")
    assert isinstance(survey(RunStore(tmp_path)).records[0], RunRecord)
