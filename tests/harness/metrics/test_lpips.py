"""LPIPS equals torchmetrics' own class and the paper's formula in loops, and never fetches its network."""

from __future__ import annotations

import runpy
import types
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError, DependencyError
from ovbench._base.lazy import require
from ovbench.harness.metrics import lpips as lpips_module
from ovbench.harness.metrics.lpips import HEADS_SHA256, SHA256_PREFIX, WEIGHTS_FILE, Lpips, find_weights, load_lpips
from tests.harness.metrics.fid_data import golden_pictures

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
X = golden_pictures("64")
Y = np.clip(X.astype(int) + np.random.default_rng(0).normal(0, 30, X.shape), 0, 255).astype(np.uint8)


def _library() -> types.ModuleType:
    require("torchvision")
    return require("torchmetrics.functional.image.lpips")


@pytest.fixture(scope="module")
def untrained() -> Lpips:
    return load_lpips("random")


@pytest.fixture(scope="module")
def state(untrained: Lpips) -> dict[str, torch.Tensor]:
    """The seeded VGG16 under its published keys."""
    tensors = untrained.network.state_dict()
    return {f"features.{key.split('.', 2)[2]}": value for key, value in tensors.items() if key.startswith("net.")}


@pytest.fixture
def own_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets files pass that are not the published one."""
    monkeypatch.setattr(lpips_module, "SHA256_PREFIX", "")


@pytest.fixture
def theirs(monkeypatch: pytest.MonkeyPatch, state: dict[str, torch.Tensor]) -> Iterator[Any]:
    """torchmetrics' public class, which is given the seeded network in place of the one that it would fetch."""
    library, torchvision = _library(), require("torchvision")
    asked: list[tuple[str, bool]] = []

    def features(net: str, pretrained: bool = False) -> torch.nn.Module:
        asked.append((net, pretrained))
        with torch.device("meta"):
            layers = torchvision.models.vgg16(weights=None).features
        layers.load_state_dict({key.removeprefix("features."): value for key, value in state.items()}, assign=True)
        return layers

    monkeypatch.setattr(library, "_get_tv_model_features", features)
    image = require("torchmetrics.image.lpip")
    yield lambda reduction: image.LearnedPerceptualImagePatchSimilarity(
        net_type="vgg", normalize=True, reduction=reduction
    )
    assert asked == [("vgg16", True)]


def test_torchmetrics_agrees_side_by_side(untrained: Lpips, theirs: Any) -> None:
    metric = theirs("none")
    first, second = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 for images in (X, Y))
    found = untrained(X, Y)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, metric(first, second).numpy(), rtol=1e-6)


def test_its_mean_is_what_torchmetrics_reports(untrained: Lpips, theirs: Any) -> None:
    metric = theirs("mean")
    first, second = (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 for images in (X, Y))
    metric.update(first, second)
    assert untrained(X, Y).mean() == pytest.approx(float(metric.compute()), rel=1e-6)


@pytest.mark.parametrize("size", [(16, 16), (19, 35), (32, 24)])
def test_oracle_agrees(untrained: Lpips, state: dict[str, torch.Tensor], size: tuple[int, int]) -> None:
    x, y = X[1:3, : size[0], : size[1]], Y[1:3, : size[0], : size[1]]
    weights = {key: value.double().numpy() for key, value in state.items()}
    tensors = untrained.network.state_dict()
    heads = {key: value.double().numpy() for key, value in tensors.items() if key.startswith("lin") and key[3] != "s"}
    wanted = [ORACLE.lpips(one, other, weights, heads) for one, other in zip(x, y, strict=True)]
    np.testing.assert_allclose(untrained(x, y), wanted, rtol=2e-5)


def test_the_heads_are_the_published_ones(untrained: Lpips) -> None:
    assert untrained.heads_sha256 == HEADS_SHA256
    head = untrained.network.state_dict()["lin0.model.1.weight"]
    assert head.shape == (1, 64, 1, 1)
    assert float(head.min()) >= 0  # the published heads are not negative: a distance cannot be either


