"""Which input an encoder gets under a recipe, from its facts alone: the same for a plan and for a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from ovbench._base.errors import ConfigError
from ovbench.encoders.registry import EncoderSpec, parse_encoder
from ovbench.harness.generation.input_sizes import at_the_grid, fold_of, input_px, is_native
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.protocols import load_protocol


def recipe(kind: str = "auto") -> GenerationRecipe:
    """Of pictures of 32 px and a grid of 4 x 4."""
    section = dict(load_protocol("mini-smoke").section("generation"))
    section["decoder"] = {**section["decoder"], "kind": kind}
    return read_recipe(section, where="test")


def facts(px: int, patch_px: int, *, decodes: bool = False, grid: tuple[int, int] | None = None) -> Any:
    return SimpleNamespace(
        name="toy",
        input=SimpleNamespace(size=(px, px)),
        patch_px=patch_px,
        grid=grid or (px // patch_px, px // patch_px),
        supports_decode=decodes,
    )


def loader(asked: list[int], patch_px: int = 8, **settings: Any) -> Any:
    """Loads toys at 64 px, or at the size of the spec, which it notes."""

    def load(spec: EncoderSpec) -> Any:
        px = int(spec.options.get("size", 64))
        asked.append(px)
        return SimpleNamespace(info=facts(px, patch_px, **settings))

    return load


@pytest.mark.parametrize(
    ("text", "settings", "asked"),
    [
        ("clip/mini", {}, [64, 32]),
        ("clip/mini?size=64", {}, [64]),  # what the user asked for stays
        ("clip/mini", {"patch_px": 16}, [64]),  # it makes the grid as it is
        ("vae/mini", {"patch_px": 4, "decodes": True}, [64, 32]),  # it reads the pictures
    ],
)
def test_input_makes_the_grid(text: str, settings: dict[str, Any], asked: list[int]) -> None:
    found: list[int] = []
    made = at_the_grid(parse_encoder(text), recipe(), loader(found, **settings))
    assert found == asked
    assert made.info.input.size == (asked[-1], asked[-1])


def test_a_size_that_the_encoder_cannot_read_is_said_with_the_grid() -> None:
    def load(spec: EncoderSpec) -> Any:
        if "size" in spec.options:
            raise ConfigError("it reads 64 alone", where="size")
        return SimpleNamespace(info=facts(64, 8))

    with pytest.raises(ConfigError, match="cannot read 32 x 32 pixels.* 4 x 4 tokens: it reads 64 alone") as caught:
        at_the_grid(parse_encoder("clip/mini"), recipe(), load)
    assert caught.value.where == "--encoder"


def test_latents_that_are_no_square_are_refused() -> None:
    with pytest.raises(ConfigError, match="no square: 2 x 8"):
        at_the_grid(parse_encoder("clip/mini"), recipe(), loader([], grid=(2, 8)))


@pytest.mark.parametrize(
    ("info", "fold", "px"),
    [
        (facts(32, 4, decodes=True), 2, 32),
        (facts(32, 8, decodes=True), 1, 32),
        (facts(32, 4), 1, 16),  # it decodes nothing, so it reads less instead
    ],
)
def test_latents_that_are_finer_than_the_grid_are_folded(info: Any, fold: int, px: int) -> None:
    assert fold_of(info, recipe()) == fold
    assert input_px(info, recipe()) == px


def test_cells_that_do_not_fold_are_refused() -> None:
    with pytest.raises(ConfigError, match="6 x 6 cells cannot be folded to 4 x 4"):
        fold_of(facts(36, 6, decodes=True), recipe())


@pytest.mark.parametrize(
    ("kind", "decodes", "native"),
    [("auto", True, True), ("auto", False, False), ("native", True, True), ("rae", True, False)],
)
def test_kind_of_decoder_decides_with_what_the_encoder_can(kind: str, decodes: bool, native: bool) -> None:
    assert is_native(facts(32, 8, decodes=decodes), recipe(kind)) is native


def test_native_decoder_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="toy has no decoder of its own"):
        is_native(facts(32, 8), recipe("native"))


def test_native_decoder_of_another_size_is_refused() -> None:
    with pytest.raises(ConfigError, match="decodes to 64 x 64 pixels, and the protocol's pictures have 32"):
        is_native(facts(64, 8, decodes=True), recipe())
