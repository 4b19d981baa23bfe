from __future__ import annotations

import pytest
import torch
from torch import nn

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.projector import (
    build_projector,
    check_projector,
    projector_widths,
    stored_kind,
    stored_widths,
)


def test_mlp2x_gelu_is_linear_gelu_linear_with_the_references_keys() -> None:
    projector = build_projector("mlp2x_gelu", 6, 8, seed=0)
    assert set(projector.state_dict()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    x = torch.randn(2, 3, 6)
    state = projector.state_dict()
    hidden = nn.functional.gelu(x @ state["0.weight"].T + state["0.bias"])
    assert torch.allclose(projector(x), hidden @ state["2.weight"].T + state["2.bias"], atol=1e-6)


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_initialisation_depends_on_the_seed_alone(kind: str) -> None:
    torch.manual_seed(1)
    first = build_projector(kind, 6, 8, seed=3)  # type: ignore[arg-type]
    torch.manual_seed(2)
    second = build_projector(kind, 6, 8, seed=3)  # type: ignore[arg-type]
    other = build_projector(kind, 6, 8, seed=4)  # type: ignore[arg-type]
    for left, right in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(left, right)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


@pytest.mark.parametrize("kind", ["mlp2x_gelu", "linear"])
def test_kind_and_widths_are_read_off_the_module_and_its_tensors(kind: str) -> None:
    projector = build_projector(kind, 6, 8, seed=0)  # type: ignore[arg-type]
    state = projector.state_dict()
    assert projector_widths(projector) == stored_widths(state, where="here") == (6, 8)
    assert stored_kind(state, where="here") == kind
    check_projector(state, 6, 8, where="here")


@pytest.mark.parametrize(
    ("dim", "width", "text"),
    [
        (7, 8, "reads visual tokens of width 6, and the encoder's have 7"),
        (6, 9, "of width 8, and the language model's have 9"),
    ],
)
def test_other_widths_are_refused_with_both_numbers(dim: int, width: int, text: str) -> None:
    state = build_projector("mlp2x_gelu", 6, 8, seed=0).state_dict()
    with pytest.raises(DataError, match=text):
        check_projector(state, dim, width, where="here")


def test_unknown_projector_keys_are_named() -> None:
    with pytest.raises(DataError, match=r"of no known kind: layers\.0\.weight") as caught:
        stored_kind({"layers.0.weight": torch.ones(2, 2)}, where="here")
    assert "mlp2x_gelu" in caught.value.fix


def test_an_unknown_projector_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown projector 'mlp'"):
        build_projector("mlp", 6, 8, seed=0)  # type: ignore[arg-type]
