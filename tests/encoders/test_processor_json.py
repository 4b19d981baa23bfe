"""Preprocessing files in the layouts that are published give the right spec; what cannot be done exactly is refused.

The files below are written out after the published ones; none was downloaded.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ovbench._base.errors import DataError
from ovbench._base.torchvision_shim import allow_torchvision
from ovbench.encoders import processor_json
from ovbench.encoders.base import Normalisation, PreprocessSpec
from ovbench.encoders.preprocess import HALF, IMAGENET, OPENAI_CLIP, resize, to_01
from ovbench.encoders.processor_json import Processor, read_processor

CLIP_L14_336 = """{
  "crop_size": 336,
  "do_center_crop": true,
  "do_normalize": true,
  "do_resize": true,
  "feature_extractor_type": "CLIPFeatureExtractor",
  "image_mean": [0.48145466, 0.4578275, 0.40821073],
  "image_std": [0.26862954, 0.26130258, 0.27577711],
  "resample": 3,
  "size": 336
}"""
SIGLIP_SO400M_384 = """{
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [0.5, 0.5, 0.5],
  "image_processor_type": "SiglipImageProcessor",
  "image_std": [0.5, 0.5, 0.5],
  "processor_class": "SiglipProcessor",
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {"height": 384, "width": 384}
}"""
SIGLIP2_BASE_256 = """{
  "do_convert_rgb": null,
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [0.5, 0.5, 0.5],
  "image_processor_type": "SiglipImageProcessor",
  "image_std": [0.5, 0.5, 0.5],
  "processor_class": "SiglipProcessor",
  "resample": 2,
  "rescale_factor": 0.00392156862745098,
  "size": {"height": 256, "width": 256}
}"""
DINOV2_BASE = """{
  "crop_size": {"height": 224, "width": 224},
  "do_center_crop": true,
  "do_convert_rgb": true,
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [0.485, 0.456, 0.406],
  "image_processor_type": "BitImageProcessor",
  "image_std": [0.229, 0.224, 0.225],
  "resample": 3,
  "rescale_factor": 0.00392156862745098,
  "size": {"shortest_edge": 256}
}"""
VIT_MAE_BASE = """{
  "do_normalize": true,
  "do_resize": true,
  "feature_extractor_type": "ViTFeatureExtractor",
  "image_mean": [0.485, 0.456, 0.406],
  "image_std": [0.229, 0.224, 0.225],
  "size": 224
}"""
DINOV3_FAST = """{
  "crop_size": null,
  "data_format": "channels_first",
  "default_to_square": true,
  "device": null,
  "disable_grouping": null,
  "do_center_crop": null,
  "do_convert_rgb": null,
  "do_normalize": true,
  "do_rescale": true,
  "do_resize": true,
  "image_mean": [0.485, 0.456, 0.406],
  "image_processor_type": "DINOv3ViTImageProcessorFast",
  "image_std": [0.229, 0.224, 0.225],
  "input_data_format": null,
  "resample": 2,
  "rescale_factor": 0.00392156862745098,
  "return_tensors": null,
  "size": {"height": 224, "width": 224}
}"""
BEIT_BASE = """{
  "crop_size": 224,
  "do_center_crop": false,
  "do_normalize": true,
  "do_resize": true,
  "feature_extractor_type": "BeitFeatureExtractor",
  "image_mean": [0.5, 0.5, 0.5],
  "image_std": [0.5, 0.5, 0.5],
  "resample": 2,
  "size": 224
}"""


def processor(normalise: Normalisation, **spec: Any) -> Processor:
    return Processor(spec=PreprocessSpec(**spec), mean=normalise.mean, std=normalise.std)


PUBLISHED = {
    "clip": (CLIP_L14_336, processor(OPENAI_CLIP, size=(336, 336), resample="bicubic", aspect="crop")),
    "siglip": (SIGLIP_SO400M_384, processor(HALF, size=(384, 384), resample="bicubic", aspect="squash")),
    "siglip2": (SIGLIP2_BASE_256, processor(HALF, size=(256, 256), resample="bilinear", aspect="squash")),
    "dinov2": (
        DINOV2_BASE,
        processor(IMAGENET, size=(224, 224), resample="bicubic", aspect="crop", short_side=256),
    ),
    "mae": (VIT_MAE_BASE, processor(IMAGENET, size=(224, 224), resample="bilinear", aspect="squash")),
    "dinov3": (DINOV3_FAST, processor(IMAGENET, size=(224, 224), resample="bilinear", aspect="squash")),
    "beit": (BEIT_BASE, processor(HALF, size=(224, 224), resample="bilinear", aspect="squash")),
}


def written(folder: Path, content: Any, name: str = "preprocessor_config.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files_give_their_spec(name: str, tmp_path: Path) -> None:
    text, expected = PUBLISHED[name]
    path = written(tmp_path, text)
    assert read_processor(path) == expected
    assert read_processor(tmp_path) == expected


def pil_processor(text: str) -> Any:
    """Returns the PIL processor of transformers that the file names."""
    allow_torchvision()
    content = json.loads(text)
    name = content.get("image_processor_type", content.get("feature_extractor_type"))
    return pil_class(name.replace("FeatureExtractor", "ImageProcessor"))(**content)


def pil_class(name: str) -> Any:
    family = name.removesuffix("ImageProcessor").lower().replace("chineseclip", "chinese_clip")
    return getattr(importlib.import_module(f"transformers.models.{family}.image_processing_pil_{family}"), f"{name}Pil")


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "dinov2", "mae", "beit"])
@pytest.mark.parametrize("shape", [(500, 375), (333, 500), (97, 401), (224, 224)])
def test_the_spec_prepares_pictures_as_transformers_does(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    text, _ = PUBLISHED[name]
    ours = read_processor(written(tmp_path, text))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (shape[1], shape[0], 3), np.uint8))
    theirs = pil_processor(text)(picture, return_tensors="np")["pixel_values"][0]
    prepared = to_01(resize(picture, ours.spec)).numpy().transpose(1, 2, 0)
    normalised = (prepared - np.array(ours.mean)) / np.array(ours.std)
    assert theirs.shape == (3, *ours.spec.size)
    assert np.abs(normalised.transpose(2, 0, 1) - theirs).max() < 1e-5  # one grey level is 0.0078 or more


@pytest.mark.parametrize("name", sorted(processor_json._CLASSES.keys() - {"DINOv3ViTImageProcessor"}))
def test_class_defaults_are_those_of_the_installed_transformers(name: str) -> None:
    allow_torchvision()
    theirs, ours = pil_class(name)(), processor_json._CLASSES[name]
    assert processor_json._KERNELS[int(theirs.resample)] == ours.resample
    assert bool(theirs.do_center_crop) == ours.center_crop
    assert theirs.default_to_square == ours.square
    assert (tuple(theirs.image_mean), tuple(theirs.image_std)) == (ours.normalise.mean, ours.normalise.std)
    assert theirs.do_resize
    assert theirs.do_rescale
    assert theirs.do_normalize


def test_class_defaults_of_dinov3_are_those_of_the_installed_transformers() -> None:
    allow_torchvision()
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    module = importlib.import_module("transformers.models.dinov3_vit.image_processing_dinov3_vit")
    theirs, ours = module.DINOv3ViTImageProcessor(), processor_json._CLASSES["DINOv3ViTImageProcessor"]
    assert processor_json._KERNELS[int(theirs.resample)] == ours.resample
    assert (bool(theirs.do_center_crop), theirs.default_to_square) == (ours.center_crop, ours.square)
    assert (tuple(theirs.image_mean), tuple(theirs.image_std)) == (ours.normalise.mean, ours.normalise.std)


def test_a_nested_image_processor_is_read(tmp_path: Path) -> None:
    nested = {"image_processor": json.loads(SIGLIP2_BASE_256), "processor_class": "SiglipProcessor"}
    path = written(tmp_path, nested, "processor_config.json")
    assert read_processor(path) == read_processor(tmp_path) == PUBLISHED["siglip2"][1]


def test_two_files_that_agree_are_read_and_two_that_differ_are_refused(tmp_path: Path) -> None:
    written(tmp_path, {"image_processor": json.loads(SIGLIP2_BASE_256)}, "processor_config.json")
    written(tmp_path, SIGLIP2_BASE_256)
    assert read_processor(tmp_path) == PUBLISHED["siglip2"][1]
    written(tmp_path, SIGLIP_SO400M_384)
    with pytest.raises(DataError, match="prepare pictures in different ways") as error:
        read_processor(tmp_path)
    assert error.value.where == str(tmp_path)
    assert "transformers reads the former" in error.value.fix


def test_a_processor_config_of_a_tokenizer_alone_is_passed_over(tmp_path: Path) -> None:
    written(tmp_path, {"processor_class": "CLIPProcessor"}, "processor_config.json")
    written(tmp_path, CLIP_L14_336)
    assert read_processor(tmp_path) == PUBLISHED["clip"][1]


FULL = json.loads(DINOV2_BASE)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"size": {"shortest_edge": 224}}, {"aspect": "crop"}),
        ({"size": 256}, {"aspect": "crop", "short_side": 256}),
        ({"size": 256, "crop_size": [224, 224]}, {"aspect": "crop", "short_side": 256}),
        ({"crop_size": {"height": 112, "width": 224}}, {"size": (112, 224), "aspect": "crop", "short_side": 256}),
        ({"crop_size": {"height": 112, "width": 256}}, {"size": (112, 256), "aspect": "crop", "short_side": 256}),
        ({"size": {"height": 224, "width": 224}}, {}),
        ({"size": {"height": 96, "width": 128}, "do_center_crop": False}, {"size": (96, 128)}),
        ({"size": [96, 128], "do_center_crop": False}, {"size": (96, 128)}),
        ({"size": {"shortest_edge": 256, "longest_edge": None}}, {"aspect": "crop", "short_side": 256}),
        ({"resample": 2}, {"aspect": "crop", "short_side": 256, "resample": "bilinear"}),
        ({"do_pad": False, "crop_pct": None, "ensure_multiple_of": 1}, {"aspect": "crop", "short_side": 256}),
        ({"do_reduce_labels": True, "_id": 3, "mystery": [1]}, {"aspect": "crop", "short_side": 256}),
        ({"image_processor_type": "MyImageProcessor"}, {"aspect": "crop", "short_side": 256}),
    ],
)
def test_variations_of_a_file(changes: dict[str, Any], expected: dict[str, Any], tmp_path: Path) -> None:
    found = read_processor(written(tmp_path, FULL | changes))
    assert found == processor(IMAGENET, **{"size": (224, 224), **expected})


def test_values_of_one_channel_stand_for_all(tmp_path: Path) -> None:
    found = read_processor(written(tmp_path, FULL | {"image_mean": 0.5, "image_std": [0.5]}))
    assert (found.mean, found.std) == HALF


def test_without_normalisation_the_network_reads_0_to_1(tmp_path: Path) -> None:
    found = read_processor(written(tmp_path, FULL | {"do_normalize": False}))
    assert (found.mean, found.std) == ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_an_oblong_crop_is_prepared_as_transformers_does(tmp_path: Path) -> None:
    content = FULL | {"crop_size": {"height": 112, "width": 224}, "do_normalize": False}
    ours = read_processor(written(tmp_path, content))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (301, 403, 3), np.uint8))
    theirs = pil_processor(json.dumps(content))(picture, return_tensors="np")["pixel_values"][0]
    assert np.abs(to_01(resize(picture, ours.spec)).numpy() - theirs).max() < 1e-6


BARE = {"size": {"height": 224, "width": 224}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 3}
ABSENT = object()
FAULTS: list[tuple[dict[str, Any], str, str]] = [
    ({"size": ABSENT}, "'size' is missing", "never guessed"),
    ({"size": True}, "'size' must be a whole number of pixels, got True", ""),
    ({"size": 0}, "'size' must be a whole number of pixels, got 0", ""),
    ({"size": "224"}, "'size' must be a whole number of pixels, got '224'", ""),
    ({"size": 224}, "'size' is 224, which can be a square or the short side", "shortest_edge"),
    ({"size": [1, 2, 3]}, r"'size' must hold height and width, got \[1, 2, 3\]", ""),
    ({"size": {}}, "'size' holds nothing", "shortest_edge, or height and width"),
    ({"size": {"longest_edge": 512}}, "'size' holds longest_edge", "shortest_edge, or height and width"),
    ({"size": {"shortest_edge": 9, "longest_edge": 12}}, "'size' holds longest_edge, shortest_edge", "ovbench can do"),
    ({"size": {"height": 9, "width": 1.5}}, "'size.width' must be a whole number of pixels, got 1.5", ""),
    ({"size": {"shortest_edge": 256}}, r"keeps the picture's own shape \(shortest_edge 256\)", "do_center_crop"),
    ({"crop_size": 224}, "'crop_size' is given without 'do_center_crop'", "true or false"),
    ({"do_center_crop": True}, "'do_center_crop' is on and 'crop_size' is missing", "never guessed"),
    ({"do_center_crop": True, "crop_size": 200}, "'size' 224×224 is squashed and then cropped to 200×200", "by hand"),
    ({"do_center_crop": True, "crop_size": {"shortest_edge": 9}}, "'crop_size' holds shortest_edge", "needs height"),
    (
        {"do_center_crop": True, "crop_size": 224, "size": {"shortest_edge": 200}},
        "'crop_size' 224×224 is larger than the shortest_edge 200: pictures would get black borders",
        "correct one",
    ),
    (
        {"do_center_crop": True, "crop_size": [112, 257], "size": {"shortest_edge": 256}},
        "'crop_size' 112×257 is larger than the shortest_edge 256",
        "correct one",
    ),
    ({"do_center_crop": "yes"}, "'do_center_crop' must be true or false, got 'yes'", ""),
    ({"do_resize": False}, "'do_resize' is false, so that the input has no fixed size", "by hand"),
    ({"do_rescale": False}, "'do_rescale' is false, so that the network would read 0…255", "0…1"),
    ({"rescale_factor": 1 / 127.5}, "'rescale_factor' must be 1/255, got 0.0078", "0…1"),
    ({"rescale_factor": "1/255"}, "'rescale_factor' must be 1/255, got '1/255'", ""),
    ({"resample": ABSENT}, "'resample' is missing, and the default of 'an unnamed class' is not known", "3 (bicubic"),
    ({"resample": ABSENT, "image_processor_type": "My"}, "the default of 'My' is not known", "2 (bilinear"),
    ({"resample": 0}, r"'resample' is 0 \(nearest\)", "2 (bilinear) and 3 (bicubic)"),
    ({"resample": 1}, r"'resample' is 1 \(lanczos\)", "ovbench can do"),
    ({"resample": 4}, r"'resample' is 4 \(box\)", "ovbench can do"),
    ({"resample": 5}, r"'resample' is 5 \(hamming\)", "ovbench can do"),
    ({"resample": 9}, "'resample' is 9\n", "ovbench can do"),
    ({"resample": True}, "'resample' is True", "ovbench can do"),
    ({"resample": [3]}, r"'resample' is \[3\]", "ovbench can do"),
    ({"image_mean": ABSENT}, "'image_mean' is missing", "no value is guessed"),
    ({"image_std": ABSENT}, "'image_std' is missing", "no value is guessed"),
    ({"image_mean": [0.5, 0.5]}, r"'image_mean' must hold three numbers, got \[0.5, 0.5\]", ""),
    ({"image_mean": ["a", "b", "c"]}, "'image_mean' must hold three numbers", ""),
    ({"image_mean": [123.675, 116.28, 103.53]}, "'image_mean' must lie between 0 and 1", "divide the values by 255"),
    ({"image_std": [0.5, 0, 0.5]}, "'image_std' must lie between 1e-06 and 1", ""),
    ({"image_mean": [float("nan")] * 3}, "'image_mean' must lie between 0 and 1", ""),
    ({"image_processor_type": 5}, "'image_processor_type' must be a text, got 5", ""),
    ({"image_processor_type": "Siglip2ImageProcessorFast"}, "a Siglip2ImageProcessor cannot .*NaFlex", "by hand"),
    ({"feature_extractor_type": "ConvNextFeatureExtractor"}, "pictures of a ConvNextImageProcessor cannot", "by hand"),
    ({"do_pad": True}, "'do_pad' is True, which ovbench cannot do", "by hand"),
    ({"crop_pct": 0.875}, "'crop_pct' is 0.875, which ovbench cannot do", "by hand"),
    ({"do_flip_channel_order": True}, "'do_flip_channel_order' is True", "by hand"),
    ({"image_grid_pinpoints": [[336, 672]]}, "'image_grid_pinpoints' is ", "by hand"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "what", "fix"), FAULTS)
def test_a_faulty_file_is_refused_with_its_key(changes: dict[str, Any], what: str, fix: str, tmp_path: Path) -> None:
    content = {key: value for key, value in (BARE | changes).items() if value is not ABSENT}
    path = written(tmp_path, content)
    with pytest.raises(DataError, match=what) as error:
        read_processor(path)
    assert error.value.where == str(path)
    assert fix in error.value.fix


def test_the_file_without_faults_is_read(tmp_path: Path) -> None:
    assert read_processor(written(tmp_path, BARE)) == processor(HALF, size=(224, 224))


def test_deit_is_refused_because_it_squashes_before_it_crops(tmp_path: Path) -> None:
    deit = {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224, "do_center_crop": True}
    with pytest.raises(DataError, match="'size' 256×256 is squashed and then cropped to 224×224"):
        read_processor(written(tmp_path, deit))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", "expected an object, found list"),
        ('{"image_processor": 3}', "found int"),
    ],
)
def test_a_file_that_is_no_object_is_refused(text: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=what):
        read_processor(written(tmp_path, text))


def test_a_missing_file_or_an_empty_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file 'none.json'"):
        read_processor(tmp_path / "none.json")
    with pytest.raises(DataError, match="there is no preprocessor_config.json, and no processor_config.json") as error:
        read_processor(tmp_path)
    assert error.value.where == str(tmp_path)
    assert "by hand" in error.value.fix


def test_a_fault_in_a_nested_file_names_the_place(tmp_path: Path) -> None:
    path = written(tmp_path, {"image_processor": {"do_resize": False}}, "processor_config.json")
    with pytest.raises(DataError) as error:
        read_processor(tmp_path)
    assert error.value.where == f"{path}, image_processor"
