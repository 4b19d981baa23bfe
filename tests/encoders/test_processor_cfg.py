"""open_clip's and timm's preprocessing mappings give what those libraries do, but for timm's zoom."""

from __future__ import annotations

from typing import Any

import pytest

from ovbench._base.errors import DataError
from ovbench._base.torchvision_shim import allow_torchvision
from ovbench.encoders.base import Normalisation, PreprocessSpec
from ovbench.encoders.preprocess import HALF, IMAGENET, OPENAI_CLIP
from ovbench.encoders.processor_json import Processor, read_open_clip_preprocess, read_timm_pretrained_cfg


def processor(normalise: Normalisation, **spec: Any) -> Processor:
    return Processor(spec=PreprocessSpec(**spec), mean=normalise.mean, std=normalise.std)


def test_open_clip_defaults_are_clip_values_bicubic_and_crop() -> None:
    expected = processor(OPENAI_CLIP, size=(224, 224), resample="bicubic", aspect="crop")
    assert read_open_clip_preprocess({}, 224) == expected
    assert read_open_clip_preprocess({"size": [224, 224], "mode": "RGB", "fill_color": 0}, None) == expected
    allow_torchvision()
    transform = pytest.importorskip("open_clip.transform", reason="open_clip is not installed")
    theirs = transform.PreprocessCfg()
    assert (theirs.mean, theirs.std) == OPENAI_CLIP
    assert (theirs.interpolation, theirs.resize_mode, theirs.fill_color) == ("bicubic", "shortest", 0)


@pytest.mark.parametrize(
    ("cfg", "normalise", "spec"),
    [
        (  # OpenVision 1
            {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "interpolation": "bilinear",
             "resize_mode": "squash"},
            IMAGENET, {"resample": "bilinear", "aspect": "squash"},
        ),
        (  # SigLIP in open_clip
            {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"},
            HALF, {"aspect": "squash"},
        ),
        ({"resize_mode": "longest", "fill_color": 7}, OPENAI_CLIP, {"aspect": "pad", "pad_colour": (7, 7, 7)}),
        ({"resize_mode": "longest"}, OPENAI_CLIP, {"aspect": "pad", "pad_colour": (0, 0, 0)}),
        ({"resize_mode": None, "interpolation": None, "mean": None}, OPENAI_CLIP, {"aspect": "crop"}),
    ],
)  # fmt: skip
def test_open_clip_configs(cfg: dict[str, Any], normalise: Normalisation, spec: dict[str, Any]) -> None:
    assert read_open_clip_preprocess(cfg, 160) == processor(normalise, size=(160, 160), **spec)


@pytest.mark.parametrize(
    ("cfg", "size", "what"),
    [
        ({}, None, "'size' is missing, and the vision tower names none"),
        ({"size": 224}, 256, "'size' is 224×224, and the vision tower reads 256×256"),
        ({}, 0, "'image_size' must be a whole number of pixels, got 0"),
        ({"mode": "L"}, 224, "'mode' is 'L'"),
        ({"resize_mode": "fit"}, 224, "'resize_mode' is 'fit'"),
        ({"interpolation": "random"}, 224, "'interpolation' is 'random'"),
        ({"interpolation": 3}, 224, "'interpolation' must be a text, got 3"),
        ({"fill_color": 256, "resize_mode": "longest"}, 224, "'fill_color' must be a whole number 0…255, got 256"),
        ({"resize_mode": "longest"}, (224, 112), "'resize_mode' is 'longest' for an input of 224×112"),
        ({"std": [0, 1, 1]}, 224, "'std' must lie between 1e-06 and 1"),
    ],
)
def test_faulty_open_clip_configs_are_refused(cfg: dict[str, Any], size: Any, what: str) -> None:
    with pytest.raises(DataError, match=what) as error:
        read_open_clip_preprocess(cfg, size, where="open_clip_config.json")
    assert error.value.where == "open_clip_config.json"


def test_timm_configs_show_the_whole_picture_whatever_crop_pct_says() -> None:
    cfg = {
        "input_size": [3, 224, 224],
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "crop_mode": "center",
        "fixed_input_size": True,
    }
    assert read_timm_pretrained_cfg(cfg) == processor(HALF, size=(224, 224), aspect="crop")
    assert read_timm_pretrained_cfg(cfg | {"crop_mode": "squash"}) == processor(HALF, size=(224, 224))
    border = processor(HALF, size=(224, 224), aspect="pad", pad_colour=(128, 128, 128))
    assert read_timm_pretrained_cfg(cfg | {"crop_mode": "border"}) == border
    oblong = processor(HALF, size=(96, 128), resample="bilinear", aspect="crop")
    assert read_timm_pretrained_cfg(cfg | {"input_size": (3, 96, 128), "interpolation": "bilinear"}) == oblong


def test_timm_defaults_are_those_of_the_installed_timm() -> None:
    allow_torchvision()
    data = pytest.importorskip("timm.data", reason="timm is not installed")
    theirs = data.resolve_data_config(pretrained_cfg={"input_size": (3, 224, 224)})
    ours = read_timm_pretrained_cfg({"input_size": (3, 224, 224)})
    assert (ours.mean, ours.std) == (theirs["mean"], theirs["std"]) == IMAGENET
    assert (ours.spec.resample, ours.spec.aspect) == (theirs["interpolation"], "crop")
    assert theirs["crop_mode"] == "center"


@pytest.mark.parametrize(
    ("cfg", "what"),
    [
        ({}, "'input_size' must hold channels, height and width, got None"),
        ({"input_size": 224}, "'input_size' must hold channels, height and width, got 224"),
        ({"input_size": (1, 28, 28)}, "the network reads 1 channels"),
        ({"input_size": (3, 28, 0)}, "'input_size' must be a whole number of pixels, got 0"),
        ({"input_size": (3, 28, 28), "interpolation": "lanczos"}, "'interpolation' is 'lanczos'"),
        ({"input_size": (3, 28, 28), "crop_mode": "five"}, "'crop_mode' is 'five'"),
        ({"input_size": (3, 28, 56), "crop_mode": "border"}, "'crop_mode' is 'border' for an input of 28×56"),
        ({"input_size": (3, 28, 28), "mean": (124, 116, 104)}, "'mean' must lie between 0 and 1"),
    ],
)
def test_faulty_timm_configs_are_refused(cfg: dict[str, Any], what: str) -> None:
    with pytest.raises(DataError, match=what) as error:
        read_timm_pretrained_cfg(cfg)
    assert error.value.where == "pretrained_cfg"
