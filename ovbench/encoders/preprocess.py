"""Pictures → the encoder's input, with PIL, and every conversion of value ranges; no library's processor runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ovbench.encoders.base import PreprocessSpec

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from torch import Tensor


def to_rgb(image: Image) -> Image:
    """Returns an RGB picture; transparency is laid on black, as PIL's own conversion does."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _short_side_size(width: int, height: int, spec: PreprocessSpec) -> tuple[int, int]:
    target_height, target_width = spec.size
    scale = max(target_width / width, target_height / height)
    return max(target_width, round(width * scale)), max(target_height, round(height * scale))


def resize(image: Image, spec: PreprocessSpec) -> Image:
    """Returns the picture at `spec.size`, by the spec's aspect policy and resampling kernel."""
    from PIL import Image as PILImage

    image = to_rgb(image)
    height, width = spec.size
    kernel = {"bilinear": PILImage.Resampling.BILINEAR, "bicubic": PILImage.Resampling.BICUBIC}[spec.resample]
    if spec.aspect == "pad" and image.width != image.height:
        side = max(image.width, image.height)
        square = PILImage.new("RGB", (side, side), spec.pad_colour)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        image = square
    if spec.aspect == "crop":
        image = image.resize(_short_side_size(image.width, image.height, spec), kernel)
        left, top = (image.width - width) // 2, (image.height - height) // 2
        return image.crop((left, top, left + width, top + height))
    return image if image.size == (width, height) else image.resize((width, height), kernel)


def to_01(image: Image) -> Tensor:
    """Returns float32 [3, H, W] in [0, 1] of an RGB picture."""
    import numpy as np

    return u8_to_01(np.asarray(image)[None])[0]


def u8_to_01(images_u8: np.ndarray) -> Tensor:
    """Turns uint8 [B, H, W, 3] into float32 [B, 3, H, W] in [0, 1]."""
    import numpy as np
    import torch

    return torch.from_numpy(np.ascontiguousarray(images_u8.transpose(0, 3, 1, 2))).float() / 255.0
