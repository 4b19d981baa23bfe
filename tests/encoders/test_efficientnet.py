"""A real pretrained network: its published numbers, and that it knows garments better than its untrained twin."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.modeling import efficientnet
from ovbench.encoders.preprocess import u8_to_01
from ovbench.encoders.registry import load_encoder
from ovbench.testing import check_encoder

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def golden() -> dict[str, Any]:
    return json.loads((ROOT / "tests" / "golden" / "effnet_lite0_features.json").read_text())


def _pictures(side: int) -> np.ndarray:
    """The four pictures of the golden file: noise, blocks, a ramp, rings (its recipe, `images`)."""
    draw = np.random.RandomState(0)
    noise = draw.randint(0, 256, (side, side, 3))
    cells = draw.randint(0, 256, (-(-side // 16), -(-side // 16), 3))
    blocks = cells.repeat(16, axis=0).repeat(16, axis=1)[:side, :side]
    y, x = np.mgrid[:side, :side]
    ramp = np.stack([255 * x // (side - 1), 255 * y // (side - 1), 255 * (x + y) // (2 * side - 2)], axis=-1)
    q = 200 * ((((y - side // 2) ** 2 + (x - side // 2) ** 2) // 97) % 2) + 30
    rings = np.stack([q, 255 - q, (3 * x + 5 * y) % 256], axis=-1)
    return np.stack([noise, blocks, ramp, rings]).astype(np.uint8)


def test_the_features_are_the_published_ones(golden: dict[str, Any]) -> None:
    encoder = load_encoder("efficientnet")
    pooled = encoder.features(u8_to_01(_pictures(224))).tokens.double().mean(dim=1)
    wanted = golden["float64"]["pool_1280"]
    assert list(pooled.shape) == wanted["shape"]
    assert float(pooled.norm()) == pytest.approx(wanted["l2_norm"], rel=1e-5)
    assert float(pooled.sum()) == pytest.approx(wanted["sum"], rel=1e-5)
    first = torch.tensor(wanted["first8_per_image"], dtype=torch.float64)
    assert float((pooled[:, :8] - first).norm() / first.norm()) < 1e-5


def test_it_fulfils_the_contract() -> None:
    report = check_encoder("efficientnet?size=160")
    report.raise_if_failed()
    assert report["locality-latents"].outcome == "passed"


def test_a_grid_of_two_cells_a_side_is_not_judged() -> None:
    assert check_encoder("efficientnet?size=64")["locality"].outcome == "skipped"


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("nearest_neighbours", ROOT / "scripts" / "nearest_neighbours.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_nearest_neighbours_are_garments_of_a_kind_more_often_than_those_of_its_untrained_twin() -> None:
    trained, random = "efficientnet?size=64", "efficientnet?size=64&weights=random:0"
    result = _script().measure([trained, random], per_class=40, num_test=25, k=5, batch_size=40)
    found = {name: entry["accuracy"] for name, entry in result["encoders"].items()}
    assert found[trained] > 0.75
    assert found[trained] > found[random] + 0.03


def test_a_size_that_is_no_multiple_of_the_stride_is_refused() -> None:
    with pytest.raises(ConfigError, match="no multiple of 32") as caught:
        load_encoder("efficientnet?size=100")
    assert caught.value.fix == "use 96"


def test_a_layer_is_refused_because_it_has_none() -> None:
    with pytest.raises(ConfigError, match="no layers to tap"):
        load_encoder("efficientnet?size=64&layer=-2")


def test_weights_that_are_not_the_published_ones_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(efficientnet, "SHA256", "0" * 64)
    with pytest.raises(DataError, match="damaged") as caught:
        load_encoder("efficientnet?size=64")
    assert "force-reinstall" in caught.value.fix
