"""Frozen features are stored once and read back by image id."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ovbench._base.errors import DataError
from ovbench.encoders.base import Tap
from ovbench.encoders.modeling.tokens import TokenEncoder
from ovbench.encoders.registry import load_encoder
from ovbench.harness.features import FeatureStore, encode_images

IDS = tuple(f"i{number}" for number in range(7))


def image(name: str) -> np.ndarray:
    return np.random.default_rng(int(name[1:])).integers(0, 256, (64, 64, 3), np.uint8)


def test_rows_come_back_by_id_in_any_order(tmp_path: Path) -> None:
    encoder = load_encoder("random")
    encode_images(encoder, IDS, image, tmp_path, batch_size=3, dtype=torch.float32)
    store = FeatureStore(tmp_path)
    assert (store.dim, store.num_tokens) == (128, 64)
    from PIL import Image

    expected = encoder.llm_tokens(encoder.prepare(Image.fromarray(image("i5")))[None])
    torch.testing.assert_close(store(["i0", "i5"])[1:], expected, atol=1e-5, rtol=1e-5)


def test_the_batch_size_changes_nothing(tmp_path: Path) -> None:
    for size in (1, 7):
        (tmp_path / str(size)).mkdir()
        encode_images(load_encoder("random"), IDS, image, tmp_path / str(size), batch_size=size, dtype=torch.float32)
    one, seven = (FeatureStore(tmp_path / str(size))(IDS) for size in (1, 7))
    torch.testing.assert_close(one, seven, atol=1e-5, rtol=1e-5)


def test_features_that_are_nan_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: TokenEncoder, images: torch.Tensor, tap: Tap | None = None) -> torch.Tensor:
        return torch.full((len(images), 64, 128), float("nan"))

    monkeypatch.setattr(TokenEncoder, "llm_tokens", broken)
    with pytest.raises(DataError, match="NaN"):
        encode_images(load_encoder("random"), IDS, image, tmp_path)
