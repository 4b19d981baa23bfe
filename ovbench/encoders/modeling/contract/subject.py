"""What a check is given: the encoder, pictures, and whatever modules can be seen in it. Holds no check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench._base.errors import OvbenchError
from ovbench.encoders.base import Encoder, EncoderInfo, Tap
from ovbench.encoders.modeling.frozen import weights_digest

# Largest relative difference between two batches that hold the same picture (`relative_difference`). float32: the
# contract's own bound. The others are rounding: the unit roundoff of the type times about 16 sums in a row.
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 8e-2}


class Failure(Exception):
    """The adapter breaks the contract; the text says what was seen and which fault is likely."""


class Skip(Exception):
    """The promise cannot be looked at from outside; the text says why."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One encoder under test."""

    encoder: Encoder
    pictures: Tensor  # float32 [B, 3, H, W] in [0, 1]
    seed: int
    modules: dict[str, nn.Module]  # every module that was found in the encoder, by name, without repetition
    digest: str | None  # of the weights before the first call; None where no module was found
    rebuild: Callable[[], Encoder] | None = None
    with_random_weights: Callable[[int], Encoder] | None = None
    no_random_weights: str = ""  # why `with_random_weights` is None

    @property
    def info(self) -> EncoderInfo:
        """What the encoder declares."""
        return self.encoder.info

    @property
    def images(self) -> Tensor:
        """The pictures, float32 [B, 3, H, W]: a copy, so an adapter that writes into them spoils no other check."""
        return self.pictures.clone()

    @property
    def num_tokens(self) -> int:
        """Tokens of the grid, N."""
        return self.info.grid[0] * self.info.grid[1]

    def tokens(self, images_01: Tensor, tap: Tap | None = None) -> Tensor:
        """Returns the grid tokens [B, N, C] in their own type, on the CPU."""
        return self.encoder.features(images_01, tap).tokens.detach().cpu()

    def need_modules(self) -> dict[str, nn.Module]:
        """Returns the modules, or skips the check."""
        if not self.modules:
            raise Skip("the encoder shows no torch module: neither itself nor one of its attributes is one")
        return self.modules

    @cached_property
    def tolerance(self) -> float:
        """The bound for the coarsest type the network computes in, as far as it can be seen."""
        types = {self.tokens(self.images[:1]).dtype}
        types |= {parameter.dtype for module in self.modules.values() for parameter in module.parameters(recurse=False)}
        return max(TOLERANCES.get(dtype, 1e-4) for dtype in types)


def modules_of(encoder: object) -> dict[str, nn.Module]:
    """Returns every module of an encoder, which may itself be a plain object that holds modules or another encoder."""
    found: dict[str, nn.Module] = {}
    seen: set[int] = set()

    def visit(value: object, name: str) -> None:
        if id(value) in seen:
            return
        if isinstance(value, list | tuple | dict):
            seen.add(id(value))
        if isinstance(value, nn.Module):
            for inner, module in value.named_modules():
                if id(module) not in seen:
                    seen.add(id(module))
                    found[f"{name}.{inner}".strip(".") or type(module).__name__] = module
        elif isinstance(value, list | tuple):
            for index, part in enumerate(value):
                visit(part, f"{name}.{index}".strip("."))
        elif isinstance(value, dict):
            for key, part in value.items():
                visit(part, f"{name}.{key}".strip("."))
        elif isinstance(value, Encoder):
            seen.add(id(value))
            for attribute, part in getattr(value, "__dict__", {}).items():
                visit(part, f"{name}.{attribute}".strip("."))

    visit(encoder, "")
    return found


def digest_of(modules: dict[str, nn.Module]) -> str | None:
    """Returns the digest of all weights and buffers; None without modules."""
    children = {id(child) for module in modules.values() for child in module.children()}
    roots = [module for module in modules.values() if id(module) not in children]
    return weights_digest(*roots) if roots else None


def make_pictures(count: int, size: tuple[int, int], seed: int) -> Tensor:
    """Returns seeded pictures, float32 [B, 3, H, W] in [0, 1]: smooth shapes with grain, different in every row."""
    generator = torch.Generator().manual_seed(seed)
    smooth = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=size, mode="bilinear")
    return (0.7 * smooth + 0.3 * torch.rand(count, 3, *size, generator=generator)).clamp(0.0, 1.0)


def relative_difference(got: Tensor, wanted: Tensor) -> float:
    """Returns the largest |got - wanted| / (rms(wanted) + |wanted|); infinite where either is not a number."""
    got, wanted = got.detach().double().cpu(), wanted.detach().double().cpu()
    difference = (got - wanted).abs() / (wanted.square().mean().sqrt() + wanted.abs()).clamp_min(1e-12)
    return float(difference.nan_to_num(nan=float("inf")).max()) if difference.numel() else 0.0


def refusal(call: Callable[[], Any]) -> OvbenchError | Exception | None:
    """Returns what a call raised; None where it was accepted."""
    try:
        call()
    except Exception as error:  # which kind is what the checks look at
        return error
    return None


def offers_llm_tokens(subject: Subject) -> bool:
    """Returns whether the encoder is offered to a language model; a VAE (no blocks) may refuse to be."""
    if subject.info.depth:
        return True
    return not isinstance(refusal(lambda: subject.encoder.llm_tokens(subject.images[:1])), OvbenchError)


@contextmanager
def hooks(handles: list[Any]) -> Iterator[None]:
    """Takes the hooks away again, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
