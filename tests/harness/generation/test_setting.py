"""What a protocol of the paper needs is found and checked before training, with stand-ins for the large networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import OvbenchError
from ovbench.harness.generation import setting as module
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.setting import Setting, open_setting
from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.references import Gaussian, Reference, write_reference
from ovbench.harness.plan import plan_runs
from tests.harness.generation.imagenet_tree import jpeg, make_tree
from tests.harness.generation.rae_data import patch_encoder

INFO = ExtractorInfo(
    name="inception-tf", network="inception-2015-12-05", trained=True, weights_sha256="6726825d", resize="tf1-bilinear",
    quantisation="none", normalisation="(x - 128) / 128", size_px=299,
    layers={"pool": 32, "spatial": 16, "logits": 1008}, pool="pool", spatial="spatial",
    logits="logits", title="FID",
)  # fmt: skip
Opened = Callable[..., Setting]


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Opened:
    """Opens `rae-imagenet256-proxy` with a one-layer encoder; LPIPS and DINO are there unless a test takes them."""
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(module, "load_extractor", lambda *_, **__: SimpleNamespace(info=INFO))
    monkeypatch.setattr(module, "load_encoder", lambda *_, **__: patch_encoder(dim=768, patch=16, size=256))
    monkeypatch.setattr(module, "load_lpips", lambda *_, **__: SimpleNamespace(name="LPIPS"))
    monkeypatch.setattr(module, "load_dino", lambda path: path)

    def run(suite: str = "generation", *, dino: bool = True, **options: Any) -> Setting:
        weights = tmp_path / "dino.pth"
        weights.touch()
        given = {"dino_weights": weights} if dino else {}
        plan = plan_runs(
            encoders=["dinov2/small?weights=random:0"], suite=suite, protocol="rae-imagenet256-proxy", tasks=None,
            limit=None, seeds=(0,), device="cpu", dtype="float32", batch_size=64, out=None,
            generation=[GenerationOptions(**given, **options)],
        )  # fmt: skip
        return open_setting(plan.jobs[0])

    return run


@pytest.fixture
def adm(tmp_path: Path) -> Path:
    """A file with the arrays of ADM's."""
    path = tmp_path / "adm.npz"
    arrays = {"mu": np.zeros(32), "sigma": np.eye(32), "mu_s": np.zeros(16), "sigma_s": np.eye(16)}
    np.savez(path, arr_0=np.zeros((2, 8, 8, 3), dtype=np.uint8), **arrays)
    return path


def refusal(call: Callable[[], object]) -> OvbenchError:
    with pytest.raises(OvbenchError) as error:
        call()
    assert error.value.where
    assert error.value.fix
    return error.value


def test_the_reference_is_missed_first(opened: Opened) -> None:
    error = refusal(opened)
    assert error.where == "--reference"
    assert "VIRTUAL_imagenet256_labeled.npz" in error.fix


def test_nobody_said_where_imagenet_is(opened: Opened, adm: Path) -> None:
    error = refusal(lambda: opened(reference=adm))
    assert "nobody said where it is" in error.what
    assert error.where == "--data"


def test_a_folder_that_is_not_there(opened: Opened, adm: Path, tmp_path: Path) -> None:
    error = refusal(lambda: opened(reference=adm, data=str(tmp_path / "none")))
    assert "none" in str(error)
    assert "--data" in error.where


def test_three_classes_are_not_imagenet(opened: Opened, adm: Path, tmp_path: Path) -> None:
    root = make_tree(tmp_path / "imagenet")
    error = refusal(lambda: opened(reference=adm, data=str(root)))
    assert "3 classes instead of 1000" in error.what


def test_too_few_pictures_of_a_class(opened: Opened, adm: Path, tmp_path: Path) -> None:
    picture = jpeg(0)
    for number in range(1000):
        folder = tmp_path / "imagenet" / "train" / f"n{number:08d}"
        folder.mkdir(parents=True)
        (folder / "0.JPEG").write_bytes(picture)
    error = refusal(lambda: opened(reference=adm, data=str(tmp_path / "imagenet")))
    assert "1000 of 1000 classes have fewer than 128 pictures" in error.what


