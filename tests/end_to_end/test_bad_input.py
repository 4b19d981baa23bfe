"""Each mistake on the command line: three lines on stderr, exit code 2, no traceback."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.end_to_end.conftest import call, environment

MISTAKES = [
    (("run", "-e", "clyp"), "unknown encoder 'clyp'", "did you mean 'clip'"),
    (("run", "-e", "clip", "-s", "understnading"), "unknown suite 'understnading'", "did you mean 'understanding'"),
    (("run", "-e", "clip", "-p", "mimi"), "unknown protocol 'mimi'", "did you mean 'mini'"),
    (("run", "-e", "clip", "--tasks", "mini-sead"), "unknown task 'mini-sead'", "did you mean 'mini-seed'"),
    (("run", "-e", "clip", "--limit", "0"), "--limit must be 1 or more, got 0", "--limit"),
    (("run", "-e", "clip", "--seed", "-1"), "a seed must be 0 or more, got -1", "--seed"),
    (("run", "-e", "clip", "--jobs", "0"), "--jobs must be 1 or more", "--jobs"),
    (("run", "-e", "clip", "--device", "gpu"), "unknown device 'gpu'", "--device"),
    (("run", "-e", "clip", "--out", "/dev/null/runs"), "cannot write", "--out"),
    (("leaderboard",), "no finished run", "ovbench run"),
    (("leaderboard", "--format", "xml"), "unknown format 'xml'", "--format"),
    (("pretrain", "--recipe", "clap"), "unknown recipe 'clap'", "did you mean 'clip'"),
    (("encoders", "show", "clyp"), "unknown encoder 'clyp'", "did you mean 'clip'"),
    (("tasks", "show", "mini-sead"), "unknown task 'mini-sead'", "did you mean 'mini-seed'"),
    (("protocols", "show", "mimi"), "unknown protocol 'mimi'", "did you mean 'mini'"),
    (("runs", "show", "nothing"), "unknown run 'nothing'", "ovbench runs"),
    (("encoders", "list", "clip"), "not understood", "ovbench encoders show"),
    (("tasks", "show", "mini-seed", "--samples", "x.jpg"), ".png", "--samples"),
]


@pytest.mark.parametrize(
    ("words", "what", "hint"), MISTAKES, ids=lambda value: " ".join(value) if isinstance(value, tuple) else None
)
def test_a_mistake_is_explained(tmp_path: Path, words: tuple[str, ...], what: str, hint: str) -> None:
    done = call(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert what in done.stderr
    assert hint in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_an_unknown_flag_is_a_usage_error(tmp_path: Path) -> None:
    done = call(tmp_path, "run", "--encodr", "clip")
    assert done.returncode == 2
    assert "--encodr" in done.stderr


def test_a_truncated_asset_is_named_with_both_digests(tmp_path: Path) -> None:
    import ovbench

    package = Path(ovbench.__file__).parent
    shutil.copytree(package, tmp_path / "site" / "ovbench")
    victim = tmp_path / "site" / "ovbench" / "_assets" / "encoders" / "clip-mini.safetensors"
    victim.write_bytes(victim.read_bytes()[:-100])
    done = subprocess.run(
        [sys.executable, "-m", "ovbench", "run", "-e", "clip", "-p", "mini-smoke", "--limit", "7"],
        env={**environment(tmp_path), "PYTHONPATH": str(tmp_path / "site")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "clip-mini.safetensors" in done.stderr
    assert "sha256" in done.stderr
    assert "Traceback" not in done.stderr
