"""What processes of a launcher say alike is said once."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from ovbench._base import launcher


@pytest.fixture(autouse=True)
def _several(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_PORT", "29500")


def test_one_process_of_several_says_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [launcher.first_to_say("error: no such folder") for _ in range(3)] == [True, False, False]
    assert launcher.first_to_say("error: process 1 has no GPU")
    monkeypatch.setenv("MASTER_PORT", "29501")  # another start of the launcher
    assert launcher.first_to_say("error: no such folder")


def test_another_run_of_the_launcher_says_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "one")
    assert [launcher.first_to_say("error") for _ in range(2)] == [True, False]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "two")
    assert launcher.first_to_say("error")


def test_another_process_of_the_same_number_says_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        monkeypatch.setattr(launcher.os, "getppid", lambda: other.pid)
        assert [launcher.first_to_say("error") for _ in range(2)] == [True, False]
        assert launcher._started(other.pid).isdecimal()
        assert other.stdin is not None
        other.stdin.close()
    assert launcher._started(other.pid) == ""
    assert launcher.first_to_say("error")


def test_without_a_launcher_everything_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE")
    assert [launcher.first_to_say("error") for _ in range(2)] == [True, True]


def test_where_no_note_can_be_left_it_is_said_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    assert [launcher.first_to_say("error") for _ in range(2)] == [True, True]


def test_a_mistake_under_a_launcher_is_printed_by_one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    words = [sys.executable, "-m", "ovbench", "protocols", "show", "minni"]
    printed: list[str] = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        printed.append(done.stderr)
    assert printed[0].startswith("error: unknown protocol 'minni'")
    assert printed[1] == ""
