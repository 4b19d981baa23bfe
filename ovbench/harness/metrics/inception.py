"""The network of FID: Inception v3 as TensorFlow released it in 2015, all layers that metrics read in one forward pass.

Parameters carry torchvision's and torch-fidelity's names, so that the published file loads strictly. The graph differs
from torchvision's: average pools leave the padding out, the pool branch of Mixed_7c is a max pool, BN has eps 1e-3.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT_PX = 299
NETWORK = "inception-2015-12-05"
LAYERS: Mapping[str, int] = MappingProxyType(
    {"64": 64, "192": 192, "768": 768, "2048": 2048, "logits_unbiased": 1008, "logits": 1008, "spatial_2023": 2023}
)
_SPATIAL_CHANNELS = 7
# torch's own compiler calls this operator; where a build of torch lacks it, the plain convolution is taken.
HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_convolution_pointwise")
_POINTWISE: Any = torch.ops.mkldnn._convolution_pointwise if HAS_ONEDNN else None


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

    def forward(self, input: Tensor, relu: bool = True) -> Tensor:
        if input.device.type == "cpu" and HAS_ONEDNN:
            # oneDNN with the ReLU in the same pass. Asked through `conv2d`, torch takes a slow kernel of its own for
            # small batches on one thread.
            kind, stride, padding = "relu" if relu else "none", list(self.stride), [int(p) for p in self.padding]
            return _POINTWISE(input, self.weight, self.bias, padding, stride, [1, 1], 1, kind, [], "")
        out = super().forward(input)
        return F.relu_(out) if relu else out


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
                outputs.append(F.relu_(_pool("average", conv(x, relu=False))))
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

    def channels_last(self) -> Inception:
        """Lays the convolutions' weights out as H, W, C, which is the faster order, and returns this network."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last)
        return self


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
