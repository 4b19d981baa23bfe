"""The resizes of the FID family, each under its own name: batches of pictures in, grey levels in float32 out.

Nothing is rounded unless the name says so, and nothing is normalised.

Every function takes a batch [B, 3, H, W] (uint8, or floating point in 0…255) and the side of the square it returns,
[B, 3, S, S] in float32, 0…255 (`torch-bicubic` alone can leave that range). Which one scored is part of every result:
they are different metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from ovbench._base.errors import ConfigError

Resize = Callable[[Tensor, int], Tensor]


def _check(images: Tensor, size: int) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[2:]:
        raise ConfigError(f"images must be [B, 3, H, W], got {list(images.shape)}", where="resize")
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise ConfigError(f"images must be uint8 or floating point, got {images.dtype}", where="resize")
    if size < 1:
        raise ConfigError(f"the size must be at least 1 pixel, got {size}", where="resize")


def _tf1_positions(length: int, size: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Returns for each output position the lower and upper input position and the weight of the upper one."""
    # Trap: the scale and the product are float32 in the graph; float64 would move some positions across a pixel.
    position = torch.arange(size, dtype=torch.float32, device=device) * torch.tensor(
        length / size, dtype=torch.float32, device=device
    )
    low = position.long()
    high = (low + 1).clamp_max(length - 1)
    return low, high, position - low


def tf1_bilinear_gather(images: Tensor, size: int) -> Tensor:
    """Resizes as TensorFlow 1's `resize_bilinear` in the Inception graph: no half-pixel centres, no antialiasing.

    With s = in / out in float32: src = i s, low = floor(src), high = min(low + 1, in - 1), then the line between the
    two, along x and then along y. Equal bit for bit to torch-fidelity 0.4.0. The identity at the size asked for.
    """
    _check(images, size)
    x = images.float()
    x_low, x_high, x_weight = _tf1_positions(x.shape[3], size, x.device)
    y_low, y_high, y_weight = _tf1_positions(x.shape[2], size, x.device)
    # Contract: along x, then along y, in this order of operations, for bit equality.
    top, bottom = x.index_select(2, y_low), x.index_select(2, y_high)  # [B, 3, S, W]
    lines: list[Tensor] = []
    for rows in (top, bottom):
        left = rows.index_select(3, x_low)
        lines.append(left + (rows.index_select(3, x_high) - left) * x_weight)  # [B, 3, S, S]
    return lines[0] + (lines[1] - lines[0]) * y_weight[:, None]


@lru_cache(maxsize=32)
def _tf1_matrix(length: int, size: int, device: torch.device) -> Tensor:
    """Returns the interpolation as a matrix [S, length], in float32."""
    low, high, weight = _tf1_positions(length, size, device)
    matrix = torch.zeros(size, length, dtype=torch.float32, device=device)
    rows = torch.arange(size, device=device)
    matrix.index_put_((rows, low), 1 - weight, accumulate=True)
    return matrix.index_put_((rows, high), weight, accumulate=True)


def tf1_bilinear(images: Tensor, size: int) -> Tensor:
    """Resizes as `tf1_bilinear_gather`, by two matrix products: faster, within 3e-5 grey levels."""
    _check(images, size)
    x = images.float()
    if x.shape[2:] == (size, size):
        return x
    columns = _tf1_matrix(x.shape[3], size, x.device)
    rows = _tf1_matrix(x.shape[2], size, x.device)
    return rows @ (x.contiguous() @ columns.T)


def torch_bilinear(images: Tensor, size: int) -> Tensor:
    """Resizes as pytorch-fid: bilinear with half-pixel centres, without antialiasing."""
    _check(images, size)
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False)


def torch_bilinear_antialias(images: Tensor, size: int) -> Tensor:
    """Resizes as torchmetrics does by default since 1.8.0: bilinear with half-pixel centres and antialiasing."""
    _check(images, size)
    return F.interpolate(images.float(), size=(size, size), mode="bilinear", align_corners=False, antialias=True)


def torch_bicubic(images: Tensor, size: int) -> Tensor:
    """Resizes with torch's bicubic kernel (a = -0.75), half-pixel centres and no antialiasing; not clipped.

    The kernel overshoots at edges, up to about a tenth of their height outside 0…255. Source: sayakpaul/cmmd-pytorch
    `embedding.py`, _resize_bicubic, which hands the overshoot on to the network.
    """
    _check(images, size)
    return F.interpolate(images.float(), size=(size, size), mode="bicubic", align_corners=False)


def torch_bicubic_antialias(images: Tensor, size: int) -> Tensor:
    """Resizes with torch's bicubic kernel and antialiasing, and clips to 0…255.

    Near to `pil_bicubic`, but not equal: torch rounds positions to float32, which moves grey levels by up to 0.01.
    """
    _check(images, size)
    x = F.interpolate(images.float(), size=(size, size), mode="bicubic", align_corners=False, antialias=True)
    return x.clamp_(0, 255)


