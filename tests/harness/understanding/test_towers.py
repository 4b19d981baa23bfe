from __future__ import annotations

from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.understanding.towers import name_of_tower, placed, spec_of_tower, take_along
from tests.harness.understanding import llava_layouts as layouts


@pytest.mark.parametrize(
    ("name", "spec"),
    [
        ("openai/clip-vit-large-patch14-336", "clip/l14-336"),
        ("openai/clip-vit-large-patch14", "clip/l14"),
        ("openai/clip-vit-base-patch16", "clip/b16"),
        ("google/siglip-so400m-patch14-384", "siglip/so400m-384"),
        ("/mnt/models/clip-vit-large-patch14-336", "clip/l14-336"),  # a path of the machine that trained it
        ("ovis3/mini", "ovis3/mini"),
        ("dinov2/base?layer=-2", "dinov2/base?layer=-2"),
    ],
)
def test_tower_is_found_by_its_name(name: str, spec: str) -> None:
    assert spec_of_tower(name, where="config.json") == spec


def test_tower_that_is_a_folder_is_read_from_there(tmp_path: Path) -> None:
    folder = layouts.write_tower(tmp_path / "tower")
    assert spec_of_tower(str(folder), where="config.json") == f"clip/l14-336:{folder}"


def test_unknown_tower_names_the_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'nobody/knows' is no encoder") as caught:
        spec_of_tower("nobody/knows", where="config.json")
    assert "--encoder" in caught.value.fix


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("clip/l14-336", "openai/clip-vit-large-patch14-336"),
        ("clip/l14-336?aspect=pad", "openai/clip-vit-large-patch14-336"),
        ("clip/l14-336?size=224", "clip/l14-336?size=224"),  # the original could not do it
        ("clip/l14-336?weights=random:0", "clip/l14-336?weights=random:0"),
        ("ovis3/mini", "ovis3/mini"),
    ],
)
def test_tower_is_written_by_the_name_that_the_original_code_knows(spec: str, name: str) -> None:
    assert name_of_tower(spec) == name


def test_encoder_outside_the_cache_is_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    spec = f"clip/b16:{layouts.write_tower(tmp_path / 'tower')}"
    (tmp_path / "out").mkdir()
    assert placed(take_along(spec, tmp_path / "out"), tmp_path / "out") == spec
    assert not any((tmp_path / "out").iterdir())
