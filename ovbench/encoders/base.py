"""The encoder contract: what an adapter declares, and the two views of one frozen model. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")
COMMIT = re.compile(r"[0-9a-f]{40}")  # of a hub repository: a branch, a tag or a short one can change its meaning
ENCODER_MEMBERS = ("info", "prepare", "features", "llm_tokens", "latents", "fingerprint")
Resample = Literal["bilinear", "bicubic"]
Aspect = Literal["squash", "crop", "pad"]
DType = Literal["float32", "bfloat16", "float16"]


def check_device_name(device: str) -> None:
    """Refuses a device that ovbench does not run on; whether it is there is asked when something is put on it.

    Raises:
        ConfigError: The name is not `cpu`, `cuda` or `cuda:N`.
    """
    if not _DEVICE.fullmatch(device):
        raise ConfigError(f"unknown device '{device}'", where="--device", fix="use cpu, cuda or cuda:N")


def check_dtype_name(dtype: str) -> DType:
    """Returns the name of a type that encoders compute in.

    Raises:
        ConfigError: It is another.
    """
    if dtype not in get_args(DType):
        raise unknown("dtype", dtype, get_args(DType), where="--dtype")
    return cast(DType, dtype)


@dataclass(frozen=True, kw_only=True, slots=True)
class PreprocessSpec:
    """How a picture becomes the encoder's input; everything here is part of a cache key."""

    size: tuple[int, int]  # (height, width) in pixels
    resample: Resample = "bicubic"
    aspect: Aspect = "squash"  # squash: exact size; crop: short side + centre crop; pad: to a square, then resize
    short_side: int | None = None  # pixels of the short side before the centre crop of `crop`; None: that of `size`
    pad_colour: tuple[int, int, int] = (127, 127, 127)  # RGB 0…255, used by `pad`
    backend: Literal["pil"] = "pil"

    def __post_init__(self) -> None:
        if len(self.size) != 2 or min(self.size) < 1:
            raise ConfigError(f"the input size must be (height, width) in pixels, got {self.size}", where="size")
        if self.short_side is not None and self.short_side < 1:
            raise ConfigError(f"the short side must be at least 1 pixel, got {self.short_side}", where="short_side")
        choices = {"resample": (self.resample, get_args(Resample)), "aspect": (self.aspect, get_args(Aspect))}
        for name, (value, known) in choices.items():
            if value not in known:
                raise unknown(name, str(value), known, where=name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Tap:
    """Where features are taken from.

    `layer` counts the residual stream: 0 is the input of the first block, L the output of the last; negative numbers
    count from the end, so that -2 is LLaVA's `select_layer`. `final` is what the model publishes as its tokens.
    """

    layer: int | Literal["final"] = "final"
    norm: Literal["native", "none", "layernorm"] = "native"  # layernorm: without affine, on the residual stream
    eps: float | None = None  # of `layernorm`; None: the model's own
    prefix: bool = False  # keep class and register tokens in front

    def __post_init__(self) -> None:
        if self.norm not in ("native", "none", "layernorm"):
            raise ConfigError(f"unknown tap norm '{self.norm}'", where="tap", fix="use one of: native, none, layernorm")
        if self.layer != "final" and (not isinstance(self.layer, int) or isinstance(self.layer, bool)):
            raise ConfigError(f"unknown tap layer {self.layer!r}", where="tap", fix="use a whole number, or 'final'")
        if self.eps is not None and not self.eps > 0.0:
            raise ConfigError(f"the epsilon of a tap must be positive, got {self.eps}", where="tap")


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderInfo:
    """What is known of an encoder without running it."""

    name: str  # `family/variant`
    adapter_version: int
    input: PreprocessSpec
    grid: tuple[int, int]  # tokens (rows, columns)
    dim: int  # width of a token
    depth: int  # blocks
    num_prefix: int  # class and register tokens that the model puts in front
    patch_px: int  # pixels that one token covers along a side
    mean: tuple[float, float, float]  # what the network reads is (images_01 - mean) / std, done inside `features`
    std: tuple[float, float, float]
    llm_tap: Tap  # of `llm_tokens`, where none is asked for
    latent_tap: Tap  # of `latents`, where none is asked for
    num_params: int  # of the transformer
    num_params_frontend: int  # of a VAE in front of it; 0 without one
    weights_digest: str  # sha256 over names, types, shapes and bytes
    identity: str  # sha256 of everything that can change a feature, but for the tap
    random_seed: int | None = None  # of seeded random weights; None: the weights were trained
    dtype: DType = "float32"  # that the transformer computes in
    supports_decode: bool = False  # `decode` turns latents back into pictures


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """Output of one forward pass."""

    tokens: Tensor  # [B, N, C], raster order
    prefix: Tensor | None  # [B, P, C]
    pooled: Tensor | None  # [B, E]
    grid: tuple[int, int]
    tap: Tap


@runtime_checkable
class Encoder(Protocol):
    """One frozen vision model, seen by a language model (`llm_tokens`) or by a generator (`latents`).

    Contract: no parameter takes gradients, `train()` changes nothing, outputs do not depend on the batch (to 1e-4 in
    float32), and all value normalisation happens inside.
    """

    @property
    def info(self) -> EncoderInfo:
        """What is known without running the network."""
        ...

    def prepare(self, image: Image) -> Tensor:
        """Returns float32 [3, H, W] in [0, 1]; a pure function of the picture, safe in worker processes."""
        ...

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        """Runs the network on float32 [B, 3, H, W] in [0, 1] of exactly `info.input.size`.

        Raises:
            ConfigError: Another size, or values outside [-0.01, 1.01], which hint at a double normalisation.
        """
        ...

    def llm_tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        """Returns what LLaVA's projector reads, [B, N, C], in the network's dtype; None: `info.llm_tap`."""
        ...

    def latents(self, images_01: Tensor, tap: Tap | None = None, *, resize: bool = False) -> Tensor:
        """Returns what RAE's decoder and DiT see, not normalised by data statistics: float32 [B, C, h, w].

        Args:
            images_01: float32 [B, 3, H, W] in [0, 1].
            tap: Layer and norm; None: `info.latent_tap`.
            resize: Bring pictures of another size to the encoder's first, as RAE does (`preprocess.resize_for`).
        """
        ...

    def fingerprint(self, tap: Tap | None = None) -> str:
        """Returns sha256 of the identity and the tap."""
        ...


Origin = Literal["embedded", "package", "hub", "untrained", "given"]
Triple = tuple[float, float, float]


class Normalisation(NamedTuple):
    """What is subtracted from pictures in [0, 1], and what they are divided by, per channel."""

    mean: Triple
    std: Triple


@dataclass(frozen=True, kw_only=True, slots=True)
class Variant:
    """One set of weights of a family, and all that a table must say about it.

    Zero counts and an empty grid mean "it depends on the weights", which only the generic families (`given`) may say.
    """

    name: str  # after the slash: `mini`, `base-256`
    title: str  # for people
    protocol: str = ""  # `mini` or `released`: the default of that kind of protocol; empty: it must be named
    origin: Origin = "hub"
    weights: str = ""  # embedded file, Python package, or hub id `owner/repository[/folder]`
    revision: str = ""  # version, or commit of the hub repository (40 hex digits); empty: none is known, name one
    frontend: str = ""  # embedded file or hub id of the VAE in front; empty without one
    frontend_revision: str = ""
    licence: str
    training_data: str
    objective: str
    resolution_px: int
    num_tokens: int
    dim: int
    depth: int = 0  # blocks
    num_prefix: int = 0  # class and register tokens
    num_params: int = 0  # of the transformer; for a VAE, of encoder and decoder
    num_params_frontend: int = 0
    citation: str
    for_understanding: bool = True  # a VAE alone is not offered to a language model
    control: bool = False  # stands in every table to be beaten
    architecture: Mapping[str, Any] = field(default_factory=dict)  # the library's own configuration, without weights
    input: PreprocessSpec | None = None  # used where the weights' folder does not say it
    normalisation: Normalisation | None = None  # likewise
    llm_tap: Tap = Tap()  # what a LLaVA reads by default
    latent_tap: Tap = Tap(norm="layernorm")  # what RAE reads by default


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """An encoder family: one file in this folder, or one entry point of another package."""

    key: str
    title: str
    aliases: tuple[str, ...] = ()
    variants: tuple[Variant, ...]
    load: Callable[[LoadRequest], Encoder]
    options: Mapping[str, str] = field(default_factory=dict)  # option → what it does, beside COMMON_OPTIONS
    provider: str = "ovbench"  # the package that it comes from


COMMON_OPTIONS: Mapping[str, str] = {
    "weights": "random:SEED builds the architecture with seeded, untrained weights",
    "layer": "layer that a language model reads: a number (-2 is the last but one) or final",
    "norm": "native, none or layernorm, at that layer",
    "size": "another input side in pixels, where the family can: docs/encoders.md",
    "aspect": "squash, crop or pad: how a picture that is no square becomes one",
    "dtype": "float32, bfloat16 or float16, in place of --dtype",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LoadRequest:
    """A resolved request for an encoder."""

    family: str
    variant: Variant
    source: str | None = None  # local file or folder, or hub id, in place of the variant's own weights
    revision: str | None = None  # commit of `source`, where it is a hub id
    options: Mapping[str, str] = field(default_factory=dict)  # the family's own
    random_seed: int | None = None  # seeded, untrained weights
    llm_tap: Tap | None = None  # in place of the variant's
    size: int | None = None  # pixels
    aspect: Aspect | None = None
    device: str = "cpu"
    dtype: DType = "float32"

    @property
    def name(self) -> str:
        """`family/variant`."""
        return f"{self.family}/{self.variant.name}"

    def flag(self, option: str) -> bool | None:
        """Returns an option of the family that is true or false; None where it is not given.

        Raises:
            ConfigError: It is neither.
        """
        text = self.options.get(option)
        if text is None:
            return None
        if text.lower() not in ("true", "false"):
            raise ConfigError(
                f"the option '{option}' cannot be '{text}'", where="--encoder", fix=f"use {option}=true or false"
            )
        return text.lower() == "true"
