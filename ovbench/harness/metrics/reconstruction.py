"""PSNR and SSIM of pairs of uint8 images: how close a reconstruction is to its original. LPIPS: `lpips.py`.

All numbers are per image, so that a mean can carry an interval. Conventions: specs/metrics.md §2.5.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ovbench._base.errors import ConfigError, DataError

Layout = Literal["nhwc", "nchw"]
Images = NDArray[np.uint8] | torch.Tensor  # uint8, [n, h, w, 3] or [n, 3, h, w]

_MIN_MSE = 1e-10  # RAE's limit: an identical pair scores 100 dB
_SIGMA, _RADIUS = 1.5, 5  # Gaussian window of 11 x 11 pixels
_C1, _C2 = 0.01**2, 0.03**2  # (K1 L)^2 and (K2 L)^2 for values in [0, 1]
_BATCH = 16  # images in float64 at once


def check_pairs(original: Images, reconstruction: Images, layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns both as uint8 [n, c, h, w] after checking them.

    Raises:
        ConfigError: An unknown layout.
        DataError: Images that are not uint8, no batch of four axes, or two batches that differ in shape.
    """
    if layout not in ("nhwc", "nchw"):
        raise ConfigError(f"unknown layout {layout!r}", where="layout", fix="nhwc or nchw")
    result: list[torch.Tensor] = []
    for name, images in (("original", original), ("reconstruction", reconstruction)):
        tensor = images if isinstance(images, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(images))
        if tensor.dtype != torch.uint8:
            raise DataError(
                f"images must be uint8, got {images.dtype}", where=name, fix="quantise first: the protocol says how"
            )
        if tensor.ndim != 4 or 0 in tensor.shape:
            raise DataError(f"images must be a batch of four axes, got shape {list(tensor.shape)}", where=name)
        result.append(tensor.permute(0, 3, 1, 2) if layout == "nhwc" else tensor)
    if result[0].shape != result[1].shape:
        raise DataError(
            f"the pairs differ in shape: {list(original.shape)} and {list(reconstruction.shape)}",
            where="original, reconstruction",
            fix="compare images of one size and order",
        )
    return result[0], result[1]


def squared_errors(original: Images, reconstruction: Images, *, layout: Layout = "nhwc") -> NDArray[np.float64]:
    """Returns the mean over pixels and channels of ((x - y) / 255)^2 of each pair, [n], in float64.

    Source: bytetriper/RAE `eval/ref_iqa.py`, but for its guess of the range: 255 is divided out always.
    """
    first, second = check_pairs(original, reconstruction, layout)
    parts = []
    for start in range(0, len(first), _BATCH):
        gap = first[start : start + _BATCH].double() - second[start : start + _BATCH].double()
        parts.append((gap / 255.0).square().mean(dim=(1, 2, 3)))
    return torch.cat(parts).cpu().numpy()


def psnr(original: Images, reconstruction: Images, *, layout: Layout = "nhwc") -> NDArray[np.float64]:
    """Returns 20 log10(1 / sqrt(max(mse, 1e-10))) of each pair in dB, [n]; an identical pair has 100 dB.

    Source: bytetriper/RAE `eval/ref_iqa.py`; the reported number is the mean over images.
    """
    return -10.0 * np.log10(np.maximum(squared_errors(original, reconstruction, layout=layout), _MIN_MSE))


def pooled_psnr(original: Images, reconstruction: Images, *, layout: Layout = "nhwc") -> float:
    """Returns -10 log10 of the mean squared error over all images in dB; infinite where all are identical.

    torchmetrics' default (`peak_signal_noise_ratio`, data_range=1): one bad image weighs more than in the mean of dB.
    """
    mse = float(np.mean(squared_errors(original, reconstruction, layout=layout)))
    return math.inf if mse == 0 else -10.0 * math.log10(mse)


def ssim(original: Images, reconstruction: Images, *, layout: Layout = "nhwc") -> NDArray[np.float64]:
    """Returns the structural similarity of each pair, [n], in float64.

    Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004, equation 13, with an
    11 x 11 Gaussian window (sigma 1.5), K1 = 0.01, K2 = 0.03, values in [0, 1], borders reflected, mean over pixels and
    channels: what torchmetrics' `structural_similarity_index_measure(reduction="none", data_range=1)` computes.
    """
    first, second = check_pairs(original, reconstruction, layout)
    smallest = min(first.shape[2:])
    if smallest <= _RADIUS:
        raise DataError(
            f"SSIM needs images of at least {_RADIUS + 1} px a side, got {smallest}", where="original, reconstruction"
        )
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=torch.float64, device=first.device)
    window = torch.exp(-offsets.square() / (2 * _SIGMA**2))
    window /= window.sum()
    parts = []
    for start in range(0, len(first), _BATCH):
        x, y = (images[start : start + _BATCH].double() / 255.0 for images in (first, second))
        mean_x, mean_y = _blur(x, window), _blur(y, window)
        var_x = (_blur(x * x, window) - mean_x.square()).clamp_min(0.0)
        var_y = (_blur(y * y, window) - mean_y.square()).clamp_min(0.0)
        cov = _blur(x * y, window) - mean_x * mean_y
        upper = (2 * mean_x * mean_y + _C1) * (2 * cov + _C2)
        lower = (mean_x.square() + mean_y.square() + _C1) * (var_x + var_y + _C2)
        parts.append((upper / lower).mean(dim=(1, 2, 3)))
    return torch.cat(parts).cpu().numpy()


def _blur(images: torch.Tensor, window: torch.Tensor) -> torch.Tensor:
    """Returns images smoothed along rows and columns, borders reflected, [n, c, h, w]."""
    shape = images.shape
    padded = functional.pad(images.reshape(-1, 1, *shape[2:]), (_RADIUS,) * 4, mode="reflect")
    rows = functional.conv2d(padded, window[None, None, :, None])
    return functional.conv2d(rows, window[None, None, None, :]).reshape(shape)
