"""What every adapter shares: frozen weights, declared facts, checked input."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import asdict, replace
from hashlib import sha256
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DependencyError
from ovbench._base.fingerprint import fingerprint
from ovbench.encoders.base import EncoderInfo, Features, Tap, check_device_name
from ovbench.encoders.modeling.frontend import freeze
from ovbench.encoders.preprocess import resize, resize_for, to_01

if TYPE_CHECKING:
    from PIL.Image import Image


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class FrozenEncoder(nn.Module):
    """The part of the encoder contract that does not depend on the network.

    A subclass calls `_seal` at the end of its constructor and implements `features`.
    """

    _info: EncoderInfo
    _device: torch.device

    def _seal(self, info: EncoderInfo, device: torch.device) -> None:
        """Ends construction: states the facts, freezes every parameter, moves to the device."""
        self._info = info
        self._device = device
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

    @abstractmethod
    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        """Runs the network; see `ovbench.encoders.base.Encoder.features`."""

    @abstractmethod
    def _run(self, images_01: Tensor, tap: Tap) -> Features:
        """Runs the network on images of the right size, whatever their values: a bicubic resize can leave [0, 1]."""

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        """Returns tokens [B, N, C] in the network's dtype, class and register tokens in front where the tap says so."""
        features = self.features(images_01, tap or self._info.llm_tap)
        tokens = features.tokens
        if features.prefix is not None:
            tokens = torch.cat([features.prefix, tokens], dim=1)
        return tokens.to(DTYPES[self._info.dtype])

    @torch.no_grad()
    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        """Returns float32 [B, C, h, w]: tokens transposed and reshaped, nothing else."""
        tap = replace(tap or self._info.latent_tap, prefix=False)
        if resize and tuple(images_01.shape[-2:]) != self._info.input.size:
            check_range(images_01)
            tokens = self._run(resize_for(images_01.to(self._device), self._info.input.size), tap).tokens
        else:
            tokens = self.features(images_01, tap).tokens
        rows, columns = self._info.grid
        return tokens.float().transpose(1, 2).reshape(len(tokens), -1, rows, columns).contiguous()


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
    check_range(images_01)


def check_range(images_01: Tensor) -> None:
    """Refuses an empty batch, integers, and values outside [-0.01, 1.01], which hint at a double normalisation."""
    if len(images_01) == 0:
        raise ConfigError("no images in the batch", where="Encoder.features")
    if not images_01.is_floating_point():
        raise ConfigError(
            f"images must be floating point in [0, 1], got {images_01.dtype}",
            where="Encoder.features",
            fix="divide uint8 pictures by 255, as Encoder.prepare does",
        )
    low, high = (float(value) for value in images_01.detach().aminmax())
    if not (low >= -0.01 and high <= 1.01):  # also catches NaN
        raise ConfigError(
            f"image values must lie in [0, 1], got {low:.3g} … {high:.3g}",
            where="Encoder.features",
            fix="leave mean and standard deviation to the encoder",
        )
