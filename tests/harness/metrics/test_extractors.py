"""Each backend gives what the library it stands for gives, says what it is, and refuses what it is not for."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from cleanfid.resize import build_resizer
from PIL import Image
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import NoTrainInceptionV3

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import EXTRACTORS, load_extractor
from ovbench.harness.metrics.inception_weights import RANDOM, random_state
from tests.harness.metrics.fid_data import GOLDEN, SETS, golden, golden_pictures, nchw, pictures, relative

PIPELINES = {
    "inception-pytorchfid": "pytorch-fid (half-pixel bilinear, 2x-1)",
    "inception-clean": "clean-fid mode clean (PIL bicubic float)",
    "inception-torchmetrics": "torchmetrics antialias=True (its default)",
}


@cache
def backend(name: str) -> Extractor:
    return load_extractor(name, weights=RANDOM)


@cache
def pool(name: str, images: str) -> Tensor:
    return backend(name).extract(golden_pictures(images))["2048"]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "seeded.pth"
    torch.save(random_state(), path)
    return path


@pytest.mark.parametrize("name", SETS)
def test_inception_tf_equals_torch_fidelity(name: str, seeded: Path) -> None:
    layers = ["64", "192", "768", "2048", "logits_unbiased", "logits"]
    theirs = FeatureExtractorInceptionV3("seeded", layers, feature_extractor_weights_path=str(seeded))
    with torch.inference_mode():
        wanted = dict(zip(layers, theirs(nchw(golden_pictures(name))), strict=True))
    found = backend("inception-tf").extract(golden_pictures(name))
    for layer in layers:
        assert relative(found[layer], wanted[layer]) < 1e-5, layer


@pytest.mark.parametrize("name", ["64", "256", "512"])
@pytest.mark.parametrize("antialias", [True, False])
def test_inception_torchmetrics_equals_torchmetrics(name: str, antialias: bool, seeded: Path) -> None:
    theirs = NoTrainInceptionV3("seeded", ["2048"], str(seeded), antialias=antialias)
    with torch.inference_mode():
        wanted = theirs(nchw(golden_pictures(name)))
    assert relative(pool("inception-torchmetrics" if antialias else "inception-tf", name), wanted) < 1e-5


@pytest.mark.parametrize("name", ["64", "256", "512"])
def test_inception_clean_equals_clean_fids_resize_before_the_same_network(name: str, seeded: Path) -> None:
    theirs = FeatureExtractorInceptionV3("seeded", ["2048"], feature_extractor_weights_path=str(seeded))
    resize = build_resizer("clean")
    resized = torch.from_numpy(np.stack([resize(picture) for picture in golden_pictures(name)])).permute(0, 3, 1, 2)
    # clean-fid's network reads 0…255; at 299 pixels torch-fidelity's own resize is the identity, but wants uint8.
    with torch.inference_mode():
        x = (resized - 128) / 128
        for part in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3",
                     "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d",
                     "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c"):  # fmt: skip
            x = theirs.get_submodule(part)(x)
        wanted = x.mean(dim=(2, 3))
    assert relative(pool("inception-clean", name), wanted) < 1e-5


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("extractor", PIPELINES)
def test_every_convention_gives_its_golden_features(extractor: str, name: str) -> None:
    wanted = golden()["sets"][name]["other_pipelines_2048"][PIPELINES[extractor]]
    found = pool(extractor, name)
    assert float(found.double().sum()) == pytest.approx(wanted["sum"], rel=2e-5)
    assert found[0, :8].tolist() == pytest.approx(wanted["first8_image0"], rel=1e-4, abs=2e-4)
    apart = relative(found, pool("inception-tf", name))
    assert apart == pytest.approx(wanted["rel_l2_to_expected_2048"], rel=1e-2, abs=5e-6)


def test_an_audit_can_change_the_resize_alone() -> None:
    changed = load_extractor("inception-tf", weights=RANDOM, resize="torch-bilinear", layers=["2048"])
    wanted = golden()["sets"]["512"]["other_pipelines_2048"]["half-pixel bilinear, (x-128)/128"]
    found = changed.extract(golden_pictures("512"))["2048"]
    assert float(found.double().sum()) == pytest.approx(wanted["sum"], rel=2e-5)
    assert changed.info.resize == "torch-bilinear"
    assert changed.info.fingerprint() != backend("inception-tf").info.fingerprint()


def test_a_feature_does_not_depend_on_the_batch() -> None:
    alone = [backend("inception-tf").extract(golden_pictures("64")[i : i + 1])["2048"] for i in range(4)]
    assert relative(torch.cat(alone), pool("inception-tf", "64")) < 2e-6


def test_a_compiled_networks_last_batch_is_filled_up_and_cut_again() -> None:
    shapes: list[int] = []

    def run(images: Tensor) -> dict[str, Tensor]:
        shapes.append(len(images))
        return {"2048": images.float().mean(dim=(2, 3))}

    plain = backend("inception-tf")
    filled = Extractor(info=plain.info, device=plain.device, run=run, fixed_batch=True)
    images = golden_pictures("64")
    filled.extract(images)
    last = filled.extract(images[:3])["2048"]
    assert shapes == [4, 4]
    assert torch.equal(last, filled.extract(images)["2048"][:3])


@pytest.mark.slow
def test_the_compiled_network_gives_the_same() -> None:
    compiled = load_extractor("inception-tf", weights=RANDOM, compile=True, layers=["2048"])
    assert relative(compiled.extract(golden_pictures("64"))["2048"], pool("inception-tf", "64")) < 5e-6


def test_only_the_2015_weights_score_fid() -> None:
    info = backend("inception-tf").info
    assert not info.trained
    assert [info.metric_name(name) for name in ("FID", "sFID", "IS", "KID")] == [
        "FD-UntrainedInception", "sFID-UntrainedInception", "IS-UntrainedInception", "KID-UntrainedInception",
    ]  # fmt: skip


def test_the_2015_weights_score_fid(monkeypatch: pytest.MonkeyPatch, seeded: Path) -> None:
    monkeypatch.setattr("ovbench.harness.metrics.inception_weights.SHA256_PREFIX", "")
    info = load_extractor("inception-clean", weights=seeded).info
    assert [info.metric_name(name) for name in ("FID", "sFID", "IS", "KID")] == ["FID", "sFID", "IS", "KID"]
    assert info.metric_name("CMMD") == "CMMD-Inception"
    assert (info.network, info.resize, info.dim) == ("inception-2015-12-05", "pil-bicubic", 2048)


def test_efficientnet_gives_the_published_features() -> None:
    extractor = load_extractor("efficientnet-lite0")
    wanted = json.loads((GOLDEN / "effnet_lite0_features.json").read_text())
    found = extractor.extract(pictures(224, 224, 0))["pool_1280"].double()
    entry = wanted["float64"]["pool_1280"]
    assert float(found.norm()) == pytest.approx(entry["l2_norm"], rel=1e-5)
    assert float(found.sum()) == pytest.approx(entry["sum"], rel=1e-5)
    assert relative(found[:, :8], torch.tensor(entry["first8_per_image"])) < 1e-5
    info = extractor.info
    assert (info.metric_name(), info.dim) == ("FD-EfficientNetLite0", 1280)
    assert info.weights_sha256 == wanted["weights_sha256"]
    assert not info.metric_name("KID").startswith("FD-")


def test_efficientnet_clips_what_the_bicubic_kernel_overshoots() -> None:
    edge = np.zeros((1, 64, 64, 3), dtype=np.uint8)
    edge[:, :, 32:] = 255  # the encoder refuses values outside [0, 1], which the kernel makes at this edge
    assert load_extractor("efficientnet-lite0").extract(edge)["pool_1280"].isfinite().all()


def test_untrained_efficientnet_has_another_name() -> None:
    assert load_extractor("efficientnet-lite0", weights=RANDOM).info.metric_name() == "FD-OtherEfficientNetLite0"


@pytest.fixture(scope="module")
def tiny_dinov2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, transformers.Dinov2Model]:
    torch.manual_seed(0)
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=518, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    folder = tmp_path_factory.mktemp("dinov2")
    model.save_pretrained(folder)
    return folder, model


def test_dinov2_reads_the_class_token_of_pils_rounded_square(
    tiny_dinov2: tuple[Path, transformers.Dinov2Model],
) -> None:
    folder, model = tiny_dinov2
    extractor = load_extractor("dinov2-l14", weights=folder)
    images = golden_pictures("200x320")  # no square: it is squashed, not cropped
    small = [Image.fromarray(image).resize((224, 224), Image.Resampling.BICUBIC) for image in images]
    x = torch.from_numpy(np.stack([np.asarray(image) for image in small])).permute(0, 3, 1, 2) / 255
    x = (x - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.inference_mode():
        wanted = model(pixel_values=x).last_hidden_state[:, 0]
    assert relative(extractor.extract(images)["class_token"], wanted) < 1e-5
    assert extractor.info.metric_name() == "FD-OtherDINOv2"  # it is not ViT-L/14
    assert extractor.info.quantisation == "rounded to 8 bits after the resize"


def test_absent_dinov2_weights_are_named_and_not_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_args, **_options: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_args, **_options: pytest.fail("fetched"))
    with pytest.raises(DataError, match="not on this machine: 'facebook/dinov2-large'") as caught:
        load_extractor("dinov2-l14")
    assert "--weights FOLDER" in caught.value.fix


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "inception"}, "unknown extractor 'inception'"),
        ({"name": "inception-tf", "layers": ["2047"]}, "unknown layer of inception-tf '2047'"),
        ({"name": "inception-tf", "layers": []}, "no layer was asked for"),
        ({"name": "inception-tf", "resize": "nearest"}, "unknown resize 'nearest'"),
        ({"name": "inception-tf", "precision": "float16"}, "unknown precision 'float16'"),
        ({"name": "inception-tf", "device": "gpu"}, "unknown device 'gpu'"),
        ({"name": "efficientnet-lite0", "layers": ["2048"]}, "unknown layer of efficientnet-lite0 '2048'"),
        ({"name": "efficientnet-lite0", "resize": "tf1-bilinear"}, "the resize of 'efficientnet-lite0' is fixed"),
        ({"name": "efficientnet-lite0", "compile": True}, "is not compiled"),
        ({"name": "efficientnet-lite0", "fast": False}, "has one form only"),
    ],
)
def test_what_cannot_be_used_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_extractor(**{"weights": RANDOM, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 8, 8, 3), dtype=np.float32),
        np.zeros((2, 3, 8, 8), dtype=np.uint8),
        np.zeros((8, 8, 3), dtype=np.uint8),
        np.zeros((0, 8, 8, 3), dtype=np.uint8),
        torch.zeros(2, 8, 8, 4, dtype=torch.uint8),
    ],
)
def test_what_is_no_batch_of_8_bit_pictures_is_refused(images: np.ndarray | Tensor) -> None:
    with pytest.raises(ConfigError, match=r"pictures must be uint8 \[B, H, W, 3\], got") as caught:
        backend("inception-tf").extract(images)
    assert "8 bits" in caught.value.fix


def test_every_backend_states_what_decides_its_numbers() -> None:
    for name in EXTRACTORS:
        if name in ("dinov2-l14", "clip-l14-336"):
            continue  # tiny ones are tested above and in test_clip_extractor.py
        info = load_extractor(name, weights=RANDOM).info
        assert set(info.convention) >= {"network", "weights_sha256", "resize", "quantisation", "normalisation"}
        assert len(info.weights_sha256) == 64
        assert info.pool in info.layers


def test_backends_that_read_blocks_by_hooks_never_run_two_passes_at_once() -> None:
    assert not load_extractor("efficientnet-lite0").concurrent
    assert not load_extractor("dinov2-l14", weights=RANDOM).concurrent
    assert backend("inception-tf").concurrent