def test_a_pair_scores_the_same_in_every_batch_and_layout(untrained: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    together = untrained(X, Y)
    alone = np.concatenate([untrained(X[i : i + 1], Y[i : i + 1]) for i in range(len(X))])
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    monkeypatch.setattr(lpips_module, "_BATCH", 3)
    np.testing.assert_allclose(untrained(X, Y), together, rtol=1e-5)
    planes = [torch.from_numpy(images).permute(0, 3, 1, 2) for images in (X, Y)]
    np.testing.assert_allclose(untrained(*planes, layout="nchw"), together, rtol=1e-5)
    np.testing.assert_allclose(untrained(torch.from_numpy(X), torch.from_numpy(Y)), together, rtol=1e-5)


def test_equal_pictures_are_at_zero_and_more_noise_is_further(untrained: Lpips) -> None:
    assert untrained(X, X).tolist() == [0.0] * 4
    noise = np.random.default_rng(1).normal(0, 1, X.shape)
    steps = [untrained(X, np.clip(X + sigma * noise, 0, 255).astype(np.uint8)).mean() for sigma in (5, 15, 45)]
    assert 0 < steps[0] < steps[1] < steps[2]
    np.testing.assert_allclose(untrained(X, Y), untrained(Y, X), rtol=1e-6)


def test_the_callers_autocast_changes_nothing(untrained: Lpips) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = untrained(X, Y)
    np.testing.assert_allclose(inside, untrained(X, Y), rtol=1e-6)


def test_an_untrained_network_has_another_name(
    untrained: Lpips, state: dict[str, torch.Tensor], tmp_path: Path, own_digest: None
) -> None:
    assert (untrained.name, untrained.trained) == ("LPIPS-untrained", False)
    path = tmp_path / "vgg.pth"
    torch.save({**state, "classifier.0.weight": torch.zeros(2, 2)}, path)  # the published file has a classifier
    loaded = load_lpips(path)
    assert (loaded.name, loaded.trained, loaded.heads_sha256) == ("LPIPS", True, HEADS_SHA256)
    assert len(loaded.weights_sha256) == 64
    assert np.array_equal(loaded(X, Y), untrained(X, Y))


def test_loading_leaves_the_callers_generator_alone_and_is_repeatable(untrained: Lpips) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    again = load_lpips("random")
    assert torch.equal(torch.get_rng_state(), before)
    assert again.weights_sha256 == untrained.weights_sha256
    assert not any(parameter.requires_grad for parameter in again.network.parameters())
    assert not again.network.training


def test_absent_weights_are_named_with_their_digest_and_their_place_and_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_args, **_options: pytest.fail("fetched"))
    with pytest.raises(DataError) as caught:
        load_lpips()
    assert WEIGHTS_FILE in caught.value.what
    assert SHA256_PREFIX in caught.value.what
    assert str(tmp_path / "hub" / "checkpoints") in caught.value.where
    assert str(tmp_path / "weights") in caught.value.fix
    for folder in (tmp_path / "hub" / "checkpoints", tmp_path / "weights"):  # the cache comes before the hub's folder
        folder.mkdir(parents=True)
        (folder / WEIGHTS_FILE).write_bytes(b"x")
        assert find_weights() == folder / WEIGHTS_FILE
    with pytest.raises(DataError, match="is not the VGG16 of LPIPS: sha256"):
        load_lpips()


def test_another_networks_file_is_refused_by_its_digest(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / WEIGHTS_FILE)
    with pytest.raises(DataError, match=f"expected {SHA256_PREFIX}") as caught:
        load_lpips(tmp_path / WEIGHTS_FILE)
    assert "another VGG16 gives other values" in caught.value.fix
    with pytest.raises(DataError, match=r"no such file 'absent\.pth'"):
        load_lpips(tmp_path / "absent.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.28.bias": None}, r"missing: features\.28\.bias"),
        ({"features.30.weight": torch.zeros(1)}, r"unexpected: features\.30\.weight"),
        ({"features.0.weight": torch.zeros(64, 1, 3, 3)}, r"wrong shape: features\.0\.weight \[64, 1, 3, 3\] for"),
        ({"features.0.bias": torch.full((64,), float("nan"))}, "NaN"),
    ],
)
def test_a_file_that_lacks_a_tensor_or_has_another_is_refused(
    state: dict[str, torch.Tensor], tmp_path: Path, own_digest: None, change: dict[str, Any], message: str
) -> None:
    changed = {key: value for key, value in {**state, **change}.items() if value is not None}
    torch.save(changed, tmp_path / "vgg.pth")
    with pytest.raises(DataError, match=message):
        load_lpips(tmp_path / "vgg.pth")


def test_a_library_without_the_published_heads_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips_module, "HEADS_SHA256", "0" * 64)
    with pytest.raises(DependencyError, match=r"does not hold the published linear heads of LPIPS 0\.1") as caught:
        load_lpips("random")
    assert "torchmetrics==1.9.0" in caught.value.fix


@pytest.mark.parametrize("package", ["torchvision", "torchmetrics"])
def test_without_its_packages_the_extra_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    real = importlib.import_module

    def absent(name: str, *rest: Any) -> types.ModuleType:
        if name.split(".")[0] == package:
            raise ModuleNotFoundError(f"No module named '{package}'", name=package)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(DependencyError, match=f"the package '{package}' is not installed") as caught:
        load_lpips("random")
    assert "ovbench[metrics]" in caught.value.fix


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (X / 255.0, Y, "images must be uint8, got float64"),
        (X, Y[0], "must be a batch of four axes"),
        (X[:0], Y[:0], "must be a batch of four axes"),
        (X, Y[:, :32], "the pairs differ in shape"),
        (X[..., :1], Y[..., :1], "LPIPS needs RGB images, got 1 channels"),
        (X[:, :15], Y[:, :15], "LPIPS needs images of at least 16 px a side, got 15"),
    ],
)
def test_bad_pairs_are_refused(untrained: Lpips, x: Any, y: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        untrained(x, y)


def test_unknown_devices_and_layouts_are_refused(untrained: Lpips) -> None:
    with pytest.raises(ConfigError, match="unknown device 'gpu'"):
        load_lpips("random", device="gpu")
    layout: Any = "hwc"
    with pytest.raises(ConfigError, match="unknown layout 'hwc'"):
        untrained(X, Y, layout=layout)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(untrained: Lpips) -> None:
    np.testing.assert_allclose(load_lpips("random", device="cuda")(X, Y), untrained(X, Y), rtol=1e-4)
