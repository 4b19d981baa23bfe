"""The network of FID: Inception v3 as TensorFlow released it in 2015, all layers that metrics read in one forward pass.

Parameters carry torchvision's and torch-fidelity's names, so that the published file loads strictly. The graph differs
from torchvision's: average pools leave the padding out, the pool branch of Mixed_7c is a max pool, BN has eps 1e-3.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import cache_dir
from ovbench.encoders.modeling.sources import check_finite, read_state

INPUT_PX = 299
NETWORK = "inception-2015-12-05"
SHA256_PREFIX = "6726825d"
WEIGHT_FILES = (f"weights-{NETWORK}-{SHA256_PREFIX}.pth", f"pt_{NETWORK}-{SHA256_PREFIX}.pth")
RANDOM = "random"  # instead of a path: seeded, untrained weights, for tests
LAYERS: Mapping[str, int] = MappingProxyType(
    {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008, "logits": 1008, "spatial_2023": 2023}
)
_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
_SPATIAL_CHANNELS = 7


class _Conv(nn.Module):
    """Convolution, batch norm and ReLU."""

    def __init__(self, width: int, spec: _C) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, spec.width, spec.kernel, spec.stride, spec.padding, bias=False)
        self.bn = nn.BatchNorm2d(spec.width, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _FoldedConv(nn.Conv2d):
    """Convolution, with the batch norm in its weights, and ReLU."""

    def forward(self, input: Tensor) -> Tensor:
        return F.relu_(super().forward(input))


@dataclass(frozen=True, slots=True)
class _C:
    """A convolution of a block."""

    name: str
    width: int
    kernel: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    stride: int = 1


@dataclass(frozen=True, slots=True)
class _Branch:
    """A branch of a block: a pool, a chain of convolutions, a fork of two whose outputs are joined."""

    chain: tuple[_C, ...] = ()
    fork: tuple[_C, ...] = ()
    pool: Literal["", "average", "max", "max, stride 2"] = ""


def _pool(kind: str, x: Tensor) -> Tensor:
    if kind == "average":  # TensorFlow leaves the padding out of the mean
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
    if kind == "max":
        return F.max_pool2d(x, 3, stride=1, padding=1)
    return F.max_pool2d(x, 3, stride=2) if kind else x


def _chain(name: str, *widths_kernels: tuple[int, int, int], stride: int = 1) -> tuple[_C, ...]:
    """Returns `name_1 … name_n`, padded to keep the size; a last one with a stride is not padded."""
    convs: list[_C] = []
    for index, (width, height_px, width_px) in enumerate(widths_kernels, start=1):
        last = index == len(widths_kernels) and stride > 1
        padding = (0, 0) if last else (height_px // 2, width_px // 2)
        convs.append(_C(f"{name}_{index}", width, (height_px, width_px), padding, stride if last else 1))
    return tuple(convs)


def _block_a(pool: int) -> tuple[_Branch, ...]:
    return (
        _Branch((_C("branch1x1", 64),)),
        _Branch(_chain("branch5x5", (48, 1, 1), (64, 5, 5))),
        _Branch(_chain("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3))),
        _Branch((_C("branch_pool", pool),), pool="average"),
    )


def _block_b() -> tuple[_Branch, ...]:
    return (
        _Branch((_C("branch3x3", 384, (3, 3), stride=2),)),
        _Branch(_chain("branch3x3dbl", (64, 1, 1), (96, 3, 3), (96, 3, 3), stride=2)),
        _Branch(pool="max, stride 2"),
    )


def _block_c(c: int) -> tuple[_Branch, ...]:
    return (
        _Branch((_C("branch1x1", 192),)),
        _Branch(_chain("branch7x7", (c, 1, 1), (c, 1, 7), (192, 7, 1))),
        _Branch(_chain("branch7x7dbl", (c, 1, 1), (c, 7, 1), (c, 1, 7), (c, 7, 1), (192, 1, 7))),
        _Branch((_C("branch_pool", 192),), pool="average"),
    )


def _block_d() -> tuple[_Branch, ...]:
    return (
        _Branch(_chain("branch3x3", (192, 1, 1), (320, 3, 3), stride=2)),
        _Branch(_chain("branch7x7x3", (192, 1, 1), (192, 1, 7), (192, 7, 1), (192, 3, 3), stride=2)),
        _Branch(pool="max, stride 2"),
    )


def _block_e(pool: Literal["average", "max"]) -> tuple[_Branch, ...]:
    def fork(name: str) -> tuple[_C, ...]:
        return _C(f"{name}a", 384, (1, 3), (0, 1)), _C(f"{name}b", 384, (3, 1), (1, 0))

    return (
        _Branch((_C("branch1x1", 320),)),
        _Branch(_chain("branch3x3", (384, 1, 1)), fork("branch3x3_2")),
        _Branch(_chain("branch3x3dbl", (448, 1, 1), (384, 3, 3)), fork("branch3x3dbl_3")),
        _Branch((_C("branch_pool", 192),), pool=pool),
    )


class _Mixed(nn.Module):
    """An Inception block: its branches side by side, joined along the channels."""

    def __init__(self, width: int, branches: tuple[_Branch, ...]) -> None:
        super().__init__()
        self.branches = branches
        self.pool_last: bool = False  # the average pool after its 1x1 convolution, which is the same and costs less
        self.out_width = 0
        for branch in branches:
            inner = width
            for spec in branch.chain:
                self.add_module(spec.name, _Conv(inner, spec))
                inner = spec.width
            for spec in branch.fork:
                self.add_module(spec.name, _Conv(inner, spec))
            self.out_width += sum(spec.width for spec in branch.fork) or inner

    def forward(self, x: Tensor) -> Tensor:
        outputs: list[Tensor] = []
        for branch in self.branches:
            if self.pool_last and branch.pool == "average":
                conv = self.get_submodule(branch.chain[0].name)
                assert isinstance(conv, nn.Conv2d)
                h = F.conv2d(x, conv.weight, conv.bias)
                outputs.append(F.relu_(_pool("average", h)))
                continue
            h = _pool(branch.pool, x)
            for spec in branch.chain:
                h = self.get_submodule(spec.name)(h)
            outputs += [self.get_submodule(spec.name)(h) for spec in branch.fork] or [h]
        return torch.cat(outputs, dim=1)


_STEM = (
    _C("Conv2d_1a_3x3", 32, (3, 3), stride=2),
    _C("Conv2d_2a_3x3", 32, (3, 3)),
    _C("Conv2d_2b_3x3", 64, (3, 3), (1, 1)),
    _C("Conv2d_3b_1x1", 80),
    _C("Conv2d_4a_3x3", 192, (3, 3)),
)
_BLOCKS: Mapping[str, tuple[_Branch, ...]] = {
    "Mixed_5b": _block_a(32), "Mixed_5c": _block_a(64), "Mixed_5d": _block_a(64), "Mixed_6a": _block_b(),
    "Mixed_6b": _block_c(128), "Mixed_6c": _block_c(160), "Mixed_6d": _block_c(160), "Mixed_6e": _block_c(192),
    "Mixed_7a": _block_d(), "Mixed_7b": _block_e("average"), "Mixed_7c": _block_e("max"),
}  # fmt: skip


class Inception(nn.Module):
    """The FID network, in evaluation mode.

    `forward` takes normalised pictures [B, 3, 299, 299] and gives every layer of `LAYERS` that is asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        width = 3
        for spec in _STEM:
            self.add_module(spec.name, _Conv(width, spec))
            width = spec.width
        for name, branches in _BLOCKS.items():
            block = _Mixed(width, branches)
            self.add_module(name, block)
            width = block.out_width
        self.fc = nn.Linear(width, 1008)
        self.eval().requires_grad_(False)

    def forward(self, x: Tensor, layers: Sequence[str] = tuple(LAYERS)) -> dict[str, Tensor]:
        """Returns layer → float32 [B, D].

        Args:
            x: [B, 3, 299, 299], (grey level - 128) / 128, in the network's type.
            layers: Of `LAYERS`; the network stops at the deepest.
        """
        out: dict[str, Tensor] = {}
        wanted = set(layers)

        def finished(**found: Tensor) -> bool:
            out.update((name, value.float()) for name, value in found.items() if name in wanted)
            return wanted == set(out)

        for spec in _STEM[:3]:
            x = self.get_submodule(spec.name)(x)
        x = F.max_pool2d(x, 3, stride=2)  # [B, 64, 73, 73]
        if finished(**{"64": _mean(x)}):
            return out
        for spec in _STEM[3:]:
            x = self.get_submodule(spec.name)(x)
        x = F.max_pool2d(x, 3, stride=2)  # [B, 192, 35, 35]
        if finished(**{"192": _mean(x)}):
            return out
        for name in _BLOCKS:
            x = self.get_submodule(name)(x)
            if name == "Mixed_6d":
                # ADM's `mixed_6/conv:0` is branch1x1, which comes first in the block's output; H, W, C order.
                maps = x[:, :_SPATIAL_CHANNELS].permute(0, 2, 3, 1)  # [B, 17, 17, 7]
                if finished(spatial_2023=maps.flatten(1)):
                    return out
            elif name == "Mixed_6e" and finished(**{"768": _mean(x)}):  # [B, 768, 17, 17]
                return out
        pool = _mean(x)  # [B, 2048]
        if finished(**{"2048": pool}):
            return out
        weight = self.fc.weight.float()
        unbiased = pool @ weight.T
        finished(logits_unbiased=unbiased, logits=unbiased + self.fc.bias.float())
        return out

    def fold(self) -> Inception:
        """Puts every batch norm into its convolution (in float64) and returns this network, which gives the same."""
        with torch.no_grad():
            for module in [self, *self.modules()]:
                for name, child in list(module.named_children()):
                    if isinstance(child, _Conv):
                        setattr(module, name, _folded(child))
        for module in self.modules():
            if isinstance(module, _Mixed):
                module.pool_last = True
        return self.eval().requires_grad_(False)


