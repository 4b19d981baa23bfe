"""A pack carries the data of tasks: made, taken up again, checked, and remembered."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, DataError
from ovbench.tasks.load import load_task
from ovbench.tasks.sources import load_data
from ovbench.tasks.tables import pack as packing
from ovbench.tasks.tables.mount import mount
from ovbench.tasks.tables.pack import pack
from ovbench.tasks.tables.verify import verify
from tests.tasks.benchmark_files import MAKERS, picture, write_benchmark, write_table

COMMIT = "d" * 40


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "carried" / "pack"


def _broken(folder: Path, *, images: bool = False) -> dict[str, str]:
    return {row["what"]: row["detail"] for row in verify(folder, images=images) if row["state"] == "broken"}


@pytest.mark.parametrize("name", [*MAKERS, "pope-v1"])
def test_pack_of_each_benchmark_is_whole_and_asks_the_same(name: str, folder: Path, target: Path) -> None:
    expected = load_data(load_task(name), data_dir=write_benchmark(name, folder))
    (row,) = pack([name], target, source=folder)
    assert (row["rows"], row["images"]) == (len(expected.samples), len(expected.image_ids))
    shutil.rmtree(folder)
    data = load_data(load_task(name), data_dir=target)
    assert data.digest == expected.digest
    assert data.image(data.image_ids[0]).shape == (16, 20, 3)
    assert _broken(target, images=True) == {}


def test_manifest_says_what_is_in_the_pack(hub: Path, target: Path, folder: Path) -> None:
    snapshot = hub / "datasets--lmms-lab--ChartQA" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    shutil.move(write_benchmark("chartqa", folder) / "ChartQA", snapshot)
    pack(["chartqa"], target)
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["sources"] == {"ChartQA": {"repo": "lmms-lab/ChartQA", "revision": COMMIT, "kind": "hub cache"}}
    ((name, entry),) = manifest["files"].items()
    assert name == "ChartQA/data/test-00000-of-00001.parquet"
    assert entry["bytes"] == (target / name).stat().st_size
    assert len(entry["sha256"]) == 64
    task = manifest["tasks"]["chartqa"]
    assert (task["rows"], task["images"], task["groups"]) == (8, 4, {"human": 4, "augmented": 4})
    assert manifest["made"].endswith("+00:00")
    provenance = load_data(load_task("chartqa"), data_dir=target).provenance
    assert (provenance["kind"], provenance["repo"], provenance["revision"]) == ("pack", "lmms-lab/ChartQA", COMMIT)


def _edit_task(target: Path, **changes: Any) -> None:
    path = target / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["tasks"]["chartqa"].update(changes)
    path.write_text(json.dumps(manifest))


def test_questions_of_another_digest_are_found(folder: Path, target: Path) -> None:
    write_benchmark("chartqa", folder)
    pack(["chartqa"], target, source=folder)
    _edit_task(target, digest="0" * 64)
    assert _broken(target)["task chartqa"].endswith("…, the manifest says 000000000000…")


def test_digest_of_another_version_of_a_task_is_not_compared(folder: Path, target: Path) -> None:
    write_benchmark("chartqa", folder)
    pack(["chartqa"], target, source=folder)
    _edit_task(target, digest="0" * 64, version=0)
    assert _broken(target) == {}


def test_tasks_of_one_table_share_its_files(folder: Path, target: Path) -> None:
    write_benchmark("textvqa", folder)
    assert [row["task"] for row in pack(["textvqa", "textvqa-ocr"], target, source=folder)] == [
        "textvqa",
        "textvqa-ocr",
    ]
    assert len([row for row in verify(target) if row["what"].startswith("textvqa/")]) == 1


def test_second_pack_adds_to_the_first(folder: Path, target: Path) -> None:
    write_benchmark("chartqa", folder)
    write_benchmark("gqa", folder)
    pack(["chartqa"], target, source=folder)
    pack(["gqa"], target, source=folder)
    assert {row["what"] for row in verify(target)} >= {"task chartqa", "task gqa"}
    assert _broken(target) == {}


def test_files_that_are_whole_are_not_copied_again(folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_benchmark("gqa", folder)
    copied: list[str] = []
    copy = packing._copy_blocks

    def count(path: Path, aim: Path) -> str:
        if len(copied) == 1:
            raise KeyboardInterrupt
        copied.append(path.parent.name)
        return copy(path, aim)

    monkeypatch.setattr(packing, "_copy_blocks", count)
    with pytest.raises(KeyboardInterrupt):
        pack(["gqa"], target, source=folder)
    assert not (target / "manifest.json").exists()
    assert not [path for path in target.rglob("*") if path.name.endswith(".tmp")]
    monkeypatch.setattr(packing, "_copy_blocks", lambda path, aim: copied.append(path.parent.name) or copy(path, aim))
    pack(["gqa"], target, source=folder)
    assert copied == ["testdev_balanced_instructions", "testdev_balanced_images"]
    assert _broken(target) == {}


def test_full_disk_is_said_and_whole_files_are_kept(
    folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark("gqa", folder)
    copy = packing._copy_blocks

    def fill(path: Path, aim: Path) -> str:
        if path.parent.name == "testdev_balanced_images":
            raise OSError(errno.ENOSPC, "No space left on device")
        return copy(path, aim)

    monkeypatch.setattr(packing, "_copy_blocks", fill)
    with pytest.raises(ConfigError) as caught:
        pack(["gqa"], target, source=folder)
    assert caught.value.what == "no space left on the device while writing 'testdev-00000-of-00001.parquet'"
    assert "files that are whole are kept" in caught.value.fix
    assert [path.name for path in target.rglob("*.parquet")] == ["testdev-00000-of-00001.parquet"]


def test_too_little_space_is_said_before_anything_is_written(
    folder: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_benchmark("gqa", folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(100, 90, 10))  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"the data need \d+\.\d kB, and 10 bytes are free"):
        pack(["gqa"], target, source=folder)
    assert not list(target.rglob("*.parquet"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["mini-seed"], "the task 'mini-seed' has no published data to pack"),
        (["poppe"], "did you mean 'pope'"),
        ([], "no task is named"),
    ],
)
def test_what_cannot_be_packed_is_refused(names: list[str], message: str, target: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        pack(names, target)
    assert message in str(caught.value)


def test_data_that_are_not_in_the_source_are_named(folder: Path, target: Path) -> None:
    folder.mkdir()
    with pytest.raises(DataError) as caught:
        pack(["chartqa"], target, source=folder)
    assert str(folder / "ChartQA") in caught.value.where
    assert "data/test-*.parquet" in caught.value.fix


def test_two_revisions_are_not_mixed_in_a_pack(hub: Path, folder: Path, target: Path) -> None:
    write_benchmark("textvqa", folder)
    pack(["textvqa"], target, source=folder)
    snapshot = hub / "datasets--lmms-lab--textvqa" / "snapshots" / COMMIT
    snapshot.parent.mkdir(parents=True)
    shutil.move(folder / "textvqa", snapshot)
    with pytest.raises(DataError, match=f"holds revision unknown of 'textvqa', the new data are of revision {COMMIT}"):
        pack(["textvqa-ocr"], target)


def test_pack_onto_itself_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="copied onto themselves"):
        pack(["chartqa"], folder, source=folder)


# --- verify -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(folder: Path, target: Path) -> Path:
    """A pack of ChartQA."""
    pack(["chartqa"], target, source=write_benchmark("chartqa", folder))
    return target


FILE = "ChartQA/data/test-00000-of-00001.parquet"


def test_missing_file_is_found(made: Path) -> None:
    (made / FILE).unlink()
    broken = _broken(made)
    assert broken[FILE] == "missing"
    assert "are not on this machine" in broken["task chartqa"]


def test_changed_size_is_found_by_verify_and_by_a_run(made: Path) -> None:
    with (made / FILE).open("ab") as stream:
        stream.write(b"x")
    assert "the manifest says" in _broken(made)[FILE]
    with pytest.raises(DataError) as caught:
        load_data(load_task("chartqa"), data_dir=made)
    assert "the manifest says" in caught.value.what
    assert caught.value.fix == f"see what else is wrong: ovbench data verify {made}"


def test_changed_byte_is_found(made: Path) -> None:
    data = bytearray((made / FILE).read_bytes())
    data[len(data) // 3] ^= 1
    (made / FILE).write_bytes(bytes(data))
    assert _broken(made)[FILE].startswith("sha256 ")


def test_other_counts_are_found(made: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["tasks"]["chartqa"]["rows"] = 9
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert _broken(made)["task chartqa"] == "rows: 8, the manifest says 9"


def test_pictures_are_opened_when_asked(folder: Path, target: Path) -> None:
    (table,) = MAKERS["chartqa"](4)
    for row in table.rows[:2]:
        row["image"] = {"bytes": picture(1)[:300], "path": "a.png"}
    write_table(table, folder)
    pack(["chartqa"], target, source=folder)
    assert _broken(target) == {}
    fault = _broken(target, images=True)["task chartqa"]
    assert fault.startswith("1 of 4 pictures cannot be used: row-000001: the picture is truncated or damaged")


def test_rows_of_the_release_are_shown_beside_those_that_are_there(made: Path) -> None:
    (row,) = [row for row in verify(made, images=True) if row["what"] == "task chartqa"]
    assert row["detail"] == "8 rows (as published: 2500), 4 pictures, every one opened"


def test_folder_without_a_manifest_is_no_pack(folder: Path) -> None:
    folder.mkdir()
    with pytest.raises(DataError, match=r"there is no manifest\.json of a data pack"):
        verify(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 99}, "the pack is of version 99"),
        ({"files": {"x": {}}}, "the manifest is damaged: KeyError: 'sha256'"),
        ({"tasks": 3}, "the manifest is damaged: AttributeError"),
    ],
)
def test_manifest_that_cannot_be_used_is_said(made: Path, change: dict[str, Any], message: str) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(DataError) as caught:
        verify(made)
    assert message in caught.value.what


# --- mount ------------------------------------------------------------------------------------------------------------


def test_mounted_folder_is_used_until_the_environment_says_another(
    made: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [row["task"] for row in mount(made)] == ["chartqa"]
    assert load_data(load_task("chartqa")).provenance["folder"] == str(made / "ChartQA")
    monkeypatch.setenv("OVBENCH_DATA", str(folder))
    assert load_data(load_task("chartqa")).provenance["folder"] == str(folder / "ChartQA")


def test_folder_without_data_is_not_mounted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds the data of no task"):
        mount(tmp_path)


def test_mount_keeps_other_settings(made: Path, tmp_path: Path) -> None:
    settings = tmp_path / "config" / "ovbench" / "config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"other": 1}')
    mount(made)
    assert json.loads(settings.read_text()) == {"other": 1, "data_dir": str(made)}


def test_pack_from_a_pack_keeps_what_is_known_of_the_origin(made: Path, tmp_path: Path) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    manifest["sources"]["ChartQA"] = {"repo": "lmms-lab/ChartQA", "revision": COMMIT, "kind": "hub"}
    (made / "manifest.json").write_text(json.dumps(manifest))
    (row,) = pack(["chartqa"], tmp_path / "second", source=made)
    assert row["from"] == f"lmms-lab/ChartQA at {COMMIT[:12]} (pack)"
    assert load_data(load_task("chartqa"), data_dir=tmp_path / "second").provenance["revision"] == COMMIT


def test_pack_of_another_revision_than_the_task_s_is_refused(made: Path) -> None:
    from dataclasses import replace

    spec = load_task("chartqa")
    with pytest.raises(DataError) as caught:
        load_data(replace(spec, source={**spec.source, "revision": COMMIT}), data_dir=made)
    assert f"the pack holds revision unknown of 'ChartQA', the task 'chartqa' wants {COMMIT}" in caught.value.what
    assert caught.value.fix == "make it again: ovbench data pack --tasks chartqa --to DIR"


def test_picture_of_an_unknown_name_is_refused(made: Path) -> None:
    with pytest.raises(DataError, match="there is no picture 'x' in the tables of this task"):
        load_data(load_task("chartqa"), data_dir=made).image("x")
