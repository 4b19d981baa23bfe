"""What RAE's own encoder classes gave (tests/golden/rae_encoders_tiny.json says how) comes out of our latents."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovbench.encoders.base import Encoder, Tap
from ovbench.encoders.registry import load_encoder
from tests.conftest import GOLDEN
from tests.encoders.layouts_hf import processor

# encoder, key prefix of the hub's files, and the size of its configuration
FAMILIES = {"dinov2": ("dinov2/base-reg", "", 56), "siglip": ("siglip2/base-256", "vision_model.", 32),
            "mae": ("mae/base-256", "vit.", 32)}  # fmt: skip
CASES = ["dinov2_56", "dinov2_84", "siglip_32", "siglip_48", "mae_32", "mae_48"]


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    return load_file(GOLDEN / "rae_encoders_tiny.safetensors")


def _write(folder: Path, family: str, golden: dict[str, Tensor], low: float, high: float) -> None:
    """Writes the folder as the hub has it, normalising so that [0, 1] becomes the golden pixels' range [low, high]."""
    _, prefix, px = FAMILIES[family]
    config = json.loads((GOLDEN / "rae_encoders_tiny.json").read_text(encoding="utf-8"))["config"][family]
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    head = f"sd.{family}."
    state = {f"{prefix}{key.removeprefix(head)}": value for key, value in golden.items() if key.startswith(head)}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    mean, std = -low / (high - low), 1.0 / (high - low)
    content = processor(px, image_mean=[mean] * 3, image_std=[std] * 3)
    (folder / "preprocessor_config.json").write_text(json.dumps(content), encoding="utf-8")


def _load(folder: Path, case: str, golden: dict[str, Tensor]) -> tuple[Encoder, Tensor]:
    """Returns our encoder of a golden case, and its pictures in [0, 1]."""
    family, _, size = case.partition("_")
    pixels = golden[f"in.{case}"]
    low, high = float(pixels.min()), float(pixels.max())
    _write(folder, family, golden, low, high)
    spec, _, native = FAMILIES[family]
    options = "" if int(size) == native else f"?size={size}"
    return load_encoder(f"{spec}:{folder}{options}"), ((pixels - low) / (high - low)).clamp(0.0, 1.0)


@pytest.mark.parametrize("case", CASES)
def test_latents_are_raes_features(tmp_path: Path, golden: dict[str, Tensor], case: str) -> None:
    encoder, images = _load(tmp_path, case, golden)
    expected = golden[f"out.{case}"]
    rows, columns = encoder.info.grid
    latents = encoder.latents(images)
    assert latents.shape == (2, 32, rows, columns)
    torch.testing.assert_close(latents, expected.transpose(1, 2).reshape(latents.shape), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("case", CASES)
def test_the_published_tokens_are_another_thing(tmp_path: Path, golden: dict[str, Tensor], case: str) -> None:
    encoder, images = _load(tmp_path, case, golden)
    for tap in (Tap(), Tap(norm="none"), Tap(layer=-2, norm="layernorm")):
        assert not torch.allclose(encoder.features(images, tap).tokens, golden[f"out.{case}"], atol=0.05)
