from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import RecordError
from ovbench.results.record import MetricValue, RunRecord
from ovbench.results.schema import SCHEMA_VERSION

GOLDEN = Path(__file__).parent.parent / "golden" / "records"


def _changed(record: RunRecord, *path: str | int, value: Any) -> str:
    document: Any = record.to_dict()
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return json.dumps(document)


def test_a_record_survives_the_way_to_json_and_back(make: Any) -> None:
    for record in make.example():
        assert RunRecord.from_json(record.to_json(), where="x") == record


def test_the_text_is_sorted_and_ends_with_a_newline(make: Any) -> None:
    text = make.record().to_json()
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_every_golden_record_loads() -> None:
    """Old records must load for ever: never delete or edit a file of tests/golden/records."""
    files = sorted(GOLDEN.glob("v*.json"))
    assert [path.name for path in files] == [f"v{version}.json" for version in range(1, SCHEMA_VERSION + 1)]
    for path in files:
        record = RunRecord.from_json(path.read_text(encoding="utf-8"), where=str(path))
        assert record.encoder.spec == "ovis3/mini"
        assert record.metrics[0].value == 0.62
        assert record.protocol.label == "mini v1"


def test_a_record_of_schema_2_names_no_sources_and_one_of_schema_3_does() -> None:
    old, new = (
        RunRecord.from_json((GOLDEN / name).read_text(encoding="utf-8"), where=name) for name in ("v2.json", "v3.json")
    )
    assert old.sources == ()
    assert (new.sources[0].role, new.sources[0].count) == ("training pictures", 8192)
    assert old.fingerprint == new.fingerprint


def test_the_newest_schema_is_written_as_its_golden_record(make: Any) -> None:
    """On purpose out of reach of `make golden`: where this differs, raise SCHEMA_VERSION and add a migration."""
    path = GOLDEN / f"v{SCHEMA_VERSION}.json"
    assert make.example()[0].to_json() == path.read_text(encoding="utf-8")


def test_a_newer_schema_is_refused_with_the_way_out(make: Any) -> None:
    text = _changed(make.record(), "schema_version", value=SCHEMA_VERSION + 1)
    with pytest.raises(RecordError) as caught:
        RunRecord.from_json(text, where="runs/a/record.json")
    assert caught.value.what == (
        f"this record has schema version {SCHEMA_VERSION + 1}; this ovbench reads up to {SCHEMA_VERSION}"
    )
    assert caught.value.where == "runs/a/record.json"
    assert caught.value.fix.startswith("upgrade ovbench")


def test_damaged_json_names_the_file() -> None:
    with pytest.raises(RecordError, match="'record.json' is damaged") as caught:
        RunRecord.from_json('{"schema_version": 2,', where="runs/a/record.json")
    assert caught.value.where == "runs/a/record.json"


@pytest.mark.parametrize("text", ["[]", "{}", '{"schema_version": "1"}', '{"schema_version": true}', "3"])
def test_other_json_is_not_taken_for_a_record(text: str) -> None:
    with pytest.raises(RecordError, match="not a run record"):
        RunRecord.from_json(text, where="x")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("seed",), "0", "'seed' should be a whole number, got '0'"),
        (("seed",), True, "'seed' should be a whole number, got True"),
        (("encoder", "dim"), 1.5, "'encoder.dim' should be a whole number"),
        (("encoder", "grid"), [8], "'encoder.grid' should be a list of 2"),
        (("metrics", 0, "value"), "high", r"'metrics\[0\].value' should be a finite number"),
        (("tasks", 0, "chance"), float("nan"), r"'tasks\[0\].chance' should be a finite number"),
        (("encoder",), None, "'encoder' should be an object"),
        (("colour",), "red", "unknown key 'colour'"),
        (("encoder", "colour"), "red", "unknown key 'encoder.colour'"),
    ],
)
def test_a_value_that_does_not_fit_is_named(make: Any, path: tuple[str | int, ...], value: Any, message: str) -> None:
    with pytest.raises(RecordError, match=message):
        RunRecord.from_json(_changed(make.record(), *path, value=value), where="x")


def test_a_missing_key_is_named(make: Any) -> None:
    document = make.record().to_dict()
    del document["encoder"]["licence"]
    with pytest.raises(RecordError, match="'encoder.licence' is missing"):
        RunRecord.from_json(json.dumps(document), where="x")


def test_an_integer_is_read_as_a_number(make: Any) -> None:
    record = RunRecord.from_json(_changed(make.record(), "steps", 0, "seconds", value=3), where="x")
    assert record.steps[0].seconds == 3.0
    assert isinstance(record.steps[0].seconds, float)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": None}, "needs either a value or a reason"),
        ({"reason": "why"}, "needs either a value or a reason"),
        ({"value": float("nan")}, "is nan"),
        ({"high": float("inf")}, "is inf"),
        ({"low": None}, "half an interval"),
        ({"low": 0.9, "high": 0.1}, "ends before it begins"),
    ],
)
def test_a_metric_is_a_number_with_an_interval_or_a_reason(make: Any, changes: dict[str, Any], message: str) -> None:
    good = make.metric(0.5)
    fields = {name: getattr(good, name) for name in MetricValue.__dataclass_fields__}
    with pytest.raises(RecordError, match=message):
        MetricValue(**{**fields, **changes})


def test_a_metric_of_a_task_that_was_not_run_is_refused(make: Any) -> None:
    with pytest.raises(RecordError, match="'mini-pope', which was not run"):
        make.record(metrics=(make.metric(0.5, task="mini-pope"),))


def test_a_metric_that_occurs_twice_is_refused(make: Any) -> None:
    with pytest.raises(RecordError, match="occurs twice"):
        make.record(metrics=(make.metric(0.5), make.metric(0.6)))


def test_the_run_id_is_the_time_and_the_content(make: Any) -> None:
    record = make.record()
    assert record.run_id == f"20260101T100000Z-{record.fingerprint[:8]}"


def test_time_and_machine_do_not_change_the_fingerprint(make: Any) -> None:
    other = make.record(day=2, environment=make.environment(cpu="another", git_commit=None, git_dirty=None))
    assert other.fingerprint == make.record().fingerprint


@pytest.mark.parametrize("changes", [{"seed": 1}, {"limit": 5}, {"metrics": 0.7}, {"spec": "clip/mini"}])
def test_what_was_run_and_what_came_out_change_the_fingerprint(make: Any, changes: dict[str, Any]) -> None:
    assert make.record(**changes).fingerprint != make.record().fingerprint


def test_a_time_in_another_form_is_refused(make: Any) -> None:
    with pytest.raises(RecordError, match="should look like"):
        make.record(finished_utc="2026-01-01 10:00")
