from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError, RecordError
from ovbench._base.files import folder_lock

_HOLD = """
import sys
from pathlib import Path
from ovbench._base.files import folder_lock
with folder_lock(Path(sys.argv[1])):
    sys.stdout.write("held\\n")
    sys.stdout.flush()
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of the test's folder until its stdin closes."""
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_folder_held_by_another_process_is_refused_by_name(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(RecordError) as caught, folder_lock(tmp_path, purpose="run"):
        pass
    assert caught.value.what == f"another run is using this folder (process {holder.pid})"
    assert caught.value.where == str(tmp_path)
    assert caught.value.fix == "wait for it to end, or choose another folder with --out"


def test_lock_of_a_killed_process_is_free(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    holder.kill()
    holder.wait()
    with folder_lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_lock_is_free_after_the_block_even_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folder_lock(tmp_path):
        raise RuntimeError
    with folder_lock(tmp_path):
        pass


def test_waiting_gets_the_lock_when_the_holder_ends(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    assert holder.stdin is not None
    holder.stdin.close()
    with folder_lock(tmp_path, wait=True):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_folder_that_cannot_be_made_is_an_error_for_the_user(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"), folder_lock(tmp_path / "file" / "runs"):
        pass