def _mean(x: Tensor) -> Tensor:
    return x.float().mean(dim=(2, 3))


def _folded(block: _Conv) -> _FoldedConv:
    conv, bn = block.conv, block.bn
    assert bn.running_var is not None
    assert bn.running_mean is not None
    scale = bn.weight.double() / torch.sqrt(bn.running_var.double() + bn.eps)
    kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
    out = _FoldedConv(conv.in_channels, conv.out_channels, kernel, stride, padding)  # type: ignore[arg-type]
    out.weight.copy_(conv.weight.double() * scale[:, None, None, None])
    assert out.bias is not None
    out.bias.copy_(bn.bias.double() - bn.running_mean.double() * scale)
    return out


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Switches TF32 off: a reported value is float32 throughout. torch has it on for cuDNN's convolutions."""
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = matmul, cudnn


def random_state() -> dict[str, Tensor]:
    """Returns the seeded, untrained weights of `tests/golden/inception_random.json`: for tests, never for a score."""
    state: dict[str, Tensor] = {}
    for key, like in Inception().state_dict().items():
        shape = tuple(like.shape)
        seed = int.from_bytes(hashlib.sha256(f"ovbench-inception-random-v1:{key}".encode()).digest()[:4], "little")
        n = np.random.RandomState(seed).standard_normal(shape)
        match key.rpartition(".")[2], key:
            case "num_batches_tracked", _:
                state[key] = torch.tensor(0)
                continue
            case "running_mean", _:
                value = 0.1 * n
            case "running_var", _:
                value = 1 + 0.2 * np.abs(n)
            case "bias", "fc.bias":
                value = 0.1 * n
            case "bias", _:
                value = 0.1 * n - 0.1
            case _, "fc.weight":
                value = n / np.sqrt(2048)
            case _ if key.endswith("bn.weight"):
                value = 1.2 * (1 + 0.1 * n)
            case _:
                value = n * np.sqrt(2 / np.prod(shape[1:]))
        state[key] = torch.from_numpy(np.asarray(value, dtype=np.float32))
    return state


