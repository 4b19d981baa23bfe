"""What other libraries write about preprocessing → `PreprocessSpec`, mean and std; none of their code runs.

Reads the image-processor JSON of transformers, open_clip's `preprocess_cfg` and timm's `pretrained_cfg`. What ovbench
cannot do exactly as the file says is refused, and nothing that changes a pixel is guessed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, cast, get_args

from ovbench._base.errors import DataError
from ovbench._base.files import read_json
from ovbench.encoders.base import Normalisation, PreprocessSpec, Resample, Triple
from ovbench.encoders.preprocess import HALF, IMAGENET, OPENAI_CLIP

_OWN, _NESTED = "preprocessor_config.json", "processor_config.json"
_KERNELS: dict[int, Resample] = {2: "bilinear", 3: "bicubic"}
_OTHER_KERNELS = {0: "nearest", 1: "lanczos", 4: "box", 5: "hamming"}  # PIL's numbers


@dataclass(frozen=True, kw_only=True, slots=True)
class Processor:
    """How a picture reaches an encoder, values included."""

    spec: PreprocessSpec
    mean: Triple
    std: Triple

    @property
    def normalisation(self) -> Normalisation:
        """Mean and deviation together."""
        return Normalisation(self.mean, self.std)


@dataclass(frozen=True, slots=True)
class _ClassDefaults:
    """What a processor class of transformers does where its JSON is silent; sizes are never taken from here."""

    resample: Resample
    square: bool  # a size of one number is a square; otherwise it is the short side
    center_crop: bool
    normalise: Normalisation


# Read off transformers 5.23; tests/encoders/test_processor_json.py compares it with the version that is installed.
_CLASSES = {
    "BeitImageProcessor": _ClassDefaults("bicubic", True, False, HALF),
    "BitImageProcessor": _ClassDefaults("bicubic", False, True, OPENAI_CLIP),
    "BlipImageProcessor": _ClassDefaults("bicubic", True, False, OPENAI_CLIP),
    "CLIPImageProcessor": _ClassDefaults("bicubic", False, True, OPENAI_CLIP),
    "ChineseCLIPImageProcessor": _ClassDefaults("bicubic", False, True, OPENAI_CLIP),
    "DINOv3ViTImageProcessor": _ClassDefaults("bilinear", True, False, IMAGENET),
    "DeiTImageProcessor": _ClassDefaults("bicubic", True, True, HALF),
    "SiglipImageProcessor": _ClassDefaults("bicubic", False, False, HALF),
    "ViTImageProcessor": _ClassDefaults("bilinear", True, False, HALF),
}
_OTHER_ROUTES = {  # classes whose result is not one picture of one size, though their keys look as if
    "ConvNextImageProcessor": "it enlarges the picture by a crop_pct of its own before the crop",
    "EfficientNetImageProcessor": "it can rescale to -1…1, and normalises a second time",
    "LevitImageProcessor": "it enlarges the short side by 256/224 before the crop",
    "PerceiverImageProcessor": "it crops before it resizes",
    "Siglip2ImageProcessor": "it gives a varying grid of patches (NaFlex)",
}
_CHANGES_THE_PICTURE = (
    "crop_pct", "do_align_long_axis", "do_color_quantize", "do_crop_margin", "do_flip_channel_order",
    "do_image_splitting", "do_pad", "do_pan_and_scan", "do_split_image", "do_thumbnail", "ensure_multiple_of",
    "image_grid_pinpoints", "keep_aspect_ratio", "max_num_patches", "max_pixels", "max_size", "min_pixels",
    "rescale_offset", "size_divisor",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Config:
    """Checked access to one foreign mapping; `null` counts as absent, as it does in the libraries."""

    values: Mapping[str, Any]
    where: str

    def fault(self, what: str, fix: str = "") -> NoReturn:
        raise DataError(what, where=self.where, fix=fix)

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def flag(self, key: str, default: bool) -> bool:
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            self.fault(f"'{key}' must be true or false, got {value!r}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.get(key)
        if value is not None and not isinstance(value, str):
            self.fault(f"'{key}' must be a text, got {value!r}")
        return value or default

    def pixels(self, key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            self.fault(f"'{key}' must be a whole number of pixels, got {value!r}")
        return value

    def pair(self, key: str, value: Any) -> tuple[int, int]:
        """Returns (height, width) of a number or of a list of two."""
        if isinstance(value, Sequence) and not isinstance(value, str):
            if len(value) != 2:
                self.fault(f"'{key}' must hold height and width, got {list(value)!r}")
            return self.pixels(key, value[0]), self.pixels(key, value[1])
        return self.pixels(key, value), self.pixels(key, value)

    def colour(self, key: str, default: Triple | None, low: float = 0.0) -> Triple:
        """Returns three numbers; one alone stands for all channels, as it does in the libraries."""
        value = self.get(key)
        if value is None:
            if default is None:
                self.fault(f"'{key}' is missing", "write it into the file; no value is guessed")
            return default
        numbers: list[Any] = list(value) if isinstance(value, list | tuple) else [value]
        if len(numbers) == 1:
            numbers *= 3
        good = all(isinstance(number, int | float) and not isinstance(number, bool) for number in numbers)
        if len(numbers) != 3 or not good:
            self.fault(f"'{key}' must hold three numbers, got {value!r}")
        if not all(math.isfinite(number) and low <= number <= 1 for number in numbers):
            self.fault(
                f"'{key}' must lie between {low:g} and 1, got {value!r}",
                "ovbench scales pictures to 0…1 first; divide the values by 255 if they are meant for 0…255",
            )
        return cast(Triple, tuple(float(number) for number in numbers))

    def mean_std(self, mean: str, std: str, default: Normalisation | None) -> Normalisation:
        return Normalisation(
            self.colour(mean, default.mean if default else None),
            self.colour(std, default.std if default else None, low=1e-6),
        )

    def choice(self, key: str, default: str, known: Sequence[str]) -> str:
        value = self.text(key, default)
        if value not in known:
            self.fault(f"'{key}' is '{value}'", f"ovbench can do: {', '.join(known)}")
        return value


def read_processor(path: Path) -> Processor:
    """Returns what an image processor of transformers does to a picture.

    Args:
        path: `preprocessor_config.json`, `processor_config.json` with an `image_processor` inside, or their folder.
            Where a folder has both, they must say the same.

    Raises:
        DataError: A file is missing or damaged, incomplete, contradicts itself, or asks for what ovbench cannot do
            exactly; the message names the key.
    """
    if not path.is_dir():
        return _of_file(path)
    nested, own = path / _NESTED, path / _OWN
    found = [_of_file(nested)] if nested.is_file() and _holds_image_processor(nested) else []
    found += [_of_file(own)] if own.is_file() else []
    if not found:
        raise DataError(
            f"there is no {_OWN}, and no {_NESTED} with an 'image_processor'",
            where=str(path),
            fix="get the file that belongs to the weights, or give size, mean and std by hand",
        )
    if len(found) == 2 and found[0] != found[1]:
        raise DataError(
            f"{_NESTED} and {_OWN} prepare pictures in different ways",
            where=str(path),
            fix="remove the one that the weights were not made with (transformers reads the former)",
        )
    return found[0]


def _holds_image_processor(path: Path) -> bool:
    content = read_json(path)
    return isinstance(content, dict) and "image_processor" in content


def _of_file(path: Path) -> Processor:
    content, where = read_json(path), str(path)
    if isinstance(content, dict) and "image_processor" in content:
        content, where = content["image_processor"], f"{path}, image_processor"
    if not isinstance(content, dict):
        raise DataError(f"expected an object, found {type(content).__name__}", where=where)
    return _of_transformers(_Config(content, where))


def _of_transformers(config: _Config) -> Processor:
    name = config.text("image_processor_type", config.text("feature_extractor_type", ""))
    name = name.removesuffix("Fast").removesuffix("Pil").replace("FeatureExtractor", "ImageProcessor")
    if name in _OTHER_ROUTES:
        config.fault(f"pictures of a {name} cannot be prepared: {_OTHER_ROUTES[name]}", _by_hand())
    for key in _CHANGES_THE_PICTURE:
        if _asks(config.get(key)):
            config.fault(f"'{key}' is {config.get(key)!r}, which ovbench cannot do", _by_hand())
    defaults = _CLASSES.get(name)
    if not config.flag("do_resize", True):
        config.fault("'do_resize' is false, so that the input has no fixed size", _by_hand())
    if not config.flag("do_rescale", True):
        config.fault("'do_rescale' is false, so that the network would read 0…255", "ovbench feeds values in 0…1")
    factor = config.get("rescale_factor")
    is_number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if factor is not None and not (is_number and abs(factor - 1 / 255) <= 1e-6):
        config.fault(f"'rescale_factor' must be 1/255, got {factor!r}", "ovbench feeds values in 0…1")
    if config.flag("do_normalize", True):
        normalise = config.mean_std("image_mean", "image_std", defaults.normalise if defaults else None)
    else:
        normalise = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    spec = _geometry(config, defaults, _kernel(config, name, defaults))
    return Processor(spec=spec, mean=normalise.mean, std=normalise.std)


def _by_hand() -> str:
    return "give size, mean and std by hand, or write an adapter for this family"


def _asks(value: Any) -> bool:
    """Whether a value switches something on: `ensure_multiple_of` is off at 1, and `max_size` at null."""
    off = value is None or value is False or (isinstance(value, list | dict) and not value)
    return not off and not (type(value) in (int, float) and value in (0, 1))


def _kernel(config: _Config, name: str, defaults: _ClassDefaults | None) -> Resample:
    number = config.get("resample")
    if number is None:
        if defaults is None:
            config.fault(
                f"'resample' is missing, and the default of '{name or 'an unnamed class'}' is not known",
                'add "resample": 2 (bilinear) or 3 (bicubic)',
            )
        return defaults.resample
    if isinstance(number, bool) or not isinstance(number, int) or number not in _KERNELS:
        named = f" ({_OTHER_KERNELS[number]})" if number in tuple(_OTHER_KERNELS) else ""
        config.fault(f"'resample' is {number!r}{named}", "ovbench can do 2 (bilinear) and 3 (bicubic)")
    return _KERNELS[number]


def _geometry(config: _Config, defaults: _ClassDefaults | None, kernel: Resample) -> PreprocessSpec:
    short_side, size = _size(config, defaults)
    crops = config.flag("do_center_crop", defaults.center_crop if defaults else False)
    crop_size = config.get("crop_size")
    if defaults is None and crop_size is not None and config.get("do_center_crop") is None:
        config.fault("'crop_size' is given without 'do_center_crop'", 'add "do_center_crop": true or false')
    if not crops:
        if size is None:
            config.fault(
                f"'size' keeps the picture's own shape (shortest_edge {short_side}) and nothing crops it",
                "an encoder needs one size: use height and width, or do_center_crop with crop_size",
            )
        return PreprocessSpec(size=size, resample=kernel)
    crop = _crop_size(config, crop_size)
    if size is not None:
        if crop != size:
            config.fault(
                f"'size' {_px(size)} is squashed and then cropped to {_px(crop)}, which ovbench cannot do",
                "use shortest_edge for the size, or give size, mean and std by hand",
            )
        return PreprocessSpec(size=size, resample=kernel)
    assert short_side is not None
    if max(crop) > short_side:
        config.fault(
            f"'crop_size' {_px(crop)} is larger than the shortest_edge {short_side}: pictures would get black borders",
            "correct one of the two",
        )
    is_default = crop == (short_side, short_side)
    return PreprocessSpec(size=crop, resample=kernel, aspect="crop", short_side=None if is_default else short_side)


def _px(size: tuple[int, int]) -> str:
    return f"{size[0]}×{size[1]}"


def _size(config: _Config, defaults: _ClassDefaults | None) -> tuple[int | None, tuple[int, int] | None]:
    """Returns the short side, or the exact (height, width)."""
    value = config.get("size")
    if value is None:
        config.fault("'size' is missing", "write the input size into the file; it is never guessed")
    if isinstance(value, Mapping):
        given = {key: number for key, number in value.items() if number is not None}
        if set(given) == {"shortest_edge"}:
            return config.pixels("size.shortest_edge", given["shortest_edge"]), None
        if set(given) == {"height", "width"}:
            return None, (config.pixels("size.height", given["height"]), config.pixels("size.width", given["width"]))
        config.fault(
            f"'size' holds {', '.join(sorted(given)) or 'nothing'}",
            "ovbench can do: shortest_edge, or height and width",
        )
    if isinstance(value, Sequence) and not isinstance(value, str):
        return None, config.pair("size", value)
    number = config.pixels("size", value)
    if config.get("default_to_square") is None and defaults is None:
        config.fault(
            f"'size' is {number}, which can be a square or the short side",
            'write {"height": …, "width": …} or {"shortest_edge": …}',
        )
    square = config.flag("default_to_square", defaults.square if defaults else True)
    return (None, (number, number)) if square else (number, None)


def _crop_size(config: _Config, value: Any) -> tuple[int, int]:
    if value is None:
        config.fault("'do_center_crop' is on and 'crop_size' is missing", "write it; it is never guessed")
    if isinstance(value, Mapping):
        given = {key: number for key, number in value.items() if number is not None}
        if set(given) != {"height", "width"}:
            config.fault(f"'crop_size' holds {', '.join(sorted(given)) or 'nothing'}", "it needs height and width")
        value = [given["height"], given["width"]]
    return config.pair("crop_size", value)


def read_open_clip_preprocess(
    preprocess_cfg: Mapping[str, Any], image_size: int | Sequence[int] | None, *, where: str = "preprocess_cfg"
) -> Processor:
    """Returns what open_clip does at evaluation; absent keys have open_clip's defaults (CLIP's values, bicubic, crop).

    `longest` becomes `pad`: ovbench pads first and resizes then, where open_clip resizes first, which differs at the
    border alone.

    Args:
        preprocess_cfg: The mapping of that name in `open_clip_config.json`, or of a loaded model.
        image_size: Of the vision tower; None: that of the mapping.
        where: The file, for the message.

    Raises:
        DataError: A value cannot be used, or the two sizes disagree.
    """
    config = _Config(preprocess_cfg, where)
    if config.text("mode", "RGB") != "RGB":
        config.fault(f"'mode' is '{config.get('mode')}'", "ovbench feeds RGB")
    sizes = {
        key: config.pair(key, value)
        for key, value in (("size", config.get("size")), ("image_size", image_size))
        if value is not None
    }
    if not sizes:
        config.fault("'size' is missing, and the vision tower names none", "it is never guessed")
    if len(set(sizes.values())) == 2:
        config.fault(
            f"'size' is {_px(sizes['size'])}, and the vision tower reads {_px(sizes['image_size'])}",
            "correct one of the two",
        )
    size = next(iter(sizes.values()))
    mode = config.choice("resize_mode", "shortest", ("shortest", "longest", "squash"))
    kernel = cast(Resample, config.choice("interpolation", "bicubic", get_args(Resample)))
    normalise = config.mean_std("mean", "std", OPENAI_CLIP)
    spec = PreprocessSpec(size=size, resample=kernel, aspect="squash" if mode == "squash" else "crop")
    if mode == "longest":
        grey = config.get("fill_color") or 0
        if isinstance(grey, bool) or not isinstance(grey, int) or not 0 <= grey <= 255:
            config.fault(f"'fill_color' must be a whole number 0…255, got {grey!r}")
        spec = _padded(config, spec, "resize_mode", (grey, grey, grey))
    return Processor(spec=spec, mean=normalise.mean, std=normalise.std)


def _padded(config: _Config, spec: PreprocessSpec, key: str, colour: tuple[int, int, int]) -> PreprocessSpec:
    if spec.size[0] != spec.size[1]:
        config.fault(
            f"'{key}' is '{config.get(key)}' for an input of {_px(spec.size)}", "ovbench pads to squares alone"
        )
    return replace(spec, aspect="pad", pad_colour=colour)


def read_timm_pretrained_cfg(cfg: Mapping[str, Any], *, where: str = "pretrained_cfg") -> Processor:
    """Returns what timm does at evaluation, with `crop_pct` taken as 1; absent keys have timm's defaults.

    timm's usual crop_pct of 0.875 or 0.9 throws a border away, which is right for naming the main object and wrong for
    questions about the whole picture; so ovbench never zooms in. `border` becomes `pad`, padded before the resize.

    Args:
        cfg: `pretrained_cfg` of a model, or of its config.json.
        where: The file, for the message.

    Raises:
        DataError: A value cannot be used, or `input_size` is missing.
    """
    config = _Config(cfg, where)
    shape = config.get("input_size")
    if not isinstance(shape, Sequence) or isinstance(shape, str) or len(shape) != 3:
        config.fault(
            f"'input_size' must hold channels, height and width, got {shape!r}",
            "name the mapping inside 'pretrained_cfg'",
        )
    if shape[0] != 3:
        config.fault(f"the network reads {shape[0]!r} channels", "ovbench feeds RGB")
    size = config.pair("input_size", list(shape[1:]))
    mode = config.choice("crop_mode", "center", ("center", "squash", "border"))
    kernel = cast(Resample, config.choice("interpolation", "bicubic", get_args(Resample)))
    normalise = config.mean_std("mean", "std", IMAGENET)
    spec = PreprocessSpec(size=size, resample=kernel, aspect="squash" if mode == "squash" else "crop")
    if mode == "border":
        red, green, blue = (round(255 * value) for value in normalise.mean)  # timm rounds where LLaVA cuts
        spec = _padded(config, spec, "crop_mode", (red, green, blue))
    return Processor(spec=spec, mean=normalise.mean, std=normalise.std)
