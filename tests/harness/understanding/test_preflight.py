from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import read_json
from ovbench.harness.understanding import llava_json
from ovbench.harness.understanding.llava_json import LlavaJsonData
from ovbench.harness.understanding.options_config import OnBad
from ovbench.harness.understanding.preflight import PreflightReport, preflight, report_name
from tests.harness.understanding.llava_training import dialogue_row, open_tree, turn, write_tree


def sound_data(
    data: LlavaJsonData, *, folder: Path, on_bad: OnBad = "refuse"
) -> tuple[LlavaJsonData, tuple[PreflightReport, ...]]:
    """Returns what both stages can be trained on, and their reports."""
    reports = tuple(preflight(data, stage, folder=folder, on_bad=on_bad) for stage in (1, 2))
    for report in reports:
        data = data.without(report.stage, report.bad_numbers)
    return data, reports


@pytest.fixture
def broken(tmp_path: Path) -> LlavaJsonData:
    """Thirty rows: two images are missing, one is cut off, one is text, and three rows are bad in themselves."""
    write_tree(tmp_path)
    rows = [dialogue_row(number) for number in range(30)]
    rows[2]["conversations"][0]["from"] = "system"
    rows[7]["conversations"][0]["value"] = "no mark"
    rows[8]["image"] = ["x.png", "y.png"]
    rows[10]["conversations"][1]["value"] = ""
    rows[13]["image"] = rows[11]["image"]  # one image of two rows
    rows[29] = {"id": "long", "conversations": [turn("human", "what ?"), turn("gpt", "word " * 2000)]}
    (tmp_path / "two.json").write_text(json.dumps(rows), encoding="utf-8")
    (tmp_path / "b" / "0001.png").unlink()
    (tmp_path / "b" / "0011.png").unlink()
    (tmp_path / "b" / "0014.png").write_bytes((tmp_path / "b" / "0014.png").read_bytes()[:48])
    (tmp_path / "b" / "0016.png").write_text("not an image", encoding="utf-8")
    return open_tree(tmp_path)


def look(data: LlavaJsonData, folder: Path, **options: object) -> PreflightReport:
    return preflight(data, 2, folder=folder, on_bad="drop", workers=2, **options)  # type: ignore[arg-type]


BAD = [
    (2, "missing image"),
    (3, "unknown role"),
    (8, "no image mark"),
    (9, "several images"),
    (12, "missing image"),
    (14, "missing image"),
    (15, "broken image"),
    (17, "broken image"),
]