def test_what_is_missing_on_this_machine_is_said_before_an_encoder_is_fetched(
    opened: Opened, adm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fetched(*_: Any, **__: Any) -> None:
        raise AssertionError("the encoder was fetched first")

    monkeypatch.setattr(module, "load_encoder", fetched)
    for options in ({}, {"reference": adm}, {"reference": adm, "data": str(tmp_path / "none")}):
        assert refusal(lambda options=options: opened(**options)).where


def test_a_data_set_of_the_hub_comes_after_the_encoder(
    opened: Opened, adm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        module,
        "load_encoder",
        lambda *_, **__: (asked.append("encoder"), patch_encoder(dim=768, patch=16, size=256))[1],
    )
    monkeypatch.setattr(module, "open_pictures", lambda *_: asked.append("pictures"))
    opened(reference=adm, data=f"owner/name@{'a' * 40}")
    assert asked == ["encoder", "pictures"]


def test_dino_is_missed_before_any_training(opened: Opened, adm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "open_pictures", lambda *_: None)
    error = refusal(lambda: opened(dino=False, reference=adm, data="anywhere"))
    assert "DINO ViT-S/8" in error.what
    assert "--dino-weights PATH" in error.fix


def test_lpips_is_missed_before_any_training(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    from ovbench.harness.metrics.lpips import load_lpips

    monkeypatch.setattr(module, "load_lpips", load_lpips)
    monkeypatch.setattr(module, "open_pictures", lambda *_: None)
    error = refusal(lambda: opened("reconstruction", data="anywhere"))
    assert "VGG16 of LPIPS" in error.what
    assert "--lpips-weights PATH" in error.fix


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"purpose": "reconstruction"}, "is a reference for reconstruction"),
        ({"pool": Gaussian(mu=np.zeros(64), sigma=np.eye(64))}, "has 64 dimensions, and 'inception-tf' gives 32"),
        ({"network": "dinov2-l"}, "was made with the network dinov2-l"),
        ({"resize": "pil-bicubic"}, "was made with the resize pil-bicubic"),
    ],
    ids=["purpose", "width", "network", "resize"],
)
def test_a_reference_that_does_not_fit(opened: Opened, tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    own = Reference(
        name="own", pool=Gaussian(mu=np.zeros(32), sigma=np.eye(32)), n=5000, purpose="generation",
        network=INFO.network,
        extractor=INFO.name, weights_sha256=INFO.weights_sha256, resize=INFO.resize, source_sha256="0" * 64,
    )  # fmt: skip
    write_reference(tmp_path / "own.npz", replace(own, **changes))
    error = refusal(lambda: opened(reference=tmp_path / "own.npz", data="anywhere"))
    assert what in error.what
    assert "--reference" in error.where


def test_pictures_instead_of_statistics(opened: Opened, adm: Path) -> None:
    np.savez(adm, arr_0=np.zeros((2, 8, 8, 3), dtype=np.uint8))
    error = refusal(lambda: opened(reference=adm, data="anywhere"))
    assert "holds pictures and no statistics" in error.what


def test_latents_that_are_no_square_are_refused(opened: Opened, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_encoder", lambda *_, **__: patch_encoder(dim=768, patch=16, size=256, width=512))
    monkeypatch.setattr(module, "open_pictures", lambda *_: None)
    assert "square" in refusal(lambda: opened("reconstruction", data="anywhere")).what


@pytest.mark.parametrize(
    ("options", "batch_size", "words"),
    [
        ({"compile": True}, 64, "--compile has no effect: the diffusion transformer is given"),
        ({"sharding": "fsdp2"}, 64, "--sharding has no effect: the diffusion transformer is given"),
        ({}, 8, "--batch-size has no effect on samples and reconstructions"),
    ],
)
def test_a_flag_without_effect_is_said(
    opened: Opened, adm: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    options: dict[str, Any], batch_size: int, words: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(module, "open_pictures", lambda *_: None)
    setting = opened(reference=adm, data="anywhere")
    caplog.clear()
    with caplog.at_level("WARNING"):
        module._say_what_has_no_effect(setting)
        assert not caplog.text
        given = replace(setting.options, **options, **({"dit": adm, "stats": adm} if options else {}))
        module._say_what_has_no_effect(replace(setting, options=given, job=replace(setting.job, batch_size=batch_size)))
    assert words in caplog.text
