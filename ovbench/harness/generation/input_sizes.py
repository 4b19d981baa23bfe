"""Which input an encoder gets under a recipe, and how its latents become tokens. Needs its facts alone, no weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ovbench._base.errors import ConfigError
from ovbench.encoders.base import EncoderInfo
from ovbench.encoders.registry import EncoderSpec, with_options
from ovbench.harness.generation.recipe_config import GenerationRecipe


class HasInfo(Protocol):
    """An encoder, or what is known of one."""

    @property
    def info(self) -> EncoderInfo:
        """Its facts."""
        ...


T = TypeVar("T", bound=HasInfo)


def at_the_grid(spec: EncoderSpec, recipe: GenerationRecipe, load: Callable[[EncoderSpec], T]) -> T:
    """Returns an encoder at the input size that makes the recipe's grid; a size that the user asked for stays.

    A VAE reads the pictures as they are, and its latents are folded to the grid: see `input_px`.

    Args:
        spec: The encoder.
        recipe: The protocol's `generation` section.
        load: Makes an encoder, or a stand-in that has its facts, of a spec.

    Raises:
        ConfigError: It cannot make that grid, or its latents are no square.
    """
    found = load(spec)
    side = input_px(found.info, recipe)
    if "size" not in spec.options and found.info.input.size != (side, side):
        try:
            found = load(with_options(spec, size=str(side)))
        except ConfigError as error:
            raise ConfigError(
                f"{spec.name} cannot read {side} x {side} pixels, which make the protocol's {recipe.grid} x "
                f"{recipe.grid} tokens: {error.what}",
                where="--encoder",
                fix=error.fix or "ask for another input size: --encoder NAME?size=PIXELS",
            ) from error
    height, width = found.info.grid
    if height != width:
        raise ConfigError(
            f"the latents of {spec.name} are no square: {height} x {width}",
            where="--encoder",
            fix="give it a square input: --encoder NAME?size=PIXELS",
        )
    return found


def is_finer(info: EncoderInfo, recipe: GenerationRecipe) -> bool:
    """Whether an encoder that decodes its latents makes more tokens of the recipe's pictures than the grid has: a VAE.

    Its latents are folded to the grid. OpenVision 3's own decoder reads tokens of the grid, and nothing is folded.
    """
    return info.supports_decode and recipe.grid * info.patch_px < recipe.data.image_px


def input_px(info: EncoderInfo, recipe: GenerationRecipe) -> int:
    """Returns the input side in pixels that makes the recipe's grid, or that of the pictures where tokens are finer."""
    return recipe.data.image_px if is_finer(info, recipe) else recipe.grid * info.patch_px


def fold_of(info: EncoderInfo, recipe: GenerationRecipe) -> int:
    """Returns how many cells along a side of the latents become channels of one token; 1: none.

    Raises:
        ConfigError: The latents cannot be folded to the recipe's grid.
    """
    side = info.grid[0]
    if not is_finer(info, recipe) or side <= recipe.grid:
        return 1
    if side % recipe.grid:
        raise ConfigError(
            f"{side} x {side} cells cannot be folded to {recipe.grid} x {recipe.grid}",
            where="--encoder",
            fix=f"give it a size that makes a multiple of {recipe.grid} cells along a side: --encoder NAME?size=PIXELS",
        )
    return side // recipe.grid


def is_native(info: EncoderInfo, recipe: GenerationRecipe) -> bool:
    """Whether the encoder decodes its own latents under the recipe, so that no decoder is trained.

    Raises:
        ConfigError: It must and has no decoder, or it decodes to pictures of another size than the recipe's.
    """
    kind = recipe.decoder.kind
    if kind == "native" and not info.supports_decode:
        raise ConfigError(f"{info.name} has no decoder of its own", where="generation.decoder.kind")
    native = kind == "native" or (kind == "auto" and info.supports_decode)
    px, wanted = info.input.size, recipe.data.image_px
    if native and px != (wanted, wanted):
        raise ConfigError(
            f"{info.name} decodes to {px[0]} x {px[1]} pixels, and the protocol's pictures have {wanted}",
            where="--encoder …?size=",
            fix=f"use size={wanted}, or a protocol with decoder.kind rae, which trains a decoder of the right size",
        )
    return native
