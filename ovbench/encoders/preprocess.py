"""Pictures → the encoder's input, with PIL, and every conversion of value ranges; no library's processor runs.

`resize` equals what the reference programs do, bit for bit. Two of them differ from it by design: transformers' default
processors resize on tensors (up to one grey level away from PIL), and torchvision's centre crop, used by open_clip and
timm, rounds half a pixel to the even side where transformers rounds it down (one pixel further at some sizes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, cast, get_args

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import unknown
from ovbench._base.pictures import to_rgb
from ovbench.encoders.base import Aspect, LoadRequest, Normalisation, PreprocessSpec

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor

_MAX_PIXELS = 1 << 28  # of a picture on its way to the input size; so many take 1 GiB in PIL


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
EFFICIENTNET_LITE = Normalisation(
    (127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255)
)  # (uint8 - 127) / 128
HALF = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # SigLIP, and ViT as Google published it


def pad_colour_of(mean: Sequence[float]) -> tuple[int, int, int]:
    """Returns the colour that LLaVA pads with: int(255 * mean), which cuts and does not round."""
    red, green, blue = (int(255 * value) for value in mean)
    return red, green, blue


def with_size(spec: PreprocessSpec, px: int) -> PreprocessSpec:
    """Returns the spec for a square input of `px` pixels; the short side before a crop is scaled in proportion.

    Raises:
        ConfigError: `px` is not positive.
    """
    if px < 1:
        raise ConfigError(f"the input size must be at least 1 pixel, got {px}", where="size")
    short_side = None if spec.short_side is None else round(spec.short_side * px / min(spec.size))
    return replace(spec, size=(px, px), short_side=short_side)


def with_aspect(spec: PreprocessSpec, aspect: str, mean: Sequence[float]) -> PreprocessSpec:
    """Returns the spec with another aspect policy; what the new policy does not use goes back to its default.

    Args:
        spec: The spec.
        aspect: `squash`, `crop` or `pad`.
        mean: The encoder's mean, which is the colour of `pad`.

    Raises:
        ConfigError: The policy is unknown, or `pad` was asked for where the input is not square.
    """
    if aspect not in get_args(Aspect):
        raise unknown("aspect", aspect, get_args(Aspect), where="aspect")
    known = cast(Aspect, aspect)
    if known == "pad" and spec.size[0] != spec.size[1]:
        raise ConfigError(
            f"'pad' makes a square, and this encoder reads {spec.size[0]}×{spec.size[1]} pixels",
            where="aspect",
            fix="use squash or crop",
        )
    plain = PreprocessSpec(size=spec.size)
    return replace(
        spec,
        aspect=known,
        short_side=spec.short_side if known == "crop" else None,
        pad_colour=pad_colour_of(mean) if known == "pad" else plain.pad_colour,
    )


def as_asked(spec: PreprocessSpec, request: LoadRequest, mean: Sequence[float]) -> PreprocessSpec:
    """Returns the spec at the size and with the aspect that a request asks for, if it asks.

    Raises:
        ConfigError: As for `with_size` and `with_aspect`.
    """
    if request.size is not None:
        spec = with_size(spec, request.size)
    return spec if request.aspect is None else with_aspect(spec, request.aspect, mean)


def resize(image: Image, spec: PreprocessSpec) -> Image:
    """Returns the picture in RGB at `spec.size`, by the spec's aspect policy and resampling kernel.

    `squash` is one PIL resize. `pad` is LLaVA's `expand2square`, then that resize. `crop` is transformers'
    shortest-edge resize, whose long side is cut to whole pixels, then its centre crop, which begins at
    floor((side - crop) / 2) and leaves black where the picture is smaller.

    Raises:
        DataError: The picture has no pixels, a mode of unknown range, or a shape too extreme for the policy.
    """
    from PIL import Image as PILImage

    image = to_rgb(image)
    height, width = spec.size
    kernel = {"bilinear": PILImage.Resampling.BILINEAR, "bicubic": PILImage.Resampling.BICUBIC}[spec.resample]
    if spec.aspect == "pad":
        return _expand_to_square(image, spec.pad_colour).resize((width, height), kernel)
    if spec.aspect == "crop":
        whole = _short_side_size(image, spec)
        _check_pixels(image, whole, "crop")
        return _centre_crop(image.resize(whole, kernel), spec.size)
    return image.resize((width, height), kernel)


def _check_pixels(image: Image, grown: tuple[int, int], aspect: str) -> None:
    if grown[0] * grown[1] > _MAX_PIXELS:
        raise DataError(
            f"a picture of {image.width}×{image.height} pixels would grow to {grown[0]}×{grown[1]} under '{aspect}'",
            fix="leave the picture out, or cut it to a less extreme shape",
        )


def _expand_to_square(image: Image, colour: tuple[int, int, int]) -> Image:
    from PIL import Image as PILImage

    if image.width == image.height:
        return image
    side = max(image.size)
    _check_pixels(image, (side, side), "pad")
    square = PILImage.new("RGB", (side, side), colour)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _short_side_size(image: Image, spec: PreprocessSpec) -> tuple[int, int]:
    """Returns (width, height) before the crop; without a short side, the smallest that covers `spec.size`."""
    width, height = image.size
    if spec.short_side is None:
        wanted_height, wanted_width = spec.size
        by_width = wanted_width * height >= wanted_height * width
    else:
        wanted_height = wanted_width = spec.short_side
        by_width = width <= height
    if by_width:
        return wanted_width, int(wanted_width * height / width)
    return int(wanted_height * width / height), wanted_height


def _centre_crop(image: Image, size: tuple[int, int]) -> Image:
    height, width = size
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def adm_center_crop(image: Image, size: int) -> Image:
    """Returns the centre square of `size` pixels as guided diffusion (ADM) cuts it, which is how RAE feeds its images.

    The picture is halved with a box filter while its short side is at least twice the size, then scaled bicubically.

    Raises:
        DataError: As for `resize`.
    """
    from PIL import Image as PILImage

    image = to_rgb(image)
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), PILImage.Resampling.BOX)
    scale = size / min(image.size)
    whole = (round(image.width * scale), round(image.height * scale))
    _check_pixels(image, whole, "crop")
    return _centre_crop(image.resize(whole, PILImage.Resampling.BICUBIC), (size, size))


def resize_for(images_01: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns a batch [B, 3, H, W] at the encoder's size by RAE's route: bicubic on the tensor, without antialiasing.

    Trap: the result is not clamped, so that it can leave [0, 1] by about a tenth, as in the reference.

    Args:
        images_01: floating-point [B, 3, H, W] in [0, 1].
        size: (height, width) that the encoder reads; a batch of this size is returned as it is.

    Raises:
        ConfigError: Not a floating-point batch of pictures.
    """
    import torch.nn.functional as F

    if images_01.ndim != 4 or images_01.shape[1] != 3 or 0 in images_01.shape or not images_01.is_floating_point():
        raise ConfigError(
            f"images must be floating-point [B, 3, H, W], got {images_01.dtype} {list(images_01.shape)}",
            where="resize_for",
            fix="use u8_to_01 on uint8 pictures",
        )
    if tuple(images_01.shape[2:]) == tuple(size):
        return images_01
    return F.interpolate(images_01, size=tuple(size), mode="bicubic", align_corners=False)


def to_01(image: Image) -> Tensor:
    """Returns float32 [3, H, W] in [0, 1] of an RGB picture."""
    import numpy as np

    return u8_to_01(np.asarray(image)[None])[0]


def u8_to_01(images_u8: np.ndarray) -> Tensor:
    """Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2))).float() / 255.0
