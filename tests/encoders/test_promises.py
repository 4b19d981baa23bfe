"""Promises of the encoder interface that a reviewer once found broken, one test each."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import LoadRequest, Normalisation, PreprocessSpec, Tap
from ovbench.encoders.modeling.hf import ARCHITECTURES, load_transformers
from ovbench.encoders.modeling.sources import seeded
from ovbench.encoders.registry import built_in_families, load_encoder, parse_encoder, stated
from ovbench.testing import check_encoder
from tests.encoders.layouts_hf import edit_json, write_layout
from tests.encoders.published import flux_like_vae, read_golden, write_open_clip


def test_a_local_copy_of_a_variants_own_network_is_read_as_the_variant_says(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "mae alone")
    edit_json(folder / "preprocessor_config.json", lambda fields: fields.update(resample=2))
    own = json.loads((folder / "config.json").read_text())
    variant = next(each for each in built_in_families()["mae"].variants if each.name == "base-256")
    assert variant.input is not None
    wanted = replace(variant, architecture=own, input=replace(variant.input, size=(64, 64)), normalisation=None)
    other = load_transformers(LoadRequest(family="mae", variant=wanted, source=str(folder)), "vit_mae")
    assert other.info.input.size == (32, 32)  # a variant that does not say how values are normalised says nothing
    processor = json.loads((folder / "preprocessor_config.json").read_text())
    mean, std = tuple(processor["image_mean"]), tuple(processor["image_std"])
    stated = replace(wanted, normalisation=Normalisation(mean, std))
    encoder = load_transformers(LoadRequest(family="mae", variant=stated, source=str(folder)), "vit_mae")
    assert encoder.info.input.size == (64, 64)
    foreign = replace(stated, architecture={**own, "num_hidden_layers": 7})
    assert load_transformers(
        LoadRequest(family="mae", variant=foreign, source=str(folder)), "vit_mae"
    ).info.input.size == (32, 32)


def test_the_type_that_is_computed_in_is_a_fact_of_the_encoder() -> None:
    assert load_encoder("clip?dtype=bf16").info.dtype == "bfloat16"
    assert load_encoder("clip").info.dtype == "float32"
    assert load_encoder("vae", dtype="bfloat16").info.dtype == "float32"


@pytest.mark.parametrize(
    ("spec", "tap"),
    [
        ("clip/l14-336", None),
        ("clip/l14-336?norm=none", Tap(layer=-2, norm="none")),
        ("clip/l14-336?layer=3", Tap(layer=3)),
        ("clip?layer=final&norm=layernorm", Tap(norm="layernorm")),
    ],
)
def test_an_option_of_the_tap_leaves_the_rest_of_it_as_the_variant_has_it(spec: str, tap: Tap | None) -> None:
    assert parse_encoder(spec).llm_tap == tap


@pytest.mark.parametrize("trunk", ["hf-hub:someone/else", "local-dir:/somewhere", "nothing"])
def test_a_trunk_of_open_clip_is_an_architecture_and_nothing_to_fetch(tmp_path: Path, trunk: str) -> None:
    config = {"embed_dim": 8, "vision_cfg": {"timm_model_name": trunk, "image_size": 32}}
    folder = write_open_clip(tmp_path, config, {})
    with pytest.raises(DataError, match="timm has no architecture"):
        load_encoder(f"open_clip:{folder}?weights=random:0")


@pytest.mark.parametrize("name", ["checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir", "features_only"])
def test_a_timm_folder_cannot_name_files_or_downloads(tmp_path: Path, name: str) -> None:
    document = {"architecture": "vit_tiny_patch16_224", "model_args": {name: "/nowhere"}}
    (tmp_path / "config.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=f"'{name}', which is no part of an architecture"):
        load_encoder(f"timm:{tmp_path}?weights=random:0")


@pytest.mark.parametrize("spec", ["vae/mini", "ovis3/mini"])
def test_a_callers_autocast_changes_no_latent(spec: str) -> None:
    encoder = load_encoder(spec)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    before = encoder.latents(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder.latents(images), before)


def test_latents_of_a_network_in_bfloat16_keep_the_float32_of_their_norm() -> None:
    latents = load_encoder("clip", dtype="bfloat16").latents(torch.rand(2, 3, 64, 64))
    assert not torch.equal(latents, latents.bfloat16().float())


def test_every_architecture_is_of_a_family_that_is_there() -> None:
    assert {kind.family for kind in ARCHITECTURES.values()} <= set(built_in_families())


def test_weights_of_another_family_come_with_its_name(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "mae alone")
    with pytest.raises(DataError, match="vit_mae") as caught:
        load_encoder(f"clip/b16:{folder}")
    assert caught.value.fix == "use --encoder mae:…"


def test_seeding_touches_no_generator_but_its_own() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    seeded(lambda: torch.nn.Linear(2, 2), 0)
    assert torch.equal(torch.rand(2), wanted)


@pytest.mark.parametrize(
    "fields", [{"aspect": "Crop"}, {"resample": "lanczos"}, {"size": (0, 5)}, {"size": (5,)}, {"short_side": 0}]
)
def test_a_preprocessing_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PreprocessSpec(**{"size": (8, 8), **fields})


@pytest.mark.parametrize("fields", [{"layer": "last"}, {"layer": 1.7}, {"layer": True}, {"norm": "l2"}, {"eps": 0.0}])
def test_a_tap_that_cannot_be_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Tap(**fields)


def test_two_seeds_of_the_control_are_refused() -> None:
    with pytest.raises(ConfigError, match="two seeds"):
        load_encoder("random?seed=5&weights=random:1")


@pytest.mark.parametrize(
    ("spec", "what"),
    [
        ("clip:", "names nothing after the ':'"),
        ("clip/mini:?layer=1", "names nothing after the ':'"),
        ("clip/mini?layer=1&layer=2", "the option 'layer' is given twice"),
    ],
)
def test_a_spec_that_says_nothing_or_two_things_is_refused(spec: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        parse_encoder(spec)


def test_of_weights_that_the_user_named_nothing_is_said() -> None:
    named = parse_encoder("clip/b16:/somewhere")
    assert stated(named, "MIT") == "not known: weights that the user named"
    assert stated(parse_encoder("clip/b16"), "MIT") == "MIT"
    assert stated(parse_encoder("clip/b16?weights=random:0"), "MIT") == "none: untrained weights"


@pytest.mark.parametrize("seed", range(3))
def test_a_widely_mixing_vae_is_never_called_out_of_order(tmp_path: Path, seed: int) -> None:
    golden = read_golden("openvision3_tiny")
    write_open_clip(tmp_path / "vit", golden.model_cfg(), golden.state)
    report = check_encoder(f"ovis3/base-256:{tmp_path / 'vit'}?vae={flux_like_vae(tmp_path / 'vae')}", seed=seed)
    assert [result for result in report.failures if result.name.startswith("locality")] == []
