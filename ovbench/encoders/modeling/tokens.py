"""The adapter of every frozen transformer: one way to normalise, to tap the residual stream and to name the result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import fingerprint
from ovbench.encoders.base import DType, EncoderInfo, Features, LoadRequest, Normalisation, PreprocessSpec, Tap
from ovbench.encoders.modeling.frozen import DTYPES, FrozenEncoder, check_device, check_images, weights_digest
from ovbench.encoders.modeling.vae_base import FrontEnd
from ovbench.encoders.preprocess import HALF


def unchanged(h: Tensor) -> Tensor:
    """Returns h[L] as it is: what a model without a final norm publishes."""
    return h


@dataclass(frozen=True, kw_only=True)
class Network:
    """A transformer as an adapter hands it over.

    Contract: `run` calls every block once and in order; a block takes the residual stream [B, P + N, C] as its first
    argument and returns it (alone, or first in a tuple); the N patches are last and in raster order. A network without
    blocks, such as a convolutional one, has no layers to tap: there `run` returns its tokens [B, P + N, C].
    """

    model: nn.Module
    blocks: Sequence[nn.Module]
    run: Callable[[Tensor], Any]  # normalised [B, 3, H, W], or a front end's latents → pooled [B, E], or anything
    dim: int
    grid: tuple[int, int]
    num_prefix: int = 0
    publish: Callable[[Tensor], Tensor] = unchanged  # h[L] → what the model publishes: its final norm, or nothing
    eps: float = 1e-6  # of the model's norms: used by a LayerNorm without affine
    frontend: FrontEnd | None = None
    decoder: nn.Module | None = None  # tokens [B, N, C] of the latent tap → VAE latents; without VAE, normalised pixels
    architecture: Mapping[str, Any] = field(default_factory=dict)  # everything but the weights that decides the output


class TokenEncoder(FrozenEncoder):
    """A frozen transformer behind the encoder contract.

    Args:
        name: `family/variant`.
        network: The transformer.
        input: How pictures become its input.
        normalisation: Mean and standard deviation of pixels in [0, 1].
        llm_tap: What `llm_tokens` reads by default.
        latent_tap: What `latents` reads by default.
        adapter: Name and version of the code between the library and this class; part of the identity.
        random_seed: Of seeded, untrained weights; None for trained ones.
        device: Where it runs.
        dtype: Of the transformer; its norms, a VAE in front and a decoder stay in float32, and no autocast is used.
    """

    def __init__(
        self,
        *,
        name: str,
        network: Network,
        input: PreprocessSpec,
        normalisation: Normalisation = HALF,
        llm_tap: Tap | None = None,
        latent_tap: Tap | None = None,
        adapter: tuple[str, int] = ("tokens", 1),
        random_seed: int | None = None,
        device: str = "cpu",
        dtype: DType = "float32",
    ) -> None:
        super().__init__()
        where = check_device(device)
        self.model, self.frontend, self.decoder = network.model, network.frontend, network.decoder
        self._network = network
        # Lists of modules would be registered twice; a tuple is not.
        self._blocks = tuple(network.blocks)
        self._adapter = adapter
        self._dtype = torch.float32
        rows, columns = network.grid
        height, width = input.size
        info = EncoderInfo(
            name=name,
            adapter_version=adapter[1],
            input=input,
            grid=network.grid,
            dim=network.dim,
            depth=len(self._blocks),
            num_prefix=network.num_prefix,
            patch_px=min(height // rows, width // columns),
            mean=normalisation.mean,
            std=normalisation.std,
            llm_tap=llm_tap or Tap(),
            latent_tap=latent_tap or Tap(norm="layernorm"),
            num_params=_count(network.model),
            num_params_frontend=0 if network.frontend is None else _count(network.frontend),
            weights_digest=weights_digest(network.model, network.frontend, network.decoder),
            identity="",
            random_seed=random_seed,
            supports_decode=network.decoder is not None,
        )
        for tap in (info.llm_tap, info.latent_tap):
            _index(tap, info.depth)
        self._seal(info, where)
        self._mean = torch.tensor(normalisation.mean, device=where).view(1, 3, 1, 1)
        self._std = torch.tensor(normalisation.std, device=where).view(1, 3, 1, 1)
        self._cast(dtype)

    @classmethod
    def of(
        cls,
        request: LoadRequest,
        *,
        network: Network,
        input: PreprocessSpec,
        normalisation: Normalisation,
        adapter: tuple[str, int],
        name: str = "",
    ) -> Self:
        """Returns the encoder of a request: its taps, seed, device and type are those that were asked for.

        Args:
            request: What is asked for.
            network: The transformer.
            input: How pictures become its input.
            normalisation: Mean and standard deviation of pixels in [0, 1].
            adapter: Name and version of the code that built the network.
            name: In place of the request's.
        """
        return cls(
            name=name or request.name,
            network=network,
            input=input,
            normalisation=normalisation,
            llm_tap=request.llm_tap or request.variant.llm_tap,
            latent_tap=request.variant.latent_tap,
            adapter=adapter,
            random_seed=request.random_seed,
            device=request.device,
            dtype=request.dtype,
        )

    def place(
        self, *, device: str = "cpu", dtype: DType = "float32", llm_tap: Tap | None = None, name: str | None = None
    ) -> Self:
        """Returns this encoder on a device and in a dtype, with another default tap; used for adapters of others.

        Raises:
            ConfigError: The encoder is in a lower precision already, or the tap does not exist.
        """
        where = check_device(device)
        if llm_tap is not None:
            _index(llm_tap, self._info.depth)
        self._seal(replace(self._info, llm_tap=llm_tap or self._info.llm_tap, name=name or self._info.name), where)
        self._mean, self._std = self._mean.to(where), self._std.to(where)
        self._cast(dtype)
        return self

    def _cast(self, dtype: DType) -> None:
        wanted = DTYPES[dtype]
        if wanted != self._dtype:
            if self._dtype != torch.float32:
                raise ConfigError(
                    f"'{self._info.name}' is in {self._dtype} and cannot become {dtype}",
                    where="dtype",
                    fix="load it again",
                )
            _compute_in(self.model, wanted)
            self._dtype = wanted
        self._info = replace(self._info, identity=self._compute_identity(), dtype=dtype)

    def _compute_identity(self) -> str:
        info = self._info
        return fingerprint(
            {
                "adapter": self._adapter[0],
                "version": self._adapter[1],
                "architecture": self._network.architecture,
                "blocks": info.depth,
                "weights": info.weights_digest,
                "frontend": None if self.frontend is None else self.frontend.describe(),
                "mean": info.mean,
                "std": info.std,
                "num_prefix": info.num_prefix,
                "grid": info.grid,
                "eps": self._network.eps,
                "dtype": str(self._dtype),
            }
        )

    def features(self, images_01: Tensor, tap: Tap | None = None) -> Features:
        """Runs the network; see `ovbench.encoders.base.Encoder.features`."""
        check_images(images_01, self._info.input.size)
        return self._run(images_01, tap or Tap())

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Turns what `latents` returns into pictures, float32 [B, 3, H, W] in about [0, 1], unclamped.

        Args:
            latents: [B, C, h, w], taken at `info.latent_tap`: those of another tap cannot be told from them.

        Raises:
            ConfigError: The encoder has no decoder of its own, or the latents have another shape.
        """
        info = self._info
        if self.decoder is None:
            raise ConfigError(
                f"'{info.name}' has no decoder of its own", where="Encoder.decode", fix="train one: decoder: rae"
            )
        if latents.ndim != 4 or tuple(latents.shape[1:]) != (info.dim, *info.grid):
            raise ConfigError(
                f"latents must be [B, {info.dim}, {info.grid[0]}, {info.grid[1]}], got {list(latents.shape)}",
                where="Encoder.decode",
                fix="use what Encoder.latents returns",
            )
        with torch.autocast(self._device.type, enabled=False):
            x = self.decoder(latents.to(self._device, torch.float32).flatten(2).transpose(1, 2))
            if self.frontend is not None:
                x = self.frontend.decode(x)
            return x.float() * self._std + self._mean

    @torch.no_grad()
    def _run(self, images_01: Tensor, tap: Tap) -> Features:
        info = self._info
        index = _index(tap, info.depth)
        x = (images_01.to(self._device, torch.float32) - self._mean).div_(self._std)
        with torch.autocast(self._device.type, enabled=False):  # the caller's must not change the features
            if self.frontend is not None:
                x = self.frontend.encode(x)
            h, pooled = self._tapped(x.to(self._dtype), index)
            if tap.norm == "layernorm":
                h = F.layer_norm(h.float(), h.shape[-1:], eps=self._network.eps if tap.eps is None else tap.eps)
            elif tap.norm == "native" and tap.layer == "final":
                h = self._network.publish(h)
        num_tokens = info.grid[0] * info.grid[1]
        if h.ndim != 3 or h.shape[1] != info.num_prefix + num_tokens or h.shape[2] != info.dim:
            raise ConfigError(
                f"'{info.name}' declares {info.num_prefix} prefix tokens and a {info.grid[0]} x {info.grid[1]} grid of "
                f"width {info.dim}, and its layer {tap.layer} gives {list(h.shape)}",
                where="Network",
                fix="state the grid, the width and the number of class and register tokens as the model has them",
            )
        return Features(
            tokens=h[:, info.num_prefix :],
            prefix=h[:, : info.num_prefix] if tap.prefix else None,
            pooled=pooled if isinstance(pooled, Tensor) and pooled.ndim == 2 else None,
            grid=info.grid,
            tap=tap,
        )

    def _tapped(self, x: Tensor, index: int) -> tuple[Tensor, Any]:
        """Runs the network and returns h[index] and what `run` returned."""
        kept: list[Tensor] = []
        if not self._blocks:
            return self._network.run(x), None
        if index == 0:
            handle = self._blocks[0].register_forward_pre_hook(
                lambda _module, args, kwargs: kept.append(args[0] if args else next(iter(kwargs.values()))),
                with_kwargs=True,
            )
        else:
            handle = keep_output(self._blocks[index - 1], kept)
        try:
            pooled = self._network.run(x)
        finally:
            handle.remove()
        if len(kept) != 1:
            raise ConfigError(
                f"block {max(index - 1, 0)} of '{self._info.name}' ran {len(kept)} times instead of once",
                where="Network.run",
                fix="name the blocks that `run` calls, in their order",
            )
        return kept[0], pooled


