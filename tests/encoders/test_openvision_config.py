"""OpenVision's `open_clip_config.json`: what is read of it, what is ignored, and what is refused."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ovbench._base.errors import DataError
from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.preprocess import HALF, IMAGENET, to_01
from ovbench.encoders.registry import load_encoder
from tests.encoders.published import flux_like_vae, ovis2_loader, read_golden, write_open_clip

OV2, OV3 = (read_golden(f"openvision{number}_tiny") for number in (2, 3))


@pytest.fixture
def ovis2(tmp_path: Path) -> Callable[..., Encoder]:
    return ovis2_loader(tmp_path)


# --- configuration


def test_a_dummy_text_tower_is_ignored(ovis2: Callable[..., Encoder]) -> None:
    text = {"context_length": 77, "width": 512, "vocab_size": 49408, "never_heard_of": [1]}
    assert ovis2(model={"text_cfg": text}).info.identity == ovis2().info.identity


def test_an_unknown_key_of_the_vision_tower_is_refused(ovis2: Callable[..., Encoder]) -> None:
    with pytest.raises(DataError, match="unknown key 'rotary' in vision_cfg"):
        ovis2(rotary=True)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"head_width": 0}, "head_width must be a whole number from 1, got 0"),
        ({"layers": [3, 4, 6, 3]}, "layers must be a whole number"),
        ({"image_size": "28"}, "image_size must be a whole number"),
        ({"final_ln_after_pool": "false"}, "final_ln_after_pool must be true or false, got 'false'"),
        ({"no_ln_pre": 1}, "no_ln_pre must be true or false"),
        ({"pool_type": "none"}, "unknown pool_type 'none'"),
        ({"mlp_ratio": "4"}, "mlp_ratio must be a positive number"),
        ({"model": {"embed_dim": None}}, "embed_dim must be a whole number"),
    ],
)
def test_a_value_that_cannot_be_used_is_named_with_its_file(
    ovis2: Callable[..., Encoder], changes: dict[str, Any], what: str
) -> None:
    with pytest.raises(DataError, match=what) as caught:
        ovis2(**changes)
    assert caught.value.where.endswith("open_clip_config.json")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model_cfg": null}', '{"model_cfg": {"vision_cfg": 3}}'])
def test_a_configuration_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    folder = write_open_clip(tmp_path, OV2.model_cfg(), OV2.state)
    (folder / "open_clip_config.json").write_text(text)
    with pytest.raises(DataError) as caught:
        load_encoder(f"ovis2:{folder}")
    assert "open_clip_config.json" in caught.value.where


def test_a_configuration_without_embed_dim_is_named(tmp_path: Path) -> None:
    config = OV2.model_cfg()
    del config["embed_dim"]
    with pytest.raises(DataError, match="does not say embed_dim"):
        load_encoder(f"ovis2:{write_open_clip(tmp_path, config, OV2.state)}")


def test_folders_that_are_none_are_named(tmp_path: Path) -> None:
    file = tmp_path / "weights.bin"
    file.write_bytes(b"x")
    with pytest.raises(DataError, match=r"'weights\.bin' is no folder") as caught:
        load_encoder(f"ovis2:{file}")
    assert "open_clip's layout" in caught.value.fix
    with pytest.raises(DataError, match="no such file or folder 'nothing'"):
        load_encoder(f"ovis2:{tmp_path / 'nothing'}")
    with pytest.raises(DataError, match=r"no such file 'open_clip_config\.json'"):
        load_encoder(f"ovis2:{tmp_path}")
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": OV2.model_cfg()}))
    with pytest.raises(DataError, match=r"none of open_clip_model\.safetensors, open_clip_pytorch_model\.bin"):
        load_encoder(f"ovis2:{tmp_path}")


# --- preprocessing


def test_preprocess_cfg_decides_the_values_and_the_resize(ovis2: Callable[..., Encoder]) -> None:
    stated = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bicubic", "resize_mode": "shortest"}
    info = ovis2(preprocess=stated).info
    assert (info.mean, info.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (info.input.resample, info.input.aspect) == ("bicubic", "crop")
    assert ovis2(preprocess={"resize_mode": "longest", "fill_color": 7}).info.input.pad_colour == (7, 7, 7)


@pytest.mark.parametrize("preprocess", [None, {}, {"mean": None, "mode": "RGB", "size": 28}])
def test_openvisions_own_preprocessing_stands_in_and_not_open_clips(
    ovis2: Callable[..., Encoder], preprocess: Any
) -> None:
    info = ovis2(preprocess=preprocess).info
    assert (info.mean, info.std) == (IMAGENET.mean, IMAGENET.std)
    assert (info.input.resample, info.input.aspect, info.input.size) == ("bilinear", "squash", (28, 28))


def test_the_values_of_the_file_reach_the_network(ovis2: Callable[..., Encoder]) -> None:
    images = torch.rand(1, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    own = ovis2().features(images, Tap(layer=0)).tokens
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in IMAGENET)
    none = ovis2(preprocess={"mean": [0.0] * 3, "std": [1.0] * 3})
    shifted = F.conv2d((images - mean) / std, OV2.state["conv1.weight"], stride=7).flatten(2).transpose(1, 2)
    torch.testing.assert_close(own, shifted + OV2.state["positional_embedding"][1:], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(none.features(images, Tap(layer=0)).tokens, own)


@pytest.mark.parametrize(
    ("preprocess", "what"),
    [
        ({"interpolation": "random"}, "'interpolation' is 'random'"),
        ({"resize_mode": "stretch"}, "'resize_mode' is 'stretch'"),
        ({"mean": [0.5] * 3}, "one of mean and std"),
        ({"mean": [123.0] * 3, "std": [58.0] * 3}, "between 0 and 1"),
        ({"mean": [0.5], "std": [0.5, 0.5]}, "'std' must hold three numbers"),
        ({"size": 224}, "'size' is 224×224, and the vision tower reads 28×28"),
        ([1], "preprocess_cfg is no mapping"),
    ],
)
def test_a_preprocess_cfg_that_cannot_be_followed_is_refused(
    ovis2: Callable[..., Encoder], preprocess: Any, what: str
) -> None:
    with pytest.raises(DataError, match=what) as caught:
        ovis2(preprocess=preprocess)
    assert "open_clip_config.json" in caught.value.where


def test_another_size_and_aspect_start_from_the_files_preprocessing(ovis2: Callable[..., Encoder]) -> None:
    stated = {"interpolation": "bicubic", "size": 28}
    info = ovis2(query="?size=56&positions=bicubic&aspect=pad", preprocess=stated).info
    assert (info.input.size, info.input.resample, info.input.aspect) == ((56, 56), "bicubic", "pad")
    assert info.input.pad_colour == (123, 116, 103)  # int(255 * ImageNet's mean)


def test_values_of_the_file_do_not_change_what_the_vae_reads(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    vae = flux_like_vae(tmp_path / "vae")
    stated = {"mean": [0.1] * 3, "std": [0.2] * 3, "size": 16, "interpolation": "bilinear"}
    folder = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state, preprocess_cfg=stated)
    with caplog.at_level(logging.INFO):
        info = load_encoder(f"ovis3/base-256:{folder}?vae={vae}").info
    assert (info.mean, info.std) == (HALF.mean, HALF.std)
    assert info.input.resample == "bilinear"
    assert "are not used" in caplog.text


def test_openvision_3_prepares_with_bicubic_squash_by_default(tmp_path: Path) -> None:
    folder = write_open_clip(tmp_path / "ov3", OV3.model_cfg(), OV3.state)
    encoder = load_encoder(f"ovis3/base-256:{folder}?vae={flux_like_vae(tmp_path / 'vae')}")
    picture = Image.effect_mandelbrot((200, 90), (-2, -1, 1, 1), 50).convert("RGB")
    expected = picture.resize((128, 128), Image.Resampling.BICUBIC)
    assert torch.equal(encoder.prepare(picture), to_01(expected))
