"""`hf` takes any plain vision transformer of AutoModel as the library runs it, and says why it does not take others."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from tests.encoders.layouts_hf import (
    edit_json,
    library_run,
    library_tower,
    pictures,
    processor,
    randomise,
    save_model,
    write_layout,
    write_weights,
)

CLOSE: dict[str, Any] = {"atol": 1e-5, "rtol": 0.0}
_PLAIN: Mapping[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8,
}  # fmt: skip
_DINO: Mapping[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2, "mlp_ratio": 2, "image_size": 56,
    "patch_size": 8,
}  # fmt: skip
# name → class, its configuration, class and register tokens
MODELS: Mapping[str, tuple[str, Callable[[], Any], int]] = {
    "ViT": ("ViTModel", lambda: transformers.ViTConfig(**_PLAIN), 1),
    "DeiT, distilled": ("DeiTModel", lambda: transformers.DeiTConfig(**_PLAIN), 2),
    "BEiT, mean pooling": ("BeitModel", lambda: transformers.BeitConfig(**_PLAIN, use_relative_position_bias=True), 1),
    "BEiT": ("BeitModel", lambda: transformers.BeitConfig(**_PLAIN, use_mean_pooling=False), 1),
    "Dinov2 at another size": ("Dinov2Model", lambda: transformers.Dinov2Config(**_DINO), 1),
    "Dinov2 with registers": (
        "Dinov2WithRegistersModel",
        lambda: transformers.Dinov2WithRegistersConfig(**_DINO, num_register_tokens=3),
        4,
    ),
    "DINOv3": ("DINOv3ViTModel", lambda: transformers.DINOv3ViTConfig(**_PLAIN, num_register_tokens=2), 3),
    "I-JEPA": ("IJepaModel", lambda: transformers.IJepaConfig(**_PLAIN), 0),
    "SigLIP": ("SiglipVisionModel", lambda: transformers.SiglipVisionConfig(**_PLAIN), 0),
    "CLIP": ("CLIPVisionModel", lambda: transformers.CLIPVisionConfig(**_PLAIN), 1),
}


def save(folder: Path, kind: str, config: Any, px: int = 32) -> Any:
    """Saves a random model in the library's layout and returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, kind)(config).eval()
    randomise(model, 1)
    save_model(folder, model, px)
    return model


def load(folder: Path, options: str = "") -> TokenEncoder:
    encoder = load_encoder(f"hf:{folder}{options}")
    assert isinstance(encoder, TokenEncoder)
    return encoder


@pytest.mark.parametrize("name", MODELS)
def test_it_gives_the_librarys_states_and_counts_the_tokens_in_front(tmp_path: Path, name: str) -> None:
    kind, config, num_prefix = MODELS[name]
    model, images = save(tmp_path, kind, config()), pictures(32)
    encoder, out = load(tmp_path), library_run(model, images)
    assert (encoder.info.num_prefix, encoder.info.grid, encoder.info.depth) == (num_prefix, (4, 4), 3)
    features = encoder.features(images, Tap(prefix=True))
    assert features.prefix is not None
    torch.testing.assert_close(features.tokens, out.last_hidden_state[:, num_prefix:], **CLOSE)
    torch.testing.assert_close(features.prefix, out.last_hidden_state[:, :num_prefix], **CLOSE)
    for layer in range(4):
        tokens = encoder.features(images, Tap(layer=layer)).tokens
        torch.testing.assert_close(tokens, out.hidden_states[layer][:, num_prefix:], **CLOSE)


@pytest.mark.parametrize("name", ["ViT", "DeiT, distilled", "DINOv3", "Dinov2 at another size", "CLIP"])
def test_another_size_is_interpolated_as_the_library_does_it(tmp_path: Path, name: str) -> None:
    kind, config, num_prefix = MODELS[name]
    model, images = save(tmp_path, kind, config()), pictures(48)
    options = {} if name.startswith("D") and "DeiT" not in name else {"interpolate_pos_encoding": True}
    encoder, out = load(tmp_path, "?size=48"), library_run(model, images, **options)
    assert encoder.info.grid == (6, 6)
    assert encoder.info.identity != load(tmp_path).info.identity
    torch.testing.assert_close(encoder.features(images).tokens, out.last_hidden_state[:, num_prefix:], **CLOSE)


