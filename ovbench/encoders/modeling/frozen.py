"""What every adapter shares: frozen weights, declared facts, checked input."""

from __future__ import annotations

from dataclasses import asdict
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DependencyError
from ovbench._base.fingerprint import fingerprint
from ovbench.encoders.base import EncoderInfo, Tap, check_device_name
from ovbench.encoders.modeling.frontend import freeze
from ovbench.encoders.preprocess import resize, to_01

if TYPE_CHECKING:
    from PIL.Image import Image


class FrozenEncoder(nn.Module):
    """The part of the encoder contract that does not depend on the network."""

    _info: EncoderInfo

    def _seal(self, info: EncoderInfo, device: torch.device) -> None:
        """Ends construction: states the facts, freezes every parameter, moves to the device."""
        self._info = info
        freeze(self)
        self.to(device)

    @property
    def info(self) -> EncoderInfo:
        """What is known without running the network."""
        return self._info

    def train(self, mode: bool = True) -> Self:
        """Does nothing: the encoder is frozen."""
        del mode
        return super().train(False)

    def prepare(self, image: Image) -> Tensor:
        """Returns float32 [3, H, W] in [0, 1]."""
        return to_01(resize(image, self._info.input))

    def fingerprint(self, tap: Tap | None = None) -> str:
        """Returns sha256 of identity and tap."""
        return fingerprint({"identity": self._info.identity, "tap": asdict(tap or Tap())})


def weights_digest(*modules: nn.Module | None) -> str:
    """Returns sha256 over sorted (name, type, shape, bytes), so two files of equal tensors agree."""
    digest = sha256()
    for module in modules:
        state = {} if module is None else module.state_dict()
        for name in sorted(state):
            tensor = state[name].detach().cpu().contiguous()
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            digest.update(tensor.view(torch.uint8).numpy().tobytes() if tensor.ndim else str(tensor.item()).encode())
    return digest.hexdigest()


def check_device(device: str) -> torch.device:
    """Returns the device, or says that it is not there; nothing is replaced silently."""
    check_device_name(device)
    chosen = torch.device(device)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DependencyError(
            "a CUDA device was asked for and torch sees none",
            where="--device",
            fix="use --device cpu; see: ovbench doctor",
        )
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise DependencyError(
            f"'{device}' was asked for and torch sees {torch.cuda.device_count()} GPUs",
            where="--device",
            fix="see: ovbench doctor",
        )
    return chosen


def check_images(images_01: Tensor, size: tuple[int, int]) -> None:
    """Refuses a batch of another shape, or with values outside [0, 1].

    Raises:
        ConfigError: The shape or the range is wrong; the message says which was expected.
    """
    if images_01.ndim != 4 or images_01.shape[1] != 3 or tuple(images_01.shape[2:]) != tuple(size):
        raise ConfigError(
            f"images must be [B, 3, {size[0]}, {size[1]}], got {list(images_01.shape)}",
            where="Encoder.features",
            fix="use Encoder.prepare on each picture",
        )
    if len(images_01) == 0:
        raise ConfigError("no images in the batch", where="Encoder.features")
    low, high = (float(value) for value in images_01.aminmax())
    if not (low >= -0.01 and high <= 1.01):  # also catches NaN
        raise ConfigError(
            f"image values must lie in [0, 1], got {low:.3g} … {high:.3g}",
            where="Encoder.features",
            fix="leave mean and standard deviation to the encoder",
        )
