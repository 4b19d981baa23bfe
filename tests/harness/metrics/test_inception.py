"""The FID network equals the published code on seeded weights, layer by layer, and its file is what it claims to be."""

from __future__ import annotations

import pickle
import runpy
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics import inception_weights
from ovbench.harness.metrics.frechet import frechet_distance, frechet_from_features
from ovbench.harness.metrics.inception import LAYERS, Inception
from ovbench.harness.metrics.inception_weights import (
    SHA256_PREFIX,
    WEIGHT_FILES,
    find_weights,
    full_float32,
    load_inception,
    random_state,
    state_sha256,
)
from ovbench.harness.metrics.resizing import tf1_bilinear_gather
from tests.harness.metrics.fid_data import SETS, golden, golden_pictures, nchw, relative

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
TOLERANCE = {"spatial_2023": 5e-5}  # the golden file's own; 1e-5 for the pooled layers


@cache
def network(fast: bool) -> Inception:
    return load_inception("random", fast=fast).network


@cache
def layers(name: str, fast: bool) -> dict[str, Tensor]:
    with torch.inference_mode():
        x = (tf1_bilinear_gather(nchw(golden_pictures(name)), 299) - 128) / 128
        return network(fast)(x.contiguous(memory_format=torch.channels_last) if fast else x)


def test_the_seeded_weights_are_those_of_the_golden_file() -> None:
    state = random_state()
    assert len(state) == 566
    assert sum(value.numel() for value in state.values()) == 23_885_486
    assert state_sha256(state) == golden()["weights_sha256"]


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", SETS)
def test_every_layer_is_the_golden_one(name: str, fast: bool) -> None:
    found = layers(name, fast)
    wanted = golden()["sets"][name]["features_float64_internal"]
    assert set(found) == set(wanted) == set(LAYERS)
    for layer, entry in wanted.items():
        value, tolerance = found[layer], TOLERANCE.get(layer, 1e-5)
        assert list(value.shape) == entry["shape"]
        assert value.dtype == torch.float32
        assert float(value.double().norm()) == pytest.approx(entry["l2_norm"], rel=tolerance)
        assert float(value.double().sum()) == pytest.approx(entry["sum"], abs=tolerance * entry["l2_norm"] * 60)
        first = torch.tensor(entry["first8_per_image"], dtype=torch.float64)
        assert torch.allclose(value[:, :8].double(), first, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> FeatureExtractorInceptionV3:
    path = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(random_state(), path)
    names = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
    return FeatureExtractorInceptionV3("seeded", names, feature_extractor_weights_path=str(path))


@pytest.mark.parametrize("name", ["256", "64", "200x320"])
def test_the_plain_network_is_torch_fidelitys(name: str, theirs: FeatureExtractorInceptionV3) -> None:
    with torch.inference_mode():
        wanted = dict(zip(theirs.features_list, theirs(nchw(golden_pictures(name))), strict=True))
    found = layers(name, False)
    for layer, value in wanted.items():
        assert relative(found[layer], value) < 1e-6, layer


def test_the_spatial_layer_is_the_output_of_branch1x1_in_the_order_of_the_graph(
    theirs: FeatureExtractorInceptionV3,
) -> None:
    kept: list[Tensor] = []
    handle = theirs.Mixed_6d.branch1x1.register_forward_hook(lambda *seen: kept.append(seen[2]))
    with torch.inference_mode():
        theirs(nchw(golden_pictures("256")))
    handle.remove()
    assert kept[0].shape == (4, 192, 17, 17)
    wanted = torch.from_numpy(ORACLE.spatial_rows(kept[0].numpy()))  # H, W, C: the first seven channels
    wrong = kept[0][:, :7].reshape(4, -1)
    found = layers("256", False)["spatial_2023"]
    assert relative(found, wanted) < 1e-5
    assert relative(found, wrong) > 0.1


def test_sfid_is_the_frechet_distance_to_statistics_in_the_order_of_the_graph() -> None:
    # Both sets in the reference's order agree with the formula. Rows in channel order against that reference do not,
    # though any one order on both sides would give the same number.
    found = layers("64", True)["spatial_2023"].double().numpy()
    maps = np.zeros((4, 192, 17, 17))
    maps[:, :7] = found.reshape(4, 17, 17, 7).transpose(0, 3, 1, 2)
    reference = ORACLE.spatial_rows(maps[::-1] + 0.25 * np.random.default_rng(0).random(maps.shape))
    picked = np.random.default_rng(1).choice(2023, 60, replace=False)  # the oracle's square roots are slow
    mu, sigma = ORACLE.moments(reference[:, picked])
    rows = ORACLE.moments(found[:, picked])
    own = frechet_distance(mu, sigma, rows[0], rows[1], len(reference), len(found)).value
    # Of a singular covariance the oracle adds up the roots of rounded zeros.
    assert own == pytest.approx(ORACLE.frechet(mu, sigma, *rows), abs=1e-5)
    whole = frechet_from_features(reference, found).value
    wrong = frechet_from_features(reference, maps[:, :7].reshape(4, -1)).value
    assert wrong > 1.5 * whole


def test_the_fast_form_is_nearer_to_the_float64_values_than_the_plain_one() -> None:
    exact = load_inception("random", fast=False).network.double()
    x = (tf1_bilinear_gather(nchw(golden_pictures("256")), 299) - 128) / 128
    with torch.inference_mode():
        wanted = exact(x.double())["2048"]
    assert relative(layers("256", True)["2048"], wanted) < 1e-6
    assert relative(layers("256", True)["2048"], wanted) < relative(layers("256", False)["2048"], wanted)


@pytest.mark.parametrize("layer", LAYERS)
def test_the_fast_form_equals_the_plain_one(layer: str) -> None:
    # The plain form's own rounding is 1.1e-6 of the pooled features, and more of single positions.
    limit = 1e-5 if layer == "spatial_2023" else 2e-6
    for name in SETS:
        assert relative(layers(name, True)[layer], layers(name, False)[layer]) < limit


def test_without_onednn_the_fast_form_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = layers("64", True)["2048"]
    monkeypatch.setattr("ovbench.harness.metrics.inception.HAS_ONEDNN", False)
    x = (tf1_bilinear_gather(nchw(golden_pictures("64")), 299) - 128) / 128
    with torch.inference_mode():
        assert relative(network(True)(x, ["2048"])["2048"], wanted) < 2e-6


def test_only_the_layers_asked_for_are_computed() -> None:
    x = torch.zeros(1, 3, 299, 299)
    ran: list[str] = []
    handle = network(True).get_submodule("Mixed_6e").register_forward_hook(lambda *_args: ran.append("Mixed_6e"))
    with torch.inference_mode():
        assert list(network(True)(x, ["192", "64"])) == ["64", "192"]
        assert list(network(True)(x, ["spatial_2023"])) == ["spatial_2023"]
        assert not ran
        assert list(network(True)(x, ["768"])) == ["768"]
    handle.remove()
    assert ran == ["Mixed_6e"]


def test_bfloat16_states_what_it_changes() -> None:
    loaded = load_inception("random", precision="bfloat16")
    assert 1e-4 < loaded.value_change < 2e-2
    assert load_inception("random").value_change < 2e-6
    with pytest.raises(ConfigError, match="float32 only"):
        load_inception("random", precision="bfloat16", fast=False)


def test_a_fast_form_that_differs_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inception_weights, "_MAX_CHANGE", 1e-12)
    loaded = load_inception("random")
    assert "the plain form is used" in caplog.text
    assert loaded.value_change == 0
    assert hasattr(loaded.network.get_submodule("Conv2d_1a_3x3"), "bn")