@pytest.mark.parametrize("name", ["clip two towers", "siglip two towers"])
def test_of_two_towers_it_takes_the_one_that_sees(tmp_path: Path, name: str) -> None:
    folder = write_layout(tmp_path, name)
    encoder, out = load(folder), library_run(library_tower(folder, name), pictures(32))
    prefix = encoder.info.num_prefix
    torch.testing.assert_close(encoder.features(pictures(32)).tokens, out.last_hidden_state[:, prefix:], **CLOSE)
    assert encoder.info.num_params == sum(p.numel() for p in library_tower(folder, name).parameters())


def test_a_classifiers_checkpoint_is_read_without_its_head_and_the_pooler_it_never_had(tmp_path: Path) -> None:
    model = save(tmp_path, "ViTForImageClassification", transformers.ViTConfig(**_PLAIN))  # as google/vit-base-*
    assert not any("pooler" in key for key in load_file(tmp_path / "model.safetensors"))
    before = torch.get_rng_state()
    features = load(tmp_path).features(pictures(32))
    assert torch.equal(torch.get_rng_state(), before)  # though the library draws a pooler
    torch.testing.assert_close(features.tokens, library_run(model.vit, pictures(32)).last_hidden_state[:, 1:], **CLOSE)
    assert features.pooled is None


def test_bfloat16_is_near_float32(tmp_path: Path) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    exact = load(tmp_path).features(pictures(32)).tokens
    rough = load(tmp_path, "?dtype=bf16").features(pictures(32)).tokens
    assert rough.dtype == torch.bfloat16
    assert 0.0 < float((rough.float() - exact).norm() / exact.norm()) < 0.015


def test_untrained_weights_come_from_the_seed(tmp_path: Path) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    (tmp_path / "model.safetensors").unlink()
    before = torch.get_rng_state()
    first, again, other = (load(tmp_path, f"?weights=random:{seed}").info for seed in (4, 4, 5))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.random_seed == 4
    assert first.identity == again.identity != other.identity


# --- the number of class and register tokens


def test_a_right_prefix_is_accepted(tmp_path: Path) -> None:
    save(tmp_path, "DeiTModel", transformers.DeiTConfig(**_PLAIN))
    assert load(tmp_path, "?prefix=2").info.identity == load(tmp_path).info.identity


@pytest.mark.parametrize("prefix", ["0", "1", "3", "two", "-2", ""])
def test_a_wrong_prefix_is_refused_with_the_right_one(tmp_path: Path, prefix: str) -> None:
    save(tmp_path, "DeiTModel", transformers.DeiTConfig(**_PLAIN))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, f"?prefix={prefix}")
    assert caught.value.what == f"prefix={prefix} was given, and the network returns 18 tokens for a 4 x 4 grid"
    assert (caught.value.where, caught.value.fix) == ("--encoder hf?prefix=", "the rest is 2")


# --- what cannot work


def _swin() -> Any:
    return transformers.SwinConfig(
        image_size=32, patch_size=4, embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4
    )


def _convnext() -> Any:
    return transformers.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, image_size=32)


def _yolos() -> Any:
    return transformers.YolosConfig(**{**_PLAIN, "image_size": [32, 32]}, num_detection_tokens=3)


def _bert() -> Any:
    return transformers.BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=20
    )


@pytest.mark.parametrize(
    ("kind", "config", "message", "fix"),
    [
        ("SwinModel", _swin, "the network returns 16 tokens, fewer than its 8 x 8 grid", "it merges tokens"),
        ("ConvNextModel", _convnext, "the network returns 16 tokens, fewer than its 8 x 8 grid", "write an adapter"),
        ("YolosModel", _yolos, r"patches .* are at the tokens \[1, 4, 16\]", "write an adapter"),
        ("BertModel", _bert, "the configuration gives no single patch_size", "write an adapter"),
    ],
)
def test_a_network_without_a_grid_of_tokens_is_refused(
    tmp_path: Path, kind: str, config: Callable[[], Any], message: str, fix: str
) -> None:
    save(tmp_path, kind, config())
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        load(tmp_path)
    assert fix in caught.value.fix


