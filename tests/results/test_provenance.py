from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ovbench.results import provenance


def _git(folder: Path, *words: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    _git(tmp_path, "init")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "first")
    return tmp_path


def test_a_clean_checkout_has_a_commit(checkout: Path) -> None:
    state = provenance.git_state(checkout)
    assert re.fullmatch("[0-9a-f]{40}", state.commit or "")
    assert state.dirty is False
    assert state.reason is None


def test_a_changed_file_makes_it_dirty(checkout: Path) -> None:
    (checkout / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert provenance.git_state(checkout).dirty is True


def test_a_new_file_makes_it_dirty(checkout: Path) -> None:
    (checkout / "new.py").write_text("")
    assert provenance.git_state(checkout).dirty is True


def test_a_folder_inside_another_repository_is_not_taken_for_ours(checkout: Path) -> None:
    inner = checkout / "venv" / "site-packages"
    inner.mkdir(parents=True)
    (inner / "pyproject.toml").write_text("")
    state = provenance.git_state(inner)
    assert state.commit is None
    assert state.dirty is None
    assert state.reason == "installed, not run from a checkout"


def test_git_that_fails_is_said(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / ".git").mkdir()
    state = provenance.git_state(tmp_path)
    assert state.commit is None
    assert state.reason == "git failed: CalledProcessError"


def test_a_package_that_is_not_installed_has_no_version() -> None:
    versions = provenance.package_versions(("numpy", "no-such-package-at-all"))
    assert re.match(r"\d+\.", versions["numpy"] or "")
    assert versions["no-such-package-at-all"] is None


def test_versions_are_read_without_importing_the_packages() -> None:
    code = (
        "import sys; from ovbench.results import provenance as p; p.package_versions(); p.git_state(); p.cpu_model();"
        "print([name for name in ('torch', 'numpy', 'pandas', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_the_machine_is_described() -> None:
    assert provenance.cpu_model()
    assert provenance.num_cores() >= 1
    assert provenance.peak_rss_bytes() > 10_000_000


def test_times_are_utc() -> None:
    assert provenance.utc(0.0) == "1970-01-01T00:00:00Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", provenance.utc())
