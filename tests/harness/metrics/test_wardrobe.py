"""The garment classifier behind FD-wardrobe: what it knows, how its distance grows, what it is called."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import Tensor

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.fingerprint import file_sha256
from ovbench._base.paths import asset, assets_manifest
from ovbench.encoders.modeling.weights_file import read_tensors
from ovbench.harness.checkpoint import save_tensors
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.frechet import Gaussian
from ovbench.harness.metrics.inception_weights import RANDOM
from ovbench.harness.metrics.resizing import torch_bicubic_antialias
from ovbench.harness.metrics.wardrobe import ASSET, Wardrobe, WardrobeConfig, load_wardrobe, to_input
from ovbench.harness.pretraining.train_wardrobe import labelled, measure
from ovbench.tasks.world.draw import embedded_sprites
from ovbench.tasks.world.scene import GARMENTS, make_single
from tests.harness.metrics.fid_data import pictures, relative

ROOT = Path(__file__).parents[3]


@cache
def script() -> ModuleType:
    """scripts/wardrobe_distances.py, which makes the table of docs/mini-weights.md."""
    path = ROOT / "scripts" / "wardrobe_distances.py"
    spec = importlib.util.spec_from_file_location("wardrobe_distances", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def judge() -> Extractor:
    return load_extractor("wardrobe")


@cache
def cut_outs(split: str) -> np.ndarray:
    return script().cut_outs(split, 1000)


@cache
def pool(split: str) -> Tensor:
    return judge().extract(cut_outs(split))["features_64"]


def gaussian(images: np.ndarray) -> Gaussian:
    return script().gaussian_of(judge(), images)


@cache
def reference() -> Gaussian:
    return gaussian(cut_outs("train"))


def test_the_shipped_classifier_names_test_photographs() -> None:
    figures = measure(load_wardrobe(asset(ASSET)), embedded_sprites("test"), count=2000)
    assert figures["garment_accuracy"] >= 0.90  # band: 0.85
    assert figures["garment_accuracy_worst"] >= 0.80
    assert figures["tint_accuracy"] >= 0.995
    stated = assets_manifest()[ASSET]
    assert figures["garment_accuracy"] == pytest.approx(stated["garment_accuracy"], abs=0.02)


def test_an_untrained_classifier_names_nothing() -> None:
    torch.manual_seed(0)
    figures = measure(Wardrobe(WardrobeConfig()), embedded_sprites("test"), count=500)
    assert figures["garment_accuracy"] < 0.35


def test_the_garment_can_be_read_back_from_the_extractor() -> None:
    images, garments, _ = labelled([make_single(5, "test", index) for index in range(500)], embedded_sprites("test"))
    logits = judge().extract(images.permute(0, 2, 3, 1))["logits"]
    assert logits.shape == (500, len(GARMENTS))
    assert float((logits.argmax(dim=1) == garments).double().mean()) >= 0.90


def test_it_has_a_tenth_of_a_million_parameters_in_float32_and_half_a_megabyte() -> None:
    network = load_wardrobe(asset(ASSET))
    assert 90_000 < sum(parameter.numel() for parameter in network.parameters()) < 110_000
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())
    tensors, _ = read_tensors(asset(ASSET))
    assert {value.dtype for value in tensors.values()} == {torch.float32, torch.int64}  # counts of the batch norms
    assert asset(ASSET).stat().st_size < 500_000


def test_the_same_pictures_give_the_same_features_alone_and_in_any_batch() -> None:
    features = pool("test")[:64]
    assert features.dtype == torch.float32
    assert float(features.min()) >= 0.0
    again = load_extractor("wardrobe").extract(cut_outs("test")[:64])["features_64"]
    assert relative(again, features) < 1e-6
    alone = torch.cat([judge().extract(cut_outs("test")[index : index + 1])["features_64"] for index in range(8)])
    assert relative(alone, features[:8]) < 2e-6


def test_a_picture_of_one_cell_is_read_as_it_is() -> None:
    grey = torch.arange(256, dtype=torch.uint8).repeat(12).reshape(1, 3, 32, 32)
    read = to_input(grey)
    assert torch.equal(read, (grey.float() - 127.5) / 127.5)
    assert (float(read.min()), float(read.max())) == (-1.0, 1.0)


@pytest.mark.parametrize("shape", [(64, 64), (28, 28), (200, 320)])
def test_another_size_is_resized_by_name_clipped_and_not_rounded(shape: tuple[int, int]) -> None:
    images = torch.from_numpy(pictures(*shape, seed=1)).permute(0, 3, 1, 2)
    read = to_input(images)
    assert read.shape == (4, 3, 32, 32)
    assert torch.equal(read, (torch_bicubic_antialias(images, 32) - 127.5) / 127.5)
    assert -1.0 <= float(read.min()) <= float(read.max()) <= 1.0
    grey = read * 127.5 + 127.5
    assert float((grey - grey.round()).abs().max()) > 0.1
    named = judge().info
    assert (named.resize, named.quantisation, named.size_px) == ("torch-bicubic-antialias", "none", 32)
    assert named.normalisation == "(x - 127.5) / 127.5"


def test_an_enlarged_picture_is_read_almost_as_the_picture() -> None:
    images = cut_outs("test")[:100]
    doubled = images.repeat(2, axis=1).repeat(2, axis=2)
    assert relative(judge().extract(doubled)["features_64"], pool("test")[:100]) < 0.1


def test_the_distance_has_a_name_of_its_own() -> None:
    info = judge().info
    assert [info.metric_name(name) for name in ("FID", "KID")] == ["FD-wardrobe", "KID-wardrobe"]
    assert (info.pool, info.dim, info.logits, info.spatial) == ("features_64", 64, None, None)
    assert info.weights_sha256 == assets_manifest()[ASSET]["sha256"]
    assert info.trained


def test_seeded_untrained_weights_have_another_name() -> None:
    one, other = (load_extractor("wardrobe", weights=RANDOM) for _ in range(2))
    assert one.info.metric_name() == "FD-UntrainedWardrobe"
    assert not one.info.trained
    assert one.info.convention == other.info.convention
    assert one.info.convention != judge().info.convention
    images = cut_outs("test")[:4]
    assert torch.equal(one.extract(images)["features_64"], other.extract(images)["features_64"])


def test_weights_of_the_user_have_another_name_but_a_copy_of_ours_has_not(tmp_path: Path) -> None:
    tensors, metadata = read_tensors(asset(ASSET))
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(asset(ASSET).read_bytes())
    assert load_extractor("wardrobe", weights=copy).info.title == "FD-wardrobe"
    other = tmp_path / "other.safetensors"
    save_tensors(other, {**tensors, "tint.bias": tensors["tint.bias"] + 1}, metadata)
    info = load_extractor("wardrobe", weights=other).info
    assert (info.metric_name(), info.trained, info.weights_sha256) == ("FD-OtherWardrobe", True, file_sha256(other))
    assert info.fingerprint() != judge().info.fingerprint()


def test_one_layer_alone_is_returned_where_it_is_asked_for() -> None:
    extractor = load_extractor("wardrobe", layers=["features_64"])
    assert list(extractor.extract(cut_outs("test")[:2])) == ["features_64"]
    assert dict(extractor.info.layers) == {"features_64": 64}


def test_bfloat16_is_near_and_says_so() -> None:
    fast = load_extractor("wardrobe", precision="bfloat16")
    found = fast.extract(cut_outs("test")[:64])["features_64"]
    assert 0 < relative(found, pool("test")[:64]) < 0.03
    assert fast.info.convention["precision"] == "bfloat16"


def test_real_pictures_are_near_real_ones_and_the_scale_is_that_of_the_bands() -> None:
    near = script().distance(reference(), gaussian(cut_outs("test")))
    assert 0.3 < near < 4.0
    trace = float(pool("train").double().var(dim=0).sum())
    assert trace == pytest.approx(268.0, rel=0.08)


@pytest.mark.parametrize("what", ["noise", "blur", "red and blue exchanged"])
def test_the_distance_grows_with_the_damage(what: str) -> None:
    clean = cut_outs("test")
    values = [script().distance(reference(), gaussian(clean))]
    values += [script().distance(reference(), gaussian(worse(clean))) for worse in script().CORRUPTIONS[what].values()]
    assert values == sorted(values), values
    assert values[-1] > 8 * values[0], values


def test_the_distance_grows_with_the_garments_that_are_missing() -> None:
    values = [script().distance(reference(), gaussian(cut_outs("test")))]
    for count in script().MISSING:
        left = script().cut_outs("test", 1000, without=GARMENTS[len(GARMENTS) - count :])
        values.append(script().distance(reference(), gaussian(left)))
    assert values == sorted(values), values
    assert values[1] > 2 * values[0], values
    assert values[-1] > 20 * values[0], values


def test_a_missing_garment_outweighs_noise_that_nobody_sees() -> None:
    clean = cut_outs("test")
    missing = script().cut_outs("test", 1000, without=GARMENTS[-1:])
    noisy = script().distance(reference(), gaussian(script().noisy(clean, 4)))
    assert noisy < script().distance(reference(), gaussian(missing))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": ["2048"]}, "unknown layer of wardrobe '2048'"),
        ({"resize": "tf1-bilinear"}, "'wardrobe' has a fixed resize"),
        ({"compile": True}, "'wardrobe' is not compiled"),
        ({"fast": False}, "'wardrobe' has one form only"),
    ],
)
def test_an_option_that_it_does_not_have_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_extractor("wardrobe", **options)  # type: ignore[arg-type]


def test_weights_that_are_not_there_or_anothers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file 'none.safetensors'"):
        load_extractor("wardrobe", weights=tmp_path / "none.safetensors")
    with pytest.raises(DataError, match="another kind of network than Wardrobe") as caught:
        load_extractor("wardrobe", weights=asset("encoders/vae-mini.safetensors"))
    assert "ovbench pretrain" in caught.value.fix


def test_a_classifier_of_other_garments_is_refused(tmp_path: Path) -> None:
    tensors, metadata = read_tensors(asset(ASSET))
    other = tmp_path / "other.safetensors"
    save_tensors(other, tensors, {**metadata, "config": metadata["config"].replace('"boot"', '"coat"')})
    with pytest.raises(DataError, match="'other.safetensors' tells other garments apart: tshirt, .*, coat") as caught:
        load_extractor("wardrobe", weights=other)
    assert "boot: ovbench pretrain --recipe wardrobe" in caught.value.fix


def test_nothing_is_trained_against_the_judge() -> None:
    allowed = {"harness/metrics/extractors.py", "harness/metrics/wardrobe.py", "harness/pretraining/train_wardrobe.py"}
    package = ROOT / "ovbench"
    users = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if "metrics.wardrobe" in path.read_text(encoding="utf-8")
    }
    assert users <= allowed
