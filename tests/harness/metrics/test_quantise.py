"""Floating-point pictures become 8 bits exactly as each program makes them."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.quantise import quantise_01, quantise_pm1
from tests.harness.metrics.fid_data import GOLDEN

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
ROUNDING = json.loads((GOLDEN / "rae_misc.json").read_text(encoding="utf-8"))["rounding"]["values"]
FUNCTIONS: dict[str, Callable[..., Any]] = {"01": quantise_01, "pm1": quantise_pm1}
WAYS = ("truncate", "round")


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_truncation_gives_raes_golden_grey_levels(kind: str) -> None:
    values, wanted = np.array(ROUNDING, dtype=np.float32).T
    images: Any = torch.from_numpy(values) if kind == "torch" else values
    assert quantise_01(images, "truncate").tolist() == wanted.tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_way_equals_its_program_bit_for_bit(dtype: str) -> None:
    x = torch.linspace(-1.2, 1.2, 200_001, dtype=getattr(torch, dtype))
    programs = {
        ("01", "truncate"): x.clamp(0, 1).mul(255).to(torch.uint8),  # RAE
        ("01", "round"): x.mul(255).add(0.5).clamp(0, 255).to(torch.uint8),  # torchvision
        ("pm1", "truncate"): ((x + 1) * 127.5).clamp(0, 255).to(torch.uint8),  # guided-diffusion
        ("pm1", "round"): (x * 127.5 + 128).clip(0, 255).to(torch.uint8),  # EDM
    }
    for (values, how), wanted in programs.items():
        assert torch.equal(FUNCTIONS[values](x, how), wanted)
        assert np.array_equal(FUNCTIONS[values](x.numpy(), how), wanted.numpy())


@pytest.mark.parametrize("values", FUNCTIONS)
@pytest.mark.parametrize("how", WAYS)
def test_oracle_agrees(values: str, how: str) -> None:
    images = np.random.default_rng(0).uniform(-1.3, 1.3, (2, 3, 5, 4))
    found = FUNCTIONS[values](images, how)
    assert found.dtype == np.uint8
    assert np.array_equal(found, ORACLE.quantise(images, low={"01": 0.0, "pm1": -1.0}[values], how=how))


@pytest.mark.parametrize("how", WAYS)
def test_whole_grey_levels_survive_in_both_ranges(how: Any) -> None:
    levels = np.arange(256, dtype=np.uint8)
    assert np.array_equal(quantise_01(levels / 255 + 1e-9, how), levels)
    assert np.array_equal(quantise_pm1(levels / 127.5 - 1 + 1e-9, how), levels)


def test_the_two_ways_differ_by_half_a_level_on_average() -> None:
    x = np.random.default_rng(0).random(100_000)
    gap = quantise_01(x, "round").astype(int) - quantise_01(x, "truncate")
    assert set(gap.tolist()) == {0, 1}
    assert gap.mean() == pytest.approx(0.5, abs=0.01)


def test_the_range_is_not_guessed() -> None:
    dark = np.array([0.0, 0.25, 0.5])  # lies in both ranges
    assert quantise_01(dark, "truncate").tolist() == [0, 63, 127]
    assert quantise_pm1(dark, "truncate").tolist() == [127, 159, 191]
    assert quantise_01(np.array([200.0]), "truncate").tolist() == [255]  # not taken for grey levels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_widened_first(dtype: torch.dtype) -> None:
    x = torch.rand(500, generator=torch.Generator().manual_seed(0)).to(dtype)
    for how in WAYS:
        assert torch.equal(quantise_01(x, how), quantise_01(x.float(), how))
        assert torch.equal(quantise_pm1(x, how), quantise_pm1(x.float(), how))
    half = x.to(torch.float16).numpy()
    assert np.array_equal(quantise_01(half, "round"), quantise_01(half.astype(np.float32), "round"))


def test_the_input_is_left_as_it_is() -> None:
    images = torch.linspace(-2, 2, 9)
    before = images.clone()
    quantise_pm1(images, "round")
    quantise_01(images, "truncate")
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_values_that_are_not_finite_are_refused(name: str, bad: float, kind: str) -> None:
    images: Any = np.zeros((2, 4, 4, 3), dtype=np.float32)
    images[1, 2, 3] = bad
    with pytest.raises(DataError, match="3 of 96 values are NaN or infinite") as caught:
        FUNCTIONS[name](torch.from_numpy(images) if kind == "torch" else images, "truncate")
    assert caught.value.where == f"images_{name}"


def test_integers_and_unknown_ways_are_refused() -> None:
    for images in (np.zeros(3, dtype=np.uint8), torch.zeros(3, dtype=torch.uint8)):
        with pytest.raises(DataError, match=r"must be floating-point, got (torch\.)?uint8") as caught:
            quantise_01(images, "round")  # type: ignore[type-var]
        assert "scored as they are" in caught.value.fix
    how: Any = "rounded"
    with pytest.raises(ConfigError, match="unknown quantisation 'rounded'") as refused:
        quantise_pm1(np.zeros(3), how)
    assert "did you mean 'round'?" in refused.value.fix