def test_absent_weights_are_named_with_their_digest_and_their_place(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(DataError) as caught:
        load_inception()
    assert WEIGHT_FILES[0] in caught.value.what
    assert SHA256_PREFIX in caught.value.what
    assert str(tmp_path / "weights") in caught.value.fix
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / WEIGHT_FILES[1]).write_bytes(b"x")
    assert find_weights() == tmp_path / "hub" / "checkpoints" / WEIGHT_FILES[1]
    with pytest.raises(DataError, match="is not the FID network: sha256"):
        load_inception()


def test_another_networks_file_is_refused_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / WEIGHT_FILES[0]
    torch.save(random_state(), path)
    with pytest.raises(DataError, match=f"expected {SHA256_PREFIX}") as caught:
        load_inception(path)
    assert "torchvision's own Inception is another network" in caught.value.fix


def test_a_file_that_lacks_a_tensor_or_has_another_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inception_weights, "SHA256_PREFIX", "")
    state = random_state()
    cases = {
        "1 tensors missing": {key: value for key, value in state.items() if key != "fc.bias"},
        "1 unknown": {**state, "AuxLogits.fc.weight": torch.zeros(1)},
        "1 of another shape": {**state, "fc.bias": torch.zeros(1000)},
    }
    for message, broken in cases.items():
        torch.save(broken, tmp_path / "weights.pth")
        with pytest.raises(DataError, match=message):
            load_inception(tmp_path / "weights.pth")
    torch.save({**state, "fc.bias": torch.full((1008,), float("nan"))}, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="NaN"):
        load_inception(tmp_path / "weights.pth")
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_inception(tmp_path / "weights.pth")
    assert loaded.trained


def test_a_pickle_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "inception.pkl").write_bytes(pickle.dumps({}))
    with pytest.raises(ConfigError, match="can run code"):
        load_inception(tmp_path / "inception.pkl")
    with pytest.raises(DataError, match="no such file 'absent.pth'"):
        load_inception(tmp_path / "absent.pth")


def test_tf32_is_off_while_features_are_computed() -> None:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = True
    try:
        with full_float32():
            assert not torch.backends.cudnn.allow_tf32
            assert not torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cuda.matmul.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = before
        torch.backends.cuda.matmul.allow_tf32 = False
