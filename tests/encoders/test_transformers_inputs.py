"""Input sizes, preprocessing, untrained weights and identities of the transformers families, and what is stated."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Tap, Variant
from ovbench.encoders.modeling import hf
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.preprocess import IMAGENET, OPENAI_CLIP
from ovbench.encoders.registry import built_in_families, load_encoder
from tests.encoders.layouts_hf import (
    LAYOUTS,
    ONE_OF_EACH,
    edit_json,
    library_run,
    library_tower,
    pictures,
    processor,
    write_layout,
    write_weights,
)

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
CLIP, DINO = "clip tower, transformers 4", "dinov2 with registers"


def load(spec: str, folder: Path | None = None, options: str = "") -> TokenEncoder:
    encoder = load_encoder(spec + (f":{folder}" if folder else "") + options)
    assert isinstance(encoder, TokenEncoder)
    return encoder


def write_processor(folder: Path, **fields: Any) -> None:
    (folder / "preprocessor_config.json").write_text(json.dumps(processor(32, **fields)), encoding="utf-8")


# --- sizes


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_another_size_interpolates_positions_as_the_library_does(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    folder, px = write_layout(tmp_path, name), layout.px * 3 // 2
    encoder = load(layout.spec, folder, f"?size={px}")
    assert encoder.info.grid == (6, 6)
    assert encoder.info.input.size == (px, px)
    options = {} if name.startswith("dinov2") else {"interpolate_pos_encoding": True}
    out = library_run(library_tower(folder, name), pictures(px), **options)
    tokens = encoder.features(pictures(px)).tokens
    torch.testing.assert_close(tokens, out.last_hidden_state[:, layout.num_prefix :], **CLOSE)


def test_the_processors_size_comes_before_the_networks_and_the_option_before_both(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, DINO, changes={"image_size": 70})  # as DINOv2: positions for 518, pictures of 224
    assert load("dinov2/base-reg", folder).info.grid == (4, 4)
    assert load("dinov2/base-reg", folder, "?size=70").info.grid == (5, 5)
    images = pictures(56)
    expected = library_run(library_tower(folder, DINO), images).last_hidden_state[:, 5:]
    torch.testing.assert_close(load("dinov2/base-reg", folder).features(images).tokens, expected, **CLOSE)


def test_an_oblong_input_of_the_processor_keeps_rows_and_columns_apart(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    write_processor(folder, size={"height": 32, "width": 48})
    encoder, images = load("clip/b16", folder), pictures(32, width=48)
    assert encoder.info.grid == (4, 6)
    out = library_run(library_tower(folder, CLIP), images, interpolate_pos_encoding=True)
    torch.testing.assert_close(encoder.features(images).tokens, out.last_hidden_state[:, 1:], **CLOSE)
    assert encoder.latents(images).shape == (2, 32, 4, 6)


def test_a_published_size_that_leaves_a_rest_is_read_as_the_library_reads_it(tmp_path: Path) -> None:
    name = "siglip tower, transformers 4"  # as SigLIP So400m: 384 pixels in patches of 14
    folder = write_layout(tmp_path, name, changes={"image_size": 36})
    write_processor(folder, size={"height": 36, "width": 36})
    for options in ("", "?size=36"):
        encoder = load("siglip/so400m-384", folder, options)
        assert (encoder.info.grid, encoder.info.patch_px) == ((4, 4), 9)
        expected = library_run(library_tower(folder, name), pictures(36)).last_hidden_state
        torch.testing.assert_close(encoder.features(pictures(36)).tokens, expected, **CLOSE)


@pytest.mark.parametrize("name", [*ONE_OF_EACH])
def test_a_size_that_is_no_multiple_of_the_patch_is_refused_with_the_nearest(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    patch = 14 if layout.px == 56 else 8
    with pytest.raises(ConfigError) as caught:
        load(layout.spec, write_layout(tmp_path, name), f"?size={6 * patch + 1}")
    assert caught.value.what == f"{6 * patch + 1} pixels are no multiple of the patch of {patch}"
    assert caught.value.where == f"--encoder {layout.spec}?size="
    assert caught.value.fix == f"use size={6 * patch} or size={7 * patch}"


def test_a_size_without_a_patch_is_refused() -> None:
    with pytest.raises(ConfigError, match="13 x 13 pixels hold no patch of 14") as caught:
        load("dinov2/small", None, "?weights=random:0&size=13")
    assert caught.value.fix == "use size=14 or more"


# --- preprocessing


def test_pictures_are_prepared_and_normalised_as_the_folder_says(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    fields = {"resample": 2, "do_center_crop": True, "crop_size": {"height": 32, "width": 32}}
    write_processor(folder, **fields, size={"shortest_edge": 40}, image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    info = load("clip/b16", folder).info
    assert (info.input.resample, info.input.aspect, info.input.short_side) == ("bilinear", "crop", 40)
    assert (info.mean, info.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    out = library_run(library_tower(folder, CLIP), pictures(32), mean=info.mean, std=info.std)
    torch.testing.assert_close(
        load("clip/b16", folder).features(pictures(32)).tokens, out.last_hidden_state[:, 1:], **CLOSE
    )


@pytest.mark.parametrize(
    ("spec", "colour"),
    [("clip/b16", (122, 116, 104)), ("siglip/base-256", (127, 127, 127)), ("mae/base-224", (123, 116, 103))],
)
def test_padding_has_the_colour_of_the_mean_cut_as_llava_cuts_it(spec: str, colour: tuple[int, int, int]) -> None:
    encoder = load(spec, None, "?weights=random:0&size=32&aspect=pad")
    assert encoder.info.input.pad_colour == colour


def test_aspect_pad_shows_the_whole_picture_on_its_folders_mean(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    write_processor(folder, image_mean=[1.0, 0.5, 0.0])
    encoder = load("clip/b16", folder, "?aspect=pad")
    assert encoder.info.input.aspect == "pad"
    assert encoder.info.input.pad_colour == (255, 127, 0)
    prepared = encoder.prepare(Image.new("RGB", (64, 32), (0, 0, 255)))
    assert prepared[:, 0, 16].tolist() == pytest.approx([1.0, 127 / 255, 0.0])
    assert prepared[:, 16, 16].tolist() == [0.0, 0.0, 1.0]


PUBLISHED: dict[str, Any] = {
    "image_mean": list(OPENAI_CLIP.mean), "image_std": list(OPENAI_CLIP.std), "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32}, "size": {"shortest_edge": 32},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"image_mean": [0.5] * 3}, "the folder's normalisation is"),
        ({"resample": 2}, "the folder's resampling is bilinear, and that of clip/b16 is bicubic"),
        ({"size": {"shortest_edge": 40}}, "the folder's short side over input side is 1.25"),
        ({"do_center_crop": False, "size": {"height": 32, "width": 32}}, "the folder's aspect is squash"),
    ],
)
def test_a_snapshot_of_the_hub_that_prepares_pictures_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], what: str
) -> None:
    folder = write_layout(tmp_path, CLIP)
    monkeypatch.setattr(hf, "locate", lambda _request: folder)
    write_processor(folder, **{**PUBLISHED, **change})
    with pytest.raises(DataError, match=what):
        load("clip/b16")
    write_processor(folder, **PUBLISHED)
    encoder = load("clip/b16")
    assert (encoder.info.mean, encoder.info.std) == OPENAI_CLIP
    assert encoder.info.input.size == (224, 224)  # the variant's own, since they are its weights


def test_a_folder_without_the_processors_json_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_layout(tmp_path, DINO)
    (folder / "preprocessor_config.json").unlink()
    with caplog.at_level(logging.WARNING, logger="ovbench"):
        info = load("dinov2/base-reg", folder).info
    (record,) = caplog.records
    assert record.getMessage() == (
        f"{folder} has no preprocessor_config.json: pictures are prepared as for dinov2/base-reg, "
        "at the network's own size"
    )
    assert (info.input.size, info.mean) == ((56, 56), IMAGENET.mean)


# --- untrained weights


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_untrained_weights_of_a_folders_architecture(tmp_path: Path, name: str) -> None:
    spec, folder = LAYOUTS[name].spec, write_layout(tmp_path, name)
    trained = load(spec, folder).info
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first, again, other = (load(spec, folder, f"?weights=random:{seed}").info for seed in (1, 1, 2))
    assert torch.equal(torch.rand(4), expected)
    assert (trained.random_seed, first.random_seed, other.random_seed) == (None, 1, 2)
    assert first.weights_digest == again.weights_digest
    assert first.identity == again.identity
    assert len({info.identity for info in (trained, first, other)}) == 3
    assert len({info.weights_digest for info in (trained, first, other)}) == 3


def test_untrained_weights_need_no_folder_and_no_weights_file(tmp_path: Path) -> None:
    info = load("dinov2/small", None, "?weights=random:0&size=28").info
    assert (info.random_seed, info.grid, info.dim, info.depth, info.num_params) == (0, (2, 2), 384, 12, 22_056_576)
    folder = write_layout(tmp_path, CLIP)
    (folder / "model.safetensors").unlink()
    assert load("clip/b16", folder, "?weights=random:0").info.random_seed == 0


def test_loading_trained_weights_leaves_the_global_generator_alone(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    before = torch.get_rng_state()
    load("clip/b16", folder)
    assert torch.equal(torch.get_rng_state(), before)


def _released() -> list[tuple[str, Variant]]:
    families = built_in_families()
    keys = ("clip", "siglip", "siglip2", "dinov2", "mae")
    return [(key, variant) for key in keys for variant in families[key].variants if variant.origin == "hub"]


@pytest.mark.parametrize(("family", "variant"), _released(), ids=lambda value: getattr(value, "name", value))
def test_a_variant_states_what_its_architecture_is(family: str, variant: Variant) -> None:
    kind = next(kind for kind in hf.ARCHITECTURES.values() if kind.tower == variant.architecture["model_type"])
    fields = {key: value for key, value in variant.architecture.items() if key != "model_type"}
    config = getattr(transformers, kind.config)(**fields)
    px = variant.resolution_px
    with torch.device("meta"), torch.no_grad():
        tower = getattr(transformers, kind.model)(config).eval()
        options: dict[str, Any] = {}
        if px != config.image_size and not family.startswith("dinov2"):
            options["interpolate_pos_encoding"] = True
        if kind.shuffles:
            config.mask_ratio = 0.0
        length, width = tower(pixel_values=torch.empty(1, 3, px, px), **options).last_hidden_state.shape[1:]
    assert sum(parameter.numel() for parameter in tower.parameters()) == variant.num_params
    assert (length, width) == (variant.num_prefix + variant.num_tokens, variant.dim)
    assert variant.num_prefix == kind.num_prefix(config)
    assert config.num_hidden_layers == variant.depth
    assert variant.input is not None
    assert variant.input.size == (px, px)


# --- identity


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_the_file_format_is_no_part_of_the_identity(tmp_path: Path, name: str) -> None:
    spec = LAYOUTS[name].spec
    first, second = (write_layout(tmp_path / kind, name, weights=kind) for kind in ("safetensors", "bin"))
    assert {path.name for path in first.iterdir()} != {path.name for path in second.iterdir()}
    assert load(spec, first).info.identity == load(spec, second).info.identity


def test_shards_are_one_set_of_weights(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    whole = load("clip/b16", folder).info.identity
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = {key: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, key in enumerate(sorted(state))}
    for shard in set(names.values()):
        write_weights(folder, {key: state[key] for key in state if names[key] == shard})
        (folder / "model.safetensors").rename(folder / shard)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}), encoding="utf-8")
    assert load("clip/b16", folder).info.identity == whole


def _change_weight(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    key = next(key for key in state if key.endswith("layers.1.mlp.fc1.bias"))
    state[key][0] += 1e-3
    write_weights(folder, state)


def _set(file: str, **fields: Any) -> Callable[[Path], None]:
    return lambda folder: edit_json(folder / file, lambda content: content.update(fields))


@pytest.mark.parametrize(
    "change",
    [
        _change_weight,
        _set("config.json", hidden_act="gelu"),
        _set("config.json", layer_norm_eps=1e-4),
        _set("config.json", num_attention_heads=4),
        _set("preprocessor_config.json", image_mean=[0.5, 0.5, 0.5]),
        _set("preprocessor_config.json", image_std=[0.5, 0.5, 0.5]),
        _set("preprocessor_config.json", size={"height": 48, "width": 48}),
    ],
)
def test_what_changes_a_feature_changes_the_identity(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = write_layout(tmp_path, CLIP)
    before = load("clip/b16", folder).info.identity
    change(folder)
    assert load("clip/b16", folder).info.identity != before


def test_size_and_dtype_change_the_identity_and_the_tap_the_fingerprint(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    options = ("", "?size=48", "?dtype=bf16", "?dtype=fp16")
    assert len({load("clip/b16", folder, text).info.identity for text in options}) == 4
    encoder = load("clip/b16", folder)
    taps = (
        Tap(),
        Tap(layer=-2),
        Tap(layer=1),
        Tap(norm="layernorm"),
        Tap(norm="layernorm", eps=1e-3),
        Tap(prefix=True),
    )
    assert len({encoder.fingerprint(tap) for tap in taps}) == len(taps)
    assert encoder.fingerprint(Tap(layer=-2)) == load("clip/b16", folder, "?layer=-2").fingerprint(Tap(layer=-2))


@pytest.mark.parametrize(
    "change",
    [
        _set("config.json", projection_dim=99),
        _set("config.json", transformers_version="4.20.0"),
        _set("config.json", dtype="float16", torch_dtype="float16", architectures=["X"], initializer_range=0.5),
        _set("config.json", attention_dropout=0.3),
        _set("config.json", output_hidden_states=True, a_field_of_a_later_version=7),
        _set("preprocessor_config.json", resample=2),  # is part of the cache's key, beside the identity
    ],
)
def test_what_changes_no_feature_leaves_the_identity(tmp_path: Path, change: Callable[[Path], None]) -> None:
    folder = write_layout(tmp_path, CLIP)
    before = load("clip/b16", folder)
    expected = before.features(pictures(32)).tokens
    change(folder)
    after = load("clip/b16", folder)
    assert after.info.identity == before.info.identity
    torch.testing.assert_close(after.features(pictures(32)).tokens, expected, atol=0, rtol=0)


def test_the_layouts_of_both_library_versions_are_the_same_encoder(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    write_layout(old, CLIP)
    write_layout(new, "clip tower, transformers 5")
    assert next(iter(load_file(old / "model.safetensors"))).startswith("vision_model.")
    assert not next(iter(load_file(new / "model.safetensors"))).startswith("vision_model.")
    assert load("clip/b16", old).info.identity == load("clip/b16", new).info.identity


def test_a_file_in_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    write_weights(folder, {key: value.half() for key, value in load_file(folder / "model.safetensors").items()})
    encoder = load("clip/b16", folder)
    assert {value.dtype for value in encoder.model.state_dict().values()} == {torch.float32}
    expected = library_run(library_tower(folder, CLIP).float(), pictures(32)).last_hidden_state[:, 1:]
    torch.testing.assert_close(encoder.features(pictures(32)).tokens, expected, **CLOSE)


# --- silence


@pytest.mark.parametrize("family", ["clip/b16", "hf"])
def test_loading_writes_nothing_and_puts_the_librarys_settings_back(tmp_path: Path, family: str) -> None:
    folder = write_layout(tmp_path, "clip two towers")
    script = f"""
