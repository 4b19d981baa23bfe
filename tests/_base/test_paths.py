from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovbench._base import paths
from ovbench._base.errors import DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import config_file, data_dir

CONTENT = b"garments"


@pytest.fixture
def assets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An assets folder with one file and a true manifest."""
    path = tmp_path / "world" / "sprites.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    entry = {"sha256": file_sha256(path), "size_bytes": len(CONTENT)}
    (tmp_path / "MANIFEST.json").write_text(json.dumps({"files": {"world/sprites.bin": entry}, "schema": 1}))
    monkeypatch.setattr(paths, "ASSETS", tmp_path)
    return tmp_path


def test_sound_asset_is_found(assets: Path) -> None:
    assert paths.asset("world/sprites.bin").read_bytes() == CONTENT


def test_truncated_asset_is_refused_with_both_digests(assets: Path) -> None:
    path = assets / "world" / "sprites.bin"
    expected = file_sha256(path)
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(DataError) as caught:
        paths.asset("world/sprites.bin")
    assert caught.value.what == (
        f"embedded file 'world/sprites.bin' is damaged: sha256 {file_sha256(path)[:12]}…, expected {expected[:12]}…"
    )
    assert caught.value.where == str(path)
    assert "--force-reinstall" in caught.value.fix


def test_removed_asset_is_named(assets: Path) -> None:
    (assets / "world" / "sprites.bin").unlink()
    with pytest.raises(DataError, match="embedded file 'world/sprites.bin' is missing"):
        paths.asset("world/sprites.bin")


def test_file_that_the_manifest_does_not_know_is_refused(assets: Path) -> None:
    (assets / "stray.bin").write_bytes(b"?")
    with pytest.raises(DataError, match="embedded file 'stray.bin' is missing"):
        paths.asset("stray.bin")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}"])
def test_damaged_manifest_is_an_error_for_the_user(assets: Path, text: str) -> None:
    (assets / "MANIFEST.json").write_text(text)
    with pytest.raises(DataError, match="manifest of the embedded files cannot be read"):
        paths.asset("world/sprites.bin")


def test_every_embedded_file_has_the_digest_of_the_manifest() -> None:
    files = paths.assets_manifest()
    assert files
    for name in files:
        assert paths.asset(name).is_file()


def test_every_embedded_file_is_in_the_manifest() -> None:
    found = {path.relative_to(paths.ASSETS).as_posix() for path in paths.ASSETS.rglob("*") if path.is_file()}
    unlisted = {name for name in found if not name.endswith((".tmp", ".pyc", ".py"))} - {"MANIFEST.json"}
    assert unlisted <= set(paths.assets_manifest()), "run: python scripts/refresh_manifest.py"


def test_cache_folder_is_the_variable_then_the_user_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.delenv("OVBENCH_CACHE", raising=False)
    assert paths.cache_dir() == Path("/somewhere/ovbench")
    monkeypatch.setenv("OVBENCH_CACHE", "~/mine")
    assert paths.cache_dir() == Path.home() / "mine"


def test_runs_go_to_the_working_folder_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OVBENCH_RUNS", raising=False)
    assert paths.runs_dir() == Path("runs")
    monkeypatch.setenv("OVBENCH_RUNS", "/elsewhere")
    assert paths.runs_dir() == Path("/elsewhere")


def test_data_folder_is_that_of_the_environment_then_the_remembered_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    assert data_dir() is None
    config_file().parent.mkdir(parents=True)
    config_file().write_text('{"data_dir": "/remembered"}')
    assert data_dir() == Path("/remembered")
    monkeypatch.setenv("OVBENCH_DATA", "~/data")
    assert data_dir() == Path.home() / "data"


@pytest.mark.parametrize("content", ["{", "[1]"])
def test_damaged_configuration_is_said(content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("OVBENCH_DATA", raising=False)
    config_file().parent.mkdir(parents=True)
    config_file().write_text(content)
    with pytest.raises(DataError) as caught:
        data_dir()
    assert "'config.json' cannot be read" in caught.value.what
    assert "ovbench data mount DIR" in caught.value.fix
