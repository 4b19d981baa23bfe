from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench.harness.understanding.llava_json import LlavaJsonData, StageSource
from ovbench.harness.understanding.llava_rows import MANY_WORDS, examine
from ovbench.harness.understanding.section_config import DataSection, StageFiles
from tests.harness.understanding.llava_training import caption_row, dialogue_row, open_tree, turn, write_tree

ROW = {"id": "1", "image": "a.jpg", "conversations": [turn("human", "<image>\nwhat ?"), turn("gpt", "a shirt")]}


def talk(*texts: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"image": "a.jpg", "conversations": [turn(*text) for text in texts], **more}


FAULTS: list[tuple[Any, str]] = [
    ("text", "not an object"),
    ({"id": 1}, "no conversations"),
    ({"conversations": []}, "no conversations"),
    ({"conversations": [{"from": "human"}]}, "utterance without a text"),
    ({"conversations": [{"from": "human", "value": 3}]}, "utterance without a text"),
    (talk(("user", "<image>"), ("gpt", "b")), "unknown role"),
    (talk(("human", "<image>"), ("human", "b"), ("gpt", "c")), "speakers do not alternate"),
    (talk(("human", "<image>")), "no answer"),
    (talk(("human", "what"), ("gpt", "b")), "no image mark"),
    (talk(("human", "<image>"), ("gpt", "b"), ("human", "<image>"), ("gpt", "b")), "several image marks"),
    (talk(("gpt", "<image>"), ("human", "a"), ("gpt", "b")), "the image mark is in a dropped answer"),
    (talk(("human", "<image>"), ("gpt", "b"), image=["a.jpg", "b.jpg"]), "several images"),
    (talk(("human", "<image>"), ("gpt", "b"), image=7), "image is no path"),
    (talk(("human", "<image>"), ("gpt", "b"), image="../a.jpg"), "outside the image folder"),
    (talk(("human", "<image>"), ("gpt", "b"), image="/a.jpg"), "outside the image folder"),
    (talk(("human", "<image>\ud800"), ("gpt", "b")), "half a character"),
]
ODD: list[tuple[Any, str]] = [
    (talk(("human", "<image>"), ("gpt", "  ")), "empty text"),
    (talk(("gpt", "hello"), ("human", "<image>"), ("gpt", "b")), "begins with an answer"),
    (talk(("human", "<image> or <image>"), ("gpt", "b")), "the image mark is repeated"),
    (talk(("human", "<image>"), ("gpt", "word " * MANY_WORDS)), "very long"),
    (talk(("human", "what is <image> in HTML ?"), ("gpt", "b"), image=None), "an image mark without an image"),
]


@pytest.mark.parametrize(("row", "kind"), FAULTS)
def test_what_cannot_be_trained_on_is_a_fault(row: Any, kind: str) -> None:
    assert kind in {finding.kind for finding in examine(row, 2) if finding.fault}


@pytest.mark.parametrize(("row", "kind"), ODD)
def test_what_is_odd_is_no_fault(row: Any, kind: str) -> None:
    assert [(finding.kind, finding.fault) for finding in examine(row, 2)] == [(kind, False)]


def test_a_sound_row_has_no_findings() -> None:
    assert not list(examine(ROW, 1))
    assert not list(examine(ROW, 2))
    assert not list(examine({"conversations": [turn("human", "a"), turn("gpt", "b")]}, 2))


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"conversations": [turn("human", "a"), turn("gpt", "b")]}, "no image"),
        (
            talk(("human", "<image>"), ("gpt", "b"), ("human", "c"), ("gpt", "d")),
            "stage 1 takes one question and one answer",
        ),
    ],
)
def test_stage_one_takes_captions_alone(row: Any, kind: str) -> None:
    assert [finding.kind for finding in examine(row, 1) if finding.fault] == [kind]


def test_conversations_are_those_of_the_lists(tmp_path: Path) -> None:
    data = write_tree(tmp_path)
    assert (data.size(1), data.size(2)) == (20, 30)
    caption = data.conversation(1, 3, 0)
    assert [(item.role, item.text) for item in caption.messages] == [
        (item["from"], item["value"]) for item in caption_row(3)["conversations"]
    ]
    assert caption.image_id == "stage1/a/0003.png"
    assert data.conversation(2, 3, 5).image_id is None  # text alone, at any visit
    assert [item.text for item in data.conversation(2, 3, 0).messages] == [
        item["value"] for item in dialogue_row(3)["conversations"]
    ]


