"""Miniature encoders on pictures smaller than a scene: the positions of the upper left corner."""

from __future__ import annotations

import pytest
import torch

from ovbench._base.errors import ConfigError
from ovbench.encoders.registry import load_encoder, parse_encoder


def encoder(text: str):
    return load_encoder(parse_encoder(text, protocol="mini"))


@pytest.mark.parametrize("name", ["ovis3/mini", "clip/mini", "siglip/mini", "random/mini"])
def test_a_quarter_of_a_scene_has_a_quarter_of_the_tokens(name: str) -> None:
    small = encoder(f"{name}?size=32")
    assert small.info.input.size == (32, 32)
    assert small.info.grid == (4, 4)
    assert small.latents(torch.rand(2, 3, 32, 32)).shape == (2, 128, 4, 4)


def test_its_tokens_have_the_positions_of_the_upper_left_quadrant() -> None:
    whole, small = encoder("random/mini"), encoder("random/mini?size=32")
    tables = [network.state_dict()["model.positional_embedding"] for network in (whole, small)]  # pyright: ignore
    rows = [0, *(1 + 8 * row + column for row in range(4) for column in range(4))]
    assert torch.equal(tables[0][rows], tables[1])


def test_everything_but_the_positions_is_the_same_network() -> None:
    whole, small = encoder("clip/mini"), encoder("clip/mini?size=32")
    a, b = whole.state_dict(), small.state_dict()  # pyright: ignore
    assert set(a) == set(b)
    assert all(torch.equal(a[key], b[key]) for key in a if not key.endswith("positional_embedding"))
    assert whole.fingerprint() != small.fingerprint()


@pytest.mark.parametrize(("size", "word"), [(20, "no whole number"), (4, "no whole number"), (128, "were asked for")])
def test_a_size_that_cannot_be_is_refused(size: int, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        encoder(f"clip/mini?size={size}")
