from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from ovbench._base.errors import RecordError
from ovbench.results.report.build import build_report
from ovbench.results.report.gather import gather


def _folder(world: SimpleNamespace, spec: str) -> Path:
    run_id = next(r.run_id for r in world.store.records() if r.encoder.spec == spec and r.suite == "understanding")
    return world.store.root / run_id


def test_no_run_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="there is no run to report") as caught:
        gather([tmp_path / "nowhere"])
    assert "ovbench run" in caught.value.fix


def test_only_damaged_runs_is_an_error_that_names_the_damage(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "record.json").write_text("{", encoding="utf-8")
    with pytest.raises(RecordError, match=r"there is no run to report; 1 folder\(s\) cannot be used: one: left out: "):
        gather([tmp_path])


def test_damaged_record_is_a_fault_on_the_page_and_the_rest_comes_out(world: SimpleNamespace) -> None:
    folder = _folder(world, "clip/mini")
    text = (folder / "record.json").read_text(encoding="utf-8")
    (folder / "record.json").write_text(text[: len(text) // 2], encoding="utf-8")
    (world.store.root / "unfinished").mkdir()
    found = gather([world.store.root])
    assert len(found.faults) == 2
    page = build_report(found)
    assert f"{folder.name}: left out: &#39;record.json&#39; is damaged" in page
    assert "unfinished: left out: it has no record.json, so its run did not end" in page
    assert 'data-row="ovis3/mini"' in page


def test_record_of_a_newer_schema_is_named(world: SimpleNamespace) -> None:
    path = _folder(world, "clip/mini") / "record.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, "schema_version": 99}), encoding="utf-8")
    (fault,) = gather([world.store.root]).faults
    assert "schema version 99" in fault


def test_score_edited_by_hand_is_left_out_and_named(world: SimpleNamespace) -> None:
    path = _folder(world, "clip/mini") / "record.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["metrics"][0]["value"] = 0.56
    path.write_text(json.dumps(document), encoding="utf-8")
    found = gather([world.store.root])
    assert "left out: its content was changed after the run" in found.faults[0]
    assert path.parent.name not in [run.record.run_id for run in found.runs]


def test_copies_in_two_folders_count_once(world: SimpleNamespace, tmp_path: Path) -> None:
    shutil.copytree(world.store.root, tmp_path / "copy")
    found = gather([world.store.root, tmp_path / "copy"])
    assert len(found.runs) == len(world.store.records())
    assert found.faults == ()


def test_different_records_of_one_run_id_are_left_out_and_named(world: SimpleNamespace, tmp_path: Path) -> None:
    folder = _folder(world, "clip/mini")
    shutil.copytree(folder, tmp_path / "copy" / folder.name)
    path = tmp_path / "copy" / folder.name / "record.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    document["finished_utc"] = "2026-02-01T10:00:00Z"
    path.write_text(json.dumps(document), encoding="utf-8")
    found = gather([world.store.root, tmp_path / "copy"])
    assert "2 different records claim this run id" in found.faults[0]
    assert folder.name not in [run.record.run_id for run in found.runs]


def test_suite_protocol_and_run_ids_narrow_the_choice(world: SimpleNamespace) -> None:
    root = world.store.root
    assert {run.record.suite for run in gather([root], suite="generation").runs} == {"generation"}
    run_id = _folder(world, "clip/mini").name
    assert [run.record.run_id for run in gather([root], run_ids=[run_id]).runs] == [run_id]
    with pytest.raises(RecordError, match="no run has --suite cooking") as caught:
        gather([root], suite="cooking")
    assert "--suite generation --protocol mini" in caught.value.fix
    with pytest.raises(RecordError, match="unknown run") as caught:
        gather([root], run_ids=[run_id[:-1]])
    assert f"did you mean '{run_id}'?" in caught.value.fix