def test_mae_is_sent_to_its_own_family(tmp_path: Path) -> None:
    folder = write_layout(tmp_path, "mae with decoder")
    with pytest.raises(DataError, match="'vit_mae' drops and shuffles its tokens") as caught:
        load(folder)
    assert caught.value.fix == f"use --encoder mae:{folder}, which does not"


def test_a_network_that_reads_something_else_than_pictures_fails_its_trial(tmp_path: Path) -> None:
    save(tmp_path, "VideoMAEModel", transformers.VideoMAEConfig(**_PLAIN, num_frames=2))
    with pytest.raises(DataError, match="a trial run on 32 x 32 pixels failed: ") as caught:
        load(tmp_path)
    assert "write an adapter for this network" in caught.value.fix


@pytest.mark.parametrize(("size", "fix"), [(33, "use size=32 or size=40"), (4, "use size=8 or more")])
def test_a_size_that_cuts_patches_is_refused(tmp_path: Path, size: int, fix: str) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    with pytest.raises(ConfigError, match="patch of 8") as caught:
        load(tmp_path, f"?size={size}")
    assert caught.value.fix == fix


def test_code_of_a_model_is_never_run(tmp_path: Path) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    marker = tmp_path / "executed"
    (tmp_path / "modeling_own.py").write_text(f"open({str(marker)!r}, 'w')\n", encoding="utf-8")
    edit_json(tmp_path / "config.json", lambda content: content.update(auto_map={"AutoModel": "modeling_own.OwnModel"}))
    with pytest.raises(DataError, match="brings its own Python code, which ovbench does not run"):
        load(tmp_path)
    assert not marker.exists()


def test_an_unknown_architecture_is_said(tmp_path: Path) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    edit_json(tmp_path / "config.json", lambda content: content.update(model_type="vit_of_next_year"))
    with pytest.raises(DataError, match=r"the configuration cannot be used: .*vit_of_next_year"):
        load(tmp_path)


def test_nothing_is_guessed_of_the_preprocessing(tmp_path: Path) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match="nothing says how pictures are prepared for 'hf/any'") as caught:
        load(tmp_path)
    assert caught.value.fix == "put the model's preprocessor_config.json beside its weights"


@pytest.mark.parametrize("key", ["encoder.layer.1.attention.new", "vit.embeddings.new", "layers.0.new"])
def test_a_weight_inside_the_network_that_it_does_not_know_is_refused(tmp_path: Path, key: str) -> None:
    save(tmp_path, "ViTForImageClassification", transformers.ViTConfig(**_PLAIN))
    key = key if key.startswith("vit.") else f"vit.{key}"
    write_weights(tmp_path, {**load_file(tmp_path / "model.safetensors"), key: torch.zeros(2)})
    with pytest.raises(DataError, match=r"unexpected: .*new"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patch_size": 0}, "no single patch_size"),
        ({"patch_size": [8, 4]}, "no single patch_size"),
        ({"num_hidden_layers": 10**9}, "no single num_hidden_layers"),
        ({"image_size": "large"}, "image_size"),
        ({"num_attention_heads": 5}, "cannot be (used|built)|can be built|fit"),
        ({"num_channels": 4}, r"patch_embeddings.projection.weight \[32, 3, 8, 8\] for \[32, 4, 8, 8\]"),
        ({"quantization_config": {"quant_method": "awq"}}, "the weights are quantised"),
    ],
)
def test_a_configuration_with_absurd_numbers_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    edit_json(tmp_path / "config.json", lambda content: content.update(fields))
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_processor_that_belongs_to_another_size_is_said(tmp_path: Path) -> None:
    save(tmp_path, "ViTModel", transformers.ViTConfig(**_PLAIN))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor(4)), encoding="utf-8")
    with pytest.raises(ConfigError, match="4 x 4 pixels hold no patch of 8"):
        load(tmp_path)
