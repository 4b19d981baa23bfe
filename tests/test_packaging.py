"""What is shipped: the wheel's content, and the agreement of the files that name versions."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import ovbench

ROOT = Path(__file__).parent.parent
MAX_WHEEL_BYTES = 20_000_000
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), flags=re.M))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.skipif(importlib.util.find_spec("hatchling") is None, reason="hatchling is not installed (extra: dev)")
def test_wheel_holds_every_data_file_and_is_small(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < MAX_WHEEL_BYTES
    held = set(zipfile.ZipFile(wheel).namelist())
    data = [path for path in (ROOT / "ovbench").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    wanted = {path.relative_to(ROOT).as_posix() for path in data if path.suffix != ".tmp"}
    assert "ovbench/_assets/MANIFEST.json" in held
    assert "ovbench/py.typed" in held
    assert wanted <= held
    assert not [name for name in held if name.startswith(("tests/", "scripts/"))]


def test_every_direct_dependency_has_an_exact_version() -> None:
    groups = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    names = {_normal(re.split(r"[\[<>=]", line)[0]) for group in groups for line in group} - {"ovbench"}
    assert names - {_normal(name) for name in PINS} == set()


def test_all_extra_names_every_other_extra() -> None:
    extras = PROJECT["optional-dependencies"]
    (line,) = extras["all"]
    assert line == f"ovbench[{','.join(sorted(set(extras) - {'all'}))}]"


def test_changelog_has_an_entry_for_this_version() -> None:
    assert f"## [{ovbench.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_licence_of_the_photographs_travels_with_them() -> None:
    for path in (ROOT / "NOTICE", ROOT / "ovbench" / "_assets" / "world" / "LICENSE"):
        text = path.read_text(encoding="utf-8")
        assert "Copyright (c) 2017 Zalando SE" in text
        assert "Permission is hereby granted, free of charge" in text