def test_images_are_named_once_and_read_by_name(tmp_path: Path) -> None:
    data = write_tree(tmp_path)
    assert data.image_ids(1) == tuple(f"stage1/a/{number:04d}.png" for number in range(20))
    assert data.image_ids(2) == tuple(f"stage1/b/{number:04d}.png" for number in range(30) if number % 3)
    assert data.image("stage1/b/0001.png").shape == (5, 7, 3)


def test_stages_with_folders_of_their_own_have_names_of_their_own(tmp_path: Path) -> None:
    write_tree(tmp_path)
    shutil.copytree(tmp_path, tmp_path / "other")
    data = LlavaJsonData(
        StageSource(json=tmp_path / "one.json", images=tmp_path),
        StageSource(json=tmp_path / "one.json", images=tmp_path / "other"),
    )
    assert data.image_ids(1)[0] == "stage1/a/0000.png"
    assert data.image_ids(2)[0] == "stage2/a/0000.png"
    assert data.image_path("stage2/a/0000.png") == tmp_path / "other" / "a" / "0000.png"


@pytest.mark.parametrize("name", ["stage1/../x.png", "stage1//etc/x.png", "stage3/a.png", "a.png"])
def test_no_name_leads_out_of_the_image_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="no training image"):
        write_tree(tmp_path).image(name)


def test_a_bad_row_is_named_when_it_is_reached(tmp_path: Path) -> None:
    write_tree(tmp_path)
    (tmp_path / "two.json").write_text(json.dumps([ROW, {"id": "x", "conversations": []}]), encoding="utf-8")
    data = open_tree(tmp_path)
    assert data.conversation(2, 0, 0).image_id == "stage1/a.jpg"
    with pytest.raises(DataError, match="row 2 cannot be trained on: no conversations") as caught:
        data.conversation(2, 1, 0)
    assert caught.value.where == str(tmp_path / "two.json")


def change_a_row(folder: Path) -> LlavaJsonData:
    text = (folder / "two.json").read_text(encoding="utf-8")
    (folder / "two.json").write_text(text.replace("what is", "what was", 1), encoding="utf-8")
    return open_tree(folder)


def with_share(folder: Path) -> LlavaJsonData:
    return LlavaJsonData(
        StageSource(json=folder / "one.json", images=folder, share=0.5),
        StageSource(json=folder / "two.json", images=folder),
    )


@pytest.mark.parametrize("change", [change_a_row, with_share, lambda folder: open_tree(folder).without(2, [3])])
def test_the_digest_changes_with_rows_and_options(tmp_path: Path, change: Callable[[Path], LlavaJsonData]) -> None:
    before = write_tree(tmp_path).digest
    assert open_tree(tmp_path).digest == before
    assert change(tmp_path).digest != before


def test_a_share_is_the_same_rows_for_ever(tmp_path: Path) -> None:
    write_tree(tmp_path)
    data = with_share(tmp_path)
    assert data.numbers(1).tolist() == [0, 1, 2, 4, 5, 6, 7, 8, 14, 16]
    assert data.size(2) == 30
    assert data.conversation(1, 3, 0).image_id == "stage1/a/0004.png"
    assert data.without(1, [4]).numbers(1).tolist() == [0, 1, 2, 5, 6, 7, 8, 14, 16]  # no other row takes its place


def test_rows_left_out_are_gone(tmp_path: Path) -> None:
    data = write_tree(tmp_path).without(2, [0, 2]).without(2, [2, 4])
    assert (data.size(2), data.numbers(2).tolist()[:3]) == (27, [1, 3, 5])
    assert data.conversation(2, 0, 0).image_id == "stage1/b/0001.png"
    assert "stage1/b/0002.png" not in data.image_ids(2)


def test_data_below_a_folder_are_those_of_the_protocol(tmp_path: Path) -> None:
    write_tree(tmp_path)
    files = {"stage1": StageFiles(json="one.json"), "stage2": StageFiles(json="two.json", images="b", share=0.5)}
    data = LlavaJsonData.below(tmp_path, DataSection(source="llava", **files))
    assert (data.size(1), data.size(2)) == (20, 15)
    assert data.image_folder(2) == tmp_path / "b"


def test_a_missing_folder_or_list_is_named(tmp_path: Path) -> None:
    section = DataSection(source="llava", stage1=StageFiles(json="x.json"), stage2=StageFiles(json="y.json"))
    with pytest.raises(DataError, match="no data folder"):
        LlavaJsonData.below(tmp_path / "nowhere", section)
    with pytest.raises(DataError, match=r"'x\.json' is missing"):
        LlavaJsonData.below(tmp_path, section)
