"""The path between data and noise, and where on it times lie.

Source: github.com/bytetriper/RAE, src/stage2/transport/path.py and transport.py; arXiv 2209.03003 (rectified flow).
Contract: t = 0 is data and t = 1 is noise, everywhere. The reference calls data x1 and noise x0.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor

from ovbench._base.errors import ConfigError
from ovbench.harness.generation.flow_config import MAX_TIME, TransportConfig

T = TypeVar("T", float, Tensor)


def _per_image(t: Tensor, like: Tensor) -> Tensor:
    return t.reshape(-1, *[1] * (like.ndim - 1))


def interpolate(data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """Returns (1 - t) data + t noise, [B, C, H, W]; t is [B]."""
    time = _per_image(t, data)
    return (1.0 - time) * data + time * noise


def velocity(data: Tensor, noise: Tensor) -> Tensor:
    """Returns the derivative of the path by t, noise - data, which a network learns."""
    return noise - data


def data_from_velocity(x: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Returns the data that a point of the path and its velocity stand for: x - t v."""
    return x - _per_image(t, x) * v


def shift_time(t: T, shift: float) -> T:
    """Returns s t / (1 + (s - 1) t): 0 and 1 stay, the rest moves towards noise (arXiv 2403.03206, section 5.3.2)."""
    return shift * t / (1.0 + (shift - 1.0) * t)


def times_from_uniforms(uniforms: Tensor, config: TransportConfig, shift: float) -> Tensor:
    """Returns times of training, float32 [B].

    Logit-normal (arXiv 2403.03206, equation 19) truncated so that t <= 0.999 before the shift: the inverse distribution
    function of the truncated normal, then the sigmoid. Uniform: u times 0.999.

    Args:
        uniforms: Draws in [0, 1], [B].
        config: Distribution.
        shift: See `TransportConfig.shift_of`.

    Raises:
        ConfigError: A draw is not in [0, 1].
    """
    u = uniforms.double()
    if u.numel() and not bool(((u >= 0) & (u <= 1)).all()):
        raise ConfigError("the draws must be in [0, 1]", where="times_from_uniforms")
    if config.time_distribution == "uniform":
        t = u * MAX_TIME
    else:
        limit = math.log(MAX_TIME / (1.0 - MAX_TIME))
        highest = torch.tensor((limit - config.time_mean) / config.time_std, dtype=torch.float64)
        normal = torch.special.ndtri(u * torch.special.ndtr(highest))
        t = torch.sigmoid(config.time_mean + config.time_std * normal).clamp(max=MAX_TIME)
    return shift_time(t, shift).float()
