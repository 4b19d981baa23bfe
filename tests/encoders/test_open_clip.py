"""Image towers of open_clip through the public loader, against open_clip's own intermediate features."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.lazy import require
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.registry import load_encoder
from tests.encoders.published import write_open_clip

pytest.importorskip("open_clip", reason="needs open_clip, of the extra 'offline'")
VISION = {"image_size": 32, "layers": 3, "width": 64, "head_width": 16, "patch_size": 8}
TIMM = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 224}
SIGLIP_LIKE = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "avg", "timm_proj": "none", "image_size": 224}
TEXT = {"context_length": 77, "vocab_size": 64, "width": 64, "heads": 2, "layers": 1}
CONFIGS: dict[str, dict[str, Any]] = {
    "exact GELU": {"vision_cfg": VISION},
    "quick GELU": {"vision_cfg": VISION, "quick_gelu": True},
    "norm after the mean": {"vision_cfg": {**VISION, "pool_type": "avg", "final_ln_after_pool": True}},
    "tokens, no norm in front": {"vision_cfg": {**VISION, "output_tokens": True, "no_ln_pre": True}},
    "own epsilon": {"vision_cfg": {**VISION, "norm_kwargs": {"eps": 1e-3}, "act_kwargs": {"approximate": "tanh"}}},
    "attentional pooling": {
        "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 5}
    },
}


def model_cfg(**fields: Any) -> dict[str, Any]:
    return {"embed_dim": 48, "text_cfg": TEXT, **fields}


def build(config: dict[str, Any]) -> Any:
    """Returns open_clip's whole model, text tower included, with weights that make every part count."""
    kinds = {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg", "quick_gelu") if key in config}
    generator = torch.Generator().manual_seed(5)
    torch.manual_seed(0)
    model = require("open_clip").CLIP(**kinds).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.05)
    return model


def values(encoder: Encoder, images: Tensor) -> Tensor:
    mean, std = (torch.tensor(part).view(1, 3, 1, 1) for part in (encoder.info.mean, encoder.info.std))
    return (images - mean) / std


def pictures(px: int) -> Tensor:
    return torch.rand(2, 3, px, px, generator=torch.Generator().manual_seed(0))


def check_blocks(encoder: Encoder, tower: Any, images: Tensor) -> None:
    """Compares every block with open_clip's own, token for token."""
    found = tower.forward_intermediates(values(encoder, images), output_fmt="NLC", output_extra_tokens=True)
    assert len(found["image_intermediates"]) == encoder.info.depth
    prefixes = found["image_intermediates_prefix"]
    for number, expected in enumerate(found["image_intermediates"]):
        got = encoder.features(images, Tap(layer=number + 1, prefix=True))
        torch.testing.assert_close(got.tokens, expected, atol=2e-5, rtol=1e-5)
        torch.testing.assert_close(got.prefix, prefixes[number], atol=2e-5, rtol=1e-5)


