from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from ovbench._base import files
from ovbench._base.errors import ConfigError, DataError
from ovbench._base.files import append_jsonl, atomic_dir, make_dir, read_json, read_jsonl, write_json


def _full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_folder_below_a_regular_file_is_an_error_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as caught:
        make_dir(tmp_path / "file" / "runs")
    assert caught.value.what == "cannot write 'runs': Not a directory"
    assert caught.value.where == str(tmp_path / "file")
    assert caught.value.fix == "choose a folder that you may write to: --out for results, OVBENCH_CACHE for the cache"


def test_folder_without_write_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # permission bits do not bind root
    with pytest.raises(ConfigError, match="permission denied"):
        make_dir(tmp_path / "runs")


def test_json_comes_back_as_written(tmp_path: Path) -> None:
    write_json(tmp_path / "new" / "record.json", {"b": [1, 2.5, None], "a": "é"})
    assert read_json(tmp_path / "new" / "record.json") == {"a": "é", "b": [1, 2.5, None]}
    assert (tmp_path / "new" / "record.json").read_text(encoding="utf-8").startswith('{\n  "a": "é",')


def test_nan_is_never_written_as_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "record.json", {"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_full_disk_keeps_the_old_file_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_json(tmp_path / "record.json", {"old": True})
    monkeypatch.setattr(os, "fsync", _full_disk)
    with pytest.raises(ConfigError) as caught:
        write_json(tmp_path / "record.json", {"old": False})
    assert caught.value.what == "no space left on the device while writing 'record.json'"
    assert caught.value.fix == (
        "free some space, or choose another folder (--out, OVBENCH_CACHE); finished steps are kept"
    )
    assert read_json(tmp_path / "record.json") == {"old": True}
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_is_reported_when_rows_are_appended() -> None:
    with pytest.raises(ConfigError, match="no space left on the device while writing 'full'"):
        append_jsonl(Path("/dev/full"), [{"a": 1}])


@pytest.mark.parametrize(
    ("content", "message"), [(b"{", "cannot be read as JSON"), (b"\xff", "cannot be read as JSON")]
)
def test_damaged_json_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "record.json").write_bytes(content)
    with pytest.raises(DataError, match=f"'record.json' {message}"):
        read_json(tmp_path / "record.json")


@pytest.mark.parametrize("read", [read_json, read_jsonl])
def test_absent_file_is_named(tmp_path: Path, read: object) -> None:
    assert callable(read)
    with pytest.raises(DataError, match="no such file 'gone.json'"):
        read(tmp_path / "gone.json")


def test_rows_come_back_in_order(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    append_jsonl(path, [{"n": 1}, {"n": 2}])
    append_jsonl(path, [{"n": 3}])
    assert read_jsonl(path) == [{"n": 1}, {"n": 2}, {"n": 3}]


# The last one ends inside the two bytes of a character.
@pytest.mark.parametrize("tail", [b'{"n"', b'{"n": 2}', '{"é'.encode()[:-1]])
def test_torn_tail_is_left_out_when_asked(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n' + tail)
    assert read_jsonl(path, drop_torn_tail=True) == [{"n": 1}]


def test_torn_tail_is_an_error_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n"')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_jsonl(path)


def test_damaged_line_in_the_middle_is_never_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"n": 1}\n{"n"\n{"n": 3}\n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        read_jsonl(path, drop_torn_tail=True)


@pytest.mark.parametrize("whole", [b"", b'{"n": 1}\n'])
@pytest.mark.parametrize("torn", [b'{"n"', b'{"text": "' + b"x" * 200_000])  # longer than one block
def test_rows_appended_after_a_crash_start_on_their_own_line(tmp_path: Path, whole: bytes, torn: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(whole + torn)
    append_jsonl(path, [{"n": 2}])
    assert path.read_bytes() == whole + b'{"n": 2}\n'


def test_folder_appears_whole(tmp_path: Path) -> None:
    with atomic_dir(tmp_path / "step") as folder:
        (folder / "data").write_text("1")
        assert not (tmp_path / "step").exists()
    assert (tmp_path / "step" / "data").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["step"]


def test_folder_takes_the_place_of_an_older_one(tmp_path: Path) -> None:
    (tmp_path / "step").mkdir()
    (tmp_path / "step" / "old").write_text("")
    with atomic_dir(tmp_path / "step") as folder:
        (folder / "new").write_text("")
    assert [path.name for path in (tmp_path / "step").iterdir()] == ["new"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_folder_leaves_the_old_one_and_no_litter(tmp_path: Path, interruption: type[BaseException]) -> None:
    (tmp_path / "step").mkdir()
    with pytest.raises(interruption), atomic_dir(tmp_path / "step") as folder:
        (folder / "half").write_text("")
        raise interruption
    assert [path.name for path in tmp_path.rglob("*")] == ["step"]


def test_error_of_the_block_itself_is_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the block"), atomic_dir(tmp_path / "step"):
        raise OSError("of the block")


def test_quota_counts_as_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no space left"), files.writing(tmp_path / "x"):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")