def keep_output(block: nn.Module, kept: list[Tensor]) -> RemovableHandle:
    """Appends what a block returns (alone, or first in a tuple) to a list, until the handle is removed."""

    def keep(_module: nn.Module, _args: Any, out: Any) -> None:
        kept.append(out[0] if isinstance(out, tuple) else out)

    return block.register_forward_hook(keep)


def eps_of(*candidates: object) -> float:
    """Returns the epsilon of the first norm among some objects.

    Raises:
        DataError: None of them is a norm.
    """
    for candidate in candidates:
        if not isinstance(candidate, nn.Module) or "Norm" not in type(candidate).__name__:
            continue
        for name in ("eps", "variance_epsilon"):
            if isinstance(value := getattr(candidate, name, None), float):
                return value
    raise DataError(
        "the network has no norm to take an epsilon from",
        where="Network.eps",
        fix="write an adapter that states it: docs/add-an-encoder.md",
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _index(tap: Tap, depth: int) -> int:
    """Returns k of h[k].

    Raises:
        ConfigError: There is no such layer.
    """
    if tap.layer == "final":
        return depth
    if depth == 0:
        raise ConfigError("the network has no layers to tap", where="tap", fix="leave out layer=")
    index = int(tap.layer) if int(tap.layer) >= 0 else depth + 1 + int(tap.layer)
    if not 0 <= index <= depth:
        raise ConfigError(f"the tap layer {tap.layer} does not exist", where="tap", fix=f"use -{depth + 1} … {depth}")
    return index


def _compute_in(model: nn.Module, dtype: torch.dtype) -> None:
    """Casts the model, and keeps every norm in float32: its input is widened, its output narrowed again."""

    def widen(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(arg.float() if isinstance(arg, Tensor) and arg.is_floating_point() else arg for arg in args)

    def narrow(_module: nn.Module, _args: tuple[Any, ...], out: Any) -> Any:
        return out.to(dtype) if isinstance(out, Tensor) else out

    model.to(dtype)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | nn.GroupNorm) or type(module).__name__.endswith("RMSNorm"):
            module.float()
            module.register_forward_pre_hook(widen)
            module.register_forward_hook(narrow)