@lru_cache(maxsize=32)
def _pil_matrix(length: int, size: int, device: torch.device) -> Tensor:
    """Returns PIL's antialiased bicubic kernel (a = -0.5) as a matrix [S, length], made in float64."""
    scale = length / size
    stretch = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - 2 * stretch + 0.5).astype(np.int64), 0)[:, None]
    last = np.minimum((centre + 2 * stretch + 0.5).astype(np.int64), length)[:, None]
    position = np.arange(length)[None]
    t = np.abs((position - centre[:, None] + 0.5) / stretch)
    near = (1.5 * t - 2.5) * t * t + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t < 1, near, np.where(t < 2, far, 0)) * ((position >= first) & (position < last))
    weights /= weights.sum(axis=1, keepdims=True)
    return torch.from_numpy(weights.astype(np.float32)).to(device)


def pil_bicubic_matmul(images: Tensor, size: int) -> Tensor:
    """Resizes as `pil_bicubic`, and so as clean-fid, by two matrix products on the batch's device.

    Within 0.0025 grey levels (observed: 2e-4).
    """
    _check(images, size)
    x = images.float()
    columns, rows = _pil_matrix(x.shape[3], size, x.device), _pil_matrix(x.shape[2], size, x.device)
    return (rows @ (x.contiguous() @ columns.T)).clamp_(0, 255)


def pil_bicubic(images: Tensor, size: int) -> Tensor:
    """Resizes as clean-fid's mode `clean`: PIL bicubic on each channel in float32, clipped to 0…255, not rounded."""
    _check(images, size)
    pixels = images.float().cpu().numpy()
    out = np.empty((len(pixels), 3, size, size), dtype=np.float32)
    for index, channel in np.ndindex(len(pixels), 3):
        plane = Image.fromarray(np.ascontiguousarray(pixels[index, channel]))  # mode F
        out[index, channel] = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(out).clamp_(0, 255).to(images.device)


def pil_bicubic_u8(images: Tensor, size: int) -> Tensor:
    """Resizes as dgm-eval's FD-DINOv2: PIL bicubic on the uint8 picture, so rounded to whole grey levels.

    Raises:
        ConfigError: The batch is not uint8, so that a rounding before the resize would be hidden.
    """
    _check(images, size)
    if images.dtype != torch.uint8:
        raise ConfigError(f"this resize reads uint8 pictures, got {images.dtype}", where="resize pil-bicubic-u8")
    pixels = images.permute(0, 2, 3, 1).contiguous().cpu().numpy()  # [B, H, W, 3]
    out = np.empty((len(pixels), size, size, 3), dtype=np.uint8)
    for index, picture in enumerate(pixels):
        out[index] = np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(out).permute(0, 3, 1, 2).float().to(images.device)


def square_pil_bicubic_u8(images: Tensor, size: int) -> Tensor:
    """Cuts the square out of the centre and resizes it as `pil_bicubic_u8`: how CMMD's program reads picture files.

    The square's side is the shorter one of the picture; an odd rest leaves one pixel more at the right and the bottom.
    Source: google-research/google-research `cmmd/io_util.py`, _center_crop_and_resize, and its port
    sayakpaul/cmmd-pytorch.

    Raises:
        ConfigError: The batch is not uint8, so that a rounding before the resize would be hidden.
    """
    _check(images, size)
    height, width = images.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pil_bicubic_u8(images[:, :, top : top + side, left : left + side], size)


def rounded(resize: Resize) -> Resize:
    """Returns a resize whose grey levels are rounded to whole ones: what saving the resized picture does."""

    def run(images: Tensor, size: int) -> Tensor:
        return resize(images, size).round_().clamp_(0, 255)

    return run


RESIZES: Mapping[str, Resize] = MappingProxyType(
    {
        "tf1-bilinear": tf1_bilinear,
        "torch-bilinear": torch_bilinear,
        "torch-bilinear-antialias": torch_bilinear_antialias,
        "torch-bicubic": torch_bicubic,
        "torch-bicubic-antialias": torch_bicubic_antialias,
        "pil-bicubic": pil_bicubic_matmul,
        "pil-bicubic-u8": pil_bicubic_u8,
        "square-pil-bicubic-u8": square_pil_bicubic_u8,
        "tf1-bilinear-u8": rounded(tf1_bilinear),
        "torch-bilinear-u8": rounded(torch_bilinear),
        "torch-bilinear-antialias-u8": rounded(torch_bilinear_antialias),
        "torch-bicubic-antialias-u8": rounded(torch_bicubic_antialias),
    }
)