def test_sound_data_pass_and_leave_a_report(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    report = preflight(data, 2, folder=tmp_path / "out")
    assert (report.num_rows, report.num_text_only, report.num_images) == (30, 10, 20)
    assert (report.bad, report.odd, dict(report.counts)) == ((), (), {})
    stored = read_json(tmp_path / "out" / report_name(2, data.stage_digest(2)))
    assert stored["num_images"] == 20
    assert stored["opened_images"] is True


def test_every_bad_row_is_named(broken: LlavaJsonData, tmp_path: Path) -> None:
    report = look(broken, tmp_path / "out")
    assert [(item.row, item.kind) for item in report.bad] == BAD
    assert report.bad[0].image == "b/0001.png"
    assert report.bad[0].id == "d1"
    assert "truncated" in report.bad[6].detail
    assert [(item.row, item.kind) for item in report.odd] == [(11, "empty text"), (30, "very long")]
    assert report.counts == {
        "broken image": 2, "empty text": 1, "missing image": 3, "no image mark": 1, "several images": 1,
        "unknown role": 1, "very long": 1,
    }  # fmt: skip
    (stored,) = (tmp_path / "out").iterdir()
    assert [item["row"] for item in read_json(stored)["bad"]] == [row for row, _ in BAD]


def test_bad_rows_end_it_unless_they_are_dropped_by_choice(broken: LlavaJsonData, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="8 of 30 rows of stage 2 cannot be trained on") as caught:
        preflight(broken, 2, folder=tmp_path / "out")
    assert r"row 2 (id d1): missing image (b/0001.png)" in caught.value.what
    assert "and 5 more" in caught.value.what
    assert "--bad-rows drop" in caught.value.fix
    assert Path(caught.value.where).is_file()


def test_dropped_rows_are_warned_of_and_the_rest_can_be_read(
    broken: LlavaJsonData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        report = look(broken, tmp_path / "out")
    assert "8 of 30 rows" in caplog.text
    assert report.summary()["num_bad_rows"] == 8
    rest = broken.without(2, report.bad_numbers)
    assert rest.size(2) == 22
    for index in range(22):
        conversation = rest.conversation(2, index, 0)
        if conversation.image_id is not None:
            rest.image(conversation.image_id)
    assert not preflight(rest, 2, folder=tmp_path / "out").bad


def test_both_stages_are_made_sound_at_once(broken: LlavaJsonData, tmp_path: Path) -> None:
    rest, reports = sound_data(broken, folder=tmp_path / "out", on_bad="drop")
    assert [(report.stage, len(report.bad_numbers)) for report in reports] == [(1, 0), (2, 8)]
    assert (rest.size(1), rest.size(2)) == (20, 22)
    with pytest.raises(DataError, match="of stage 2"):
        sound_data(broken, folder=tmp_path / "out")


def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    real = llava_json.open_picture

    def note(source: Path, **options: str) -> object:
        names.append(source.name)
        return real(source, **options)

    monkeypatch.setattr(llava_json, "open_picture", note)
    return names


def test_a_finished_preflight_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = write_tree(tmp_path / "data")
    first = preflight(data, 2, folder=tmp_path)
    names = opened(monkeypatch)
    assert preflight(open_tree(tmp_path / "data"), 2, folder=tmp_path) == first
    assert names == []
    preflight(data, 1, folder=tmp_path)  # other data
    assert len(names) == 20


def test_only_images_that_were_bad_are_opened_again(
    broken: LlavaJsonData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look(broken, tmp_path / "out")
    good = (tmp_path / "b" / "0005.png").read_bytes()
    (tmp_path / "b" / "0011.png").write_bytes(good)
    names = opened(monkeypatch)
    report = look(broken, tmp_path / "out")
    assert sorted(names) == ["0001.png", "0011.png", "0014.png", "0016.png"]
    assert [(item.row, item.kind) for item in report.bad] == [item for item in BAD if item[0] not in (12, 14)]


def test_a_shallow_look_finds_what_is_missing_and_is_no_proof(
    broken: LlavaJsonData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = opened(monkeypatch)
    report = look(broken, tmp_path / "out", open_images=False)
    assert names == []
    assert [item.kind for item in report.bad].count("missing image") == 3
    assert "broken image" not in report.counts
    assert look(broken, tmp_path / "out").counts["broken image"] == 2


def test_an_unreadable_report_is_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = write_tree(tmp_path / "data")
    path = tmp_path / report_name(2, data.stage_digest(2))
    path.write_text("{", encoding="utf-8")
    assert not preflight(data, 2, folder=tmp_path).bad
    assert "opened again" in caplog.text
    assert read_json(path)["num_rows"] == 30


def test_nothing_left_is_refused_whatever_was_chosen(tmp_path: Path) -> None:
    data = write_tree(tmp_path / "data")
    for path in (tmp_path / "data" / "a").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="nothing would be left") as caught:
        preflight(data, 1, folder=tmp_path, on_bad="drop")
    assert caught.value.fix == f"is {tmp_path / 'data'} the image folder?"


def test_progress_counts_images(tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    preflight(
        write_tree(tmp_path), 2, folder=tmp_path, progress=lambda done, total, **fields: calls.append((done, total))
    )
    assert calls == [(20, 20)]


def test_no_workers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="workers"):
        preflight(write_tree(tmp_path), 2, folder=tmp_path, workers=0)