# --- open_clip's own transformer


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("safetensors", [False, True])
@torch.no_grad()
def test_every_block_and_the_pooled_output_equal_open_clips(name: str, safetensors: bool, tmp_path: Path) -> None:
    config = model_cfg(**CONFIGS[name])
    model = build(config)
    folder = write_open_clip(tmp_path, config, model.state_dict(), safetensors=safetensors)
    encoder, images = load_encoder(f"open_clip:{folder}"), pictures(32)
    assert (encoder.info.grid, encoder.info.dim, encoder.info.num_prefix) == ((4, 4), 64, 1)
    check_blocks(encoder, model.visual, images)
    out = model.visual(values(encoder, images))
    pooled = out[0] if isinstance(out, tuple) else out
    torch.testing.assert_close(encoder.features(images).pooled, pooled, atol=1e-5, rtol=1e-5)
    assert encoder.info.num_params == sum(parameter.numel() for parameter in model.visual.parameters())


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "attentional pooling"])
@torch.no_grad()
def test_published_tokens_are_those_that_open_clip_returns(name: str, tmp_path: Path) -> None:
    config = model_cfg(**CONFIGS[name])
    model = build(config)
    encoder = load_encoder(f"open_clip:{write_open_clip(tmp_path, config, model.state_dict())}")
    images = pictures(32)
    model.visual.output_tokens = True
    _, tokens = model.visual(values(encoder, images))
    torch.testing.assert_close(encoder.features(images).tokens, tokens, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_attentional_pooling_leaves_the_last_block_as_the_tokens(tmp_path: Path) -> None:
    config = model_cfg(**CONFIGS["attentional pooling"])
    model = build(config)
    encoder = load_encoder(f"open_clip:{write_open_clip(tmp_path, config, model.state_dict())}")
    images = pictures(32)
    last = model.visual.forward_intermediates(values(encoder, images), output_fmt="NLC")["image_intermediates"][-1]
    torch.testing.assert_close(encoder.features(images).tokens, last, atol=2e-5, rtol=1e-5)


@torch.no_grad()
def test_rae_reads_the_layernormed_residual_stream_with_the_towers_epsilon(tmp_path: Path) -> None:
    config = model_cfg(**CONFIGS["own epsilon"])
    model = build(config)
    encoder = load_encoder(f"open_clip:{write_open_clip(tmp_path, config, model.state_dict())}")
    images = pictures(32)
    last = encoder.features(images, Tap(norm="none")).tokens
    expected = torch.nn.functional.layer_norm(last, (64,), eps=1e-3).transpose(1, 2).reshape(2, 64, 4, 4)
    torch.testing.assert_close(encoder.latents(images), expected)


def test_quick_gelu_and_exact_gelu_are_two_encoders(tmp_path: Path) -> None:
    exact, quick = (model_cfg(**CONFIGS[name]) for name in ("exact GELU", "quick GELU"))
    state = build(exact).state_dict()
    one, two = (
        load_encoder(f"open_clip:{write_open_clip(tmp_path / str(number), config, state)}")
        for number, config in enumerate((exact, quick))
    )
    assert one.info.weights_digest == two.info.weights_digest
    assert one.info.identity != two.info.identity
    assert not torch.allclose(one.features(pictures(32)).tokens, two.features(pictures(32)).tokens, atol=1e-3)


# --- a trunk of timm


@pytest.mark.parametrize("vision", [TIMM, SIGLIP_LIKE], ids=["linear projection", "no projection"])
@torch.no_grad()
def test_a_trunk_of_timm_gives_its_own_features(vision: dict[str, Any], tmp_path: Path) -> None:
    embed = 192 if vision is SIGLIP_LIKE else 48
    config = {**model_cfg(vision_cfg=vision), "embed_dim": embed}
    model = build(config)
    folder = write_open_clip(tmp_path, config, model.state_dict())
    encoder, images = load_encoder(f"openclip:{folder}"), pictures(224)
    assert (encoder.info.grid, encoder.info.dim, encoder.info.num_prefix) == ((14, 14), 192, 1)
    check_blocks(encoder, model.visual, images)
    got = encoder.features(images, Tap(prefix=True))
    assert got.prefix is not None
    published = model.visual.trunk.forward_features(values(encoder, images))
    torch.testing.assert_close(torch.cat([got.prefix, got.tokens], dim=1), published, atol=1e-5, rtol=1e-5)
    pooled = model.visual(values(encoder, images))
    if pooled.ndim == 2:
        torch.testing.assert_close(got.pooled, pooled, atol=1e-5, rtol=1e-5)
    else:
        assert got.pooled is None


def test_a_trunk_is_never_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    timm = require("timm")
    create = timm.create_model

    def spy(name: str, *, pretrained: bool = False, **fields: Any) -> Any:
        seen.append(pretrained)
        return create(name, pretrained=False, **fields)

    config = model_cfg(vision_cfg={**TIMM, "timm_model_pretrained": True})
    folder = write_open_clip(tmp_path, config, {})
    monkeypatch.setattr(timm, "create_model", spy)
    load_encoder(f"open_clip:{folder}?weights=random:0")
    assert seen == [False]


def test_a_trunk_of_another_size_than_the_configuration_is_refused(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, model_cfg(vision_cfg={**TIMM, "image_size": 256}), {})
    with pytest.raises(DataError, match=r"says \(256, 256\) pixels, and its trunk reads \(224, 224\)"):
        load_encoder(f"open_clip:{folder}?weights=random:0")


# --- untrained, by name


def test_untrained_weights_by_name_follow_the_seed() -> None:
    one, again = (load_encoder("open_clip?model=ViT-B-32&weights=random:1").info for _ in range(2))
    assert (one.grid, one.dim, one.depth, one.random_seed) == ((7, 7), 768, 12, 1)
    assert one.weights_digest == again.weights_digest


def test_an_unknown_name_comes_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown open_clip model 'ViT-B-23'") as caught:
        load_encoder("open_clip?model=ViT-B-23&weights=random:0")
    assert "ViT-B-32" in caught.value.fix


@pytest.mark.parametrize("spec", ["open_clip", "open_clip?model=ViT-B-32", "open_clip?weights=random:0"])
def test_weights_or_a_name_and_a_seed_must_be_given(spec: str) -> None:
    with pytest.raises(ConfigError, match="no weights are named"):
        load_encoder(spec)


# --- preprocessing


def test_preprocessing_is_open_clips(tmp_path: Path) -> None:
    config = model_cfg(vision_cfg=VISION)
    state = build(config).state_dict()
    info = load_encoder(f"open_clip:{write_open_clip(tmp_path, config, state)}").info
    assert (info.input.resample, info.input.aspect, info.input.size) == ("bicubic", "crop", (32, 32))
    assert info.mean == (0.48145466, 0.4578275, 0.40821073)
    stated = {
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "interpolation": "bilinear",
        "resize_mode": "squash",
        "size": [32, 32],
    }
    info = load_encoder(f"open_clip:{write_open_clip(tmp_path, config, state, preprocess_cfg=stated)}").info
    assert (info.input.resample, info.input.aspect, info.mean) == ("bilinear", "squash", (0.5, 0.5, 0.5))
    assert load_encoder(f"open_clip:{tmp_path}?aspect=pad").info.input.pad_colour == (127, 127, 127)


@pytest.mark.parametrize(
    ("stated", "what"), [({"interpolation": "random"}, "'interpolation' is 'random'"), ([1], "is no mapping")]
)
def test_a_preprocess_cfg_that_cannot_be_followed_is_refused(stated: Any, what: str, tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, model_cfg(vision_cfg=VISION), {}, preprocess_cfg=stated)
    with pytest.raises(DataError, match=what) as caught:
        load_encoder(f"open_clip:{folder}?weights=random:0")
    assert "open_clip_config.json" in caught.value.where


# --- refusals


def test_another_size_is_refused(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, model_cfg(vision_cfg=VISION), {})
    with pytest.raises(ConfigError, match="read 32 x 32 pixels, and 64 were asked for"):
        load_encoder(f"open_clip:{folder}?weights=random:0&size=64")
    assert load_encoder(f"open_clip:{folder}?weights=random:0&size=32").info.grid == (4, 4)


@pytest.mark.parametrize(
    ("vision", "kind"),
    [
        ({"image_size": 64, "layers": [1, 1, 1, 1], "width": 32, "patch_size": None}, "ModifiedResNet"),
        ({"timm_model_name": "resnet18", "timm_pool": "avg", "image_size": 224}, "ResNet"),
    ],
)
def test_a_tower_without_tokens_is_refused(vision: dict[str, Any], kind: str, tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, model_cfg(vision_cfg=vision), {})
    with pytest.raises(ConfigError, match=f"is a {kind}, which has no tokens") as caught:
        load_encoder(f"open_clip:{folder}?weights=random:0")
    assert "name a ViT" in caught.value.fix


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"vision_cfg": {**VISION, "in_channels": 16}}, "cannot build the image tower.*in_channels"),
        ({"vision_cfg": {**VISION, "head_width": 0}}, "cannot build the image tower"),
        ({"vision_cfg": 3}, "no model_cfg with a vision_cfg"),
        ({"embed_dim": None}, "cannot build the image tower"),
        ({"vision_cfg": {**VISION, "image_size": [32, 64]}}, "no square"),
    ],
)
def test_a_configuration_that_cannot_be_used_is_named(change: dict[str, Any], what: str, tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path, {**model_cfg(vision_cfg=VISION), **change}, {})
    with pytest.raises((ConfigError, DataError), match=what) as caught:
        load_encoder(f"open_clip:{folder}?weights=random:0")
    assert "open_clip_config.json" in caught.value.where


def test_places_that_are_no_folder_and_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    config = model_cfg(vision_cfg=VISION)
    folder = write_open_clip(tmp_path, config, build(model_cfg(vision_cfg={**VISION, "layers": 2})).state_dict())
    with pytest.raises(DataError, match=r"missing: transformer\.resblocks\.2"):
        load_encoder(f"open_clip:{folder}")
    with pytest.raises(DataError, match="is no folder"):
        load_encoder(f"open_clip:{folder / 'open_clip_config.json'}")
    (folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(DataError, match="no weights: none of open_clip_model"):
        load_encoder(f"open_clip:{folder}")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": None}))
    with pytest.raises(DataError, match="no model_cfg"):
        load_encoder(f"open_clip:{folder}")