def state_sha256(state: Mapping[str, Tensor]) -> str:
    """Returns sha256 over all names in order, each followed by the tensor's bytes."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class LoadedInception:
    """The network with what its weights are."""

    network: Inception
    sha256: str
    trained: bool  # False: seeded, untrained weights


def find_weights(path: str | Path | None = None) -> Path:
    """Returns the weights file: the one that was named, else one in ovbench's cache or in torch hub's folder.

    Raises:
        DataError: There is none.
    """
    if path is not None:
        return Path(path).expanduser()
    folders = (cache_dir() / "weights", Path(torch.hub.get_dir()) / "checkpoints")
    for folder in folders:
        for name in WEIGHT_FILES:
            if (folder / name).is_file():
                return folder / name
    raise DataError(
        f"the weights of the FID network are not on this machine: '{WEIGHT_FILES[0]}' "
        f"(sha256 begins with {SHA256_PREFIX})",
        where=" or ".join(str(folder) for folder in folders),
        fix=f"get {_URL}{WEIGHT_FILES[0]} and put it into {folders[0]}, or name the file: --weights PATH",
    )


def load_inception(weights: str | Path | None = None, *, fold: bool = True) -> LoadedInception:
    """Returns the network with the 2015 weights.

    Args:
        weights: A file; None: see `find_weights`; `random`: seeded, untrained weights.
        fold: Put the batch norms into the convolutions; without it the network is computed as it was published.

    Raises:
        DataError: The file is absent, damaged, or another network's.
        ConfigError: The file is of a kind that holds code.
    """
    if str(weights) == RANDOM:
        state = random_state()
        digest, where, trained = state_sha256(state), RANDOM, False
    else:
        path = find_weights(weights)
        if path.suffix.lower() in (".pkl", ".pickle"):
            raise ConfigError(
                f"'{path.name}' is a pickle, which can run code, and is not opened",
                where=str(path),
                fix=f"use {WEIGHT_FILES[0]}: the same network",
            )
        if not path.is_file():
            raise DataError(
                f"no such file '{path.name}'", where=str(path.parent), fix=f"name the file {WEIGHT_FILES[0]}"
            )
        digest, where, trained = file_sha256(path), str(path), True
        if not digest.startswith(SHA256_PREFIX):
            raise DataError(
                f"'{path.name}' is not the FID network: sha256 {digest[:12]}…, expected {SHA256_PREFIX}…",
                where=where,
                fix=f"get {_URL}{WEIGHT_FILES[0]}; torchvision's own Inception is another network",
            )
        state = read_state(path)
    with torch.device("meta"):
        network = Inception()
    network = network.to_empty(device="cpu")
    _load_strict(network, state, where)
    check_finite(network, where=where)
    if fold:
        network.fold()
    return LoadedInception(network=network.to(memory_format=torch.channels_last), sha256=digest, trained=trained)


def _load_strict(network: Inception, state: Mapping[str, Tensor], where: str) -> None:
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or extra or other:
        raise DataError(
            f"the weights do not fit the FID network: {len(missing)} tensors missing, {len(extra)} unknown, "
            f"{len(other)} of another shape, first '{(missing + extra + sorted(other))[0]}'",
            where=where,
            fix=f"use {WEIGHT_FILES[0]}",
        )
    network.load_state_dict(dict(state))
