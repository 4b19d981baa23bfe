"""Floating-point pictures → uint8 as the generators' own programs do it, by name: the choice moves a score.

The value range is part of the function's name and is never guessed from the data. Layout is not touched.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar, cast, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from ovbench._base.errors import DataError
from ovbench._base.names import unknown

Quantise = Literal["truncate", "round"]
Pixels = TypeVar("Pixels", NDArray[Any], torch.Tensor)


def quantise_01(images_01: Pixels, how: Quantise) -> Pixels:
    """Returns pictures with values in 0…1 as uint8 of the same shape, on the same device.

    - `truncate`: floor(255 min(max(x, 0), 1)). Source: bytetriper/RAE `src/sample_ddp.py`; also its reconstructions.
    - `round`: floor(min(max(255 x + 0.5, 0), 255)), halves up: EDM's rule (see `quantise_pm1`) for this range, and
      torchvision's `save_image`.

    Values outside the range are cut. Half types are widened to float32 first; float64 stays.

    Args:
        images_01: NumPy array or tensor of floating-point values, any shape.
        how: `truncate` or `round`.

    Raises:
        ConfigError: An unknown way.
        DataError: The values are not floating-point, or some are NaN or infinite.
    """
    x = _checked(images_01, how, "images_01")
    return _u8(_clip(x, 0, 1) * 255 if how == "truncate" else _clip(x * 255 + 0.5, 0, 255))


def quantise_pm1(images_pm1: Pixels, how: Quantise) -> Pixels:
    """Returns pictures with values in -1…1 as uint8 of the same shape, on the same device.

    - `truncate`: floor(min(max(127.5 (x + 1), 0), 255)). Source: openai/guided-diffusion `scripts/image_sample.py`.
    - `round`: floor(min(max(127.5 x + 128, 0), 255)), which rounds halves up. Sources: NVlabs/edm `generate.py`,
      facebookresearch/DiT and willisma/SiT `sample_ddp.py`.

    Values outside the range are cut. Half types are widened to float32 first; float64 stays.

    Args:
        images_pm1: NumPy array or tensor of floating-point values, any shape.
        how: `truncate` or `round`.

    Raises:
        ConfigError: An unknown way.
        DataError: The values are not floating-point, or some are NaN or infinite.
    """
    x = _checked(images_pm1, how, "images_pm1")
    # Contract: sum before product, as in ADM's program: float32 could fall on the other side of a grey level.
    return _u8(_clip((x + 1) * 127.5 if how == "truncate" else x * 127.5 + 128, 0, 255))


def _checked(images: Pixels, how: str, name: str) -> Pixels:
    """Returns the values in float32 or float64 after checking them."""
    if how not in get_args(Quantise):
        raise unknown("quantisation", str(how), get_args(Quantise), where="--quantise")
    if isinstance(images, torch.Tensor):
        floating, finite = images.is_floating_point(), torch.isfinite(images)
        wide: Any = images.detach().to(torch.float64 if images.dtype == torch.float64 else torch.float32)
    else:
        floating = images.dtype.kind == "f"
        finite = np.isfinite(images)
        wide = images.astype(np.float32 if images.dtype.itemsize <= 4 else np.float64, copy=False)
    if not floating:
        raise DataError(
            f"the values must be floating-point, got {images.dtype}",
            where=name,
            fix="pictures that are 8 bits already are scored as they are",
        )
    if num_bad := int((~finite).sum()):
        raise DataError(
            f"{num_bad} of {finite.numel() if isinstance(finite, torch.Tensor) else finite.size} values are NaN or "
            "infinite",
            where=name,
            fix="look for a sampler or decoder that overflows in half precision",
        )
    return wide


def _clip(x: Pixels, low: float, high: float) -> Pixels:
    return cast(Pixels, x.clamp(low, high) if isinstance(x, torch.Tensor) else np.clip(x, low, high))


def _u8(levels: Pixels) -> Pixels:
    """Returns grey levels within 0…255 as uint8; both libraries cut what is behind the point."""
    return cast(Pixels, levels.to(torch.uint8) if isinstance(levels, torch.Tensor) else levels.astype(np.uint8))