from ovbench.encoders.registry import load_encoder
from ovbench._base.lazy import require
settings = require("transformers").utils.logging
hub = require("huggingface_hub").utils
before = settings.get_verbosity(), settings.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
load_encoder("{family}:{folder}")
after = settings.get_verbosity(), settings.is_progress_bar_enabled(), hub.are_progress_bars_disabled()
assert before == after == (30, True, False), (before, after)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("bars", [(True, False), (False, True)])
def test_settings_of_the_user_survive_a_load_that_fails(tmp_path: Path, bars: tuple[bool, bool]) -> None:
    settings, hub = transformers.utils.logging, huggingface_hub.utils

    def apply(level: int, of_library: bool, of_hub: bool) -> None:
        settings.set_verbosity(level)
        (settings.enable_progress_bar if of_library else settings.disable_progress_bar)()
        (hub.enable_progress_bars if of_hub else hub.disable_progress_bars)()

    def state() -> tuple[int, bool, bool]:
        enabled = settings.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
        return (settings.get_verbosity(), *enabled)

    before = state()
    try:
        apply(20, *bars)
        with pytest.raises(DataError):
            load("clip/b16", tmp_path)
        assert state() == (20, *bars)
    finally:
        apply(*before)


def test_a_tap_of_the_options_is_what_a_language_model_reads(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, CLIP)
    encoder = load("clip/b16", folder, "?layer=1&norm=layernorm")
    assert encoder.info.llm_tap == replace(Tap(layer=1), norm="layernorm")
    with pytest.raises(ConfigError, match="the tap layer 4 does not exist"):
        load("clip/b16", folder, "?layer=4")
