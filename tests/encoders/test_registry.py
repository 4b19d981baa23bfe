"""Names and spec strings → encoders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError
from ovbench.encoders.registry import families, load_encoder, parse_encoder


def test_a_bare_family_means_the_default_of_the_protocol() -> None:
    assert parse_encoder("ovis3", protocol="mini").canonical == "ovis3/mini"


def test_an_alias_is_the_same_encoder() -> None:
    assert parse_encoder("openvision3").canonical == parse_encoder("ovis3/mini").canonical


def test_source_and_options_are_read() -> None:
    spec = parse_encoder("random/mini?seed=3")
    assert spec.options == {"seed": "3"}
    assert parse_encoder("clip/mini:/models/a.safetensors").source == "/models/a.safetensors"
    assert parse_encoder("clip/mini:/models/a.safetensors").canonical == "clip/mini:/models/a.safetensors"


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("clyp", "unknown encoder 'clyp'", "clip"),
        ("clip/minni", "unknown variant of clip 'minni'", "mini"),
        ("random?sed=1", "unknown option of random 'sed'", "seed"),
    ],
)
def test_an_unknown_name_comes_with_a_suggestion(text: str, what: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=what) as caught:
        parse_encoder(text)
    assert f"did you mean '{fix}'" in caught.value.fix


def test_an_option_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown option of clip 'seed'"):
        parse_encoder("clip?seed=1")


def test_a_relative_path_is_resolved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_encoder("clip:w.safetensors").canonical == f"clip/mini:{tmp_path / 'w.safetensors'}"


def test_a_family_without_a_default_for_the_protocol_lists_its_variants() -> None:
    with pytest.raises(ConfigError, match="no default variant") as caught:
        parse_encoder("clip", protocol="rae-imagenet256")
    assert "clip/mini" in caught.value.fix


def test_a_revision_of_local_weights_is_refused() -> None:
    with pytest.raises(ConfigError, match="revision"):
        load_encoder("clip/mini:/x@abc")


def test_a_bad_seed_of_the_control_is_refused() -> None:
    with pytest.raises(ConfigError, match="whole number"):
        load_encoder("random?seed=-1")


def test_listing_imports_no_torch() -> None:
    code = "import sys; from ovbench.encoders.registry import families; families(); print('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "False"


def test_every_variant_has_its_metadata() -> None:
    for family in families().values():
        for variant in family.variants:
            where = f"{family.key}/{variant.name}"
            for name in ("title", "licence", "training_data", "objective", "citation"):
                assert getattr(variant, name), f"{where} has no {name}"
            if variant.origin == "given":  # what else there is to say depends on the weights that are named
                continue
            assert variant.weights or variant.origin == "untrained", f"{where} names no weights"
            for name in ("num_tokens", "dim", "resolution_px"):
                assert getattr(variant, name) > 0, f"{where} has no {name}"
            assert variant.num_params + variant.num_params_frontend > 0, f"{where} has no parameters"
