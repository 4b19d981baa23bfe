"""`ovbench fid` beside torch-fidelity, torchmetrics and clean-fid: the same files, one seeded network, their own code.

The first test stops the network at its 64-dimensional layer, where 70 pictures have a covariance of full rank: torch's
and NumPy's `eigvals` are wrong in the second digit after the point where a covariance is singular (specs/metrics.md
§2.7). The second runs the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from cleanfid.fid import compute_fid
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.inception import InceptionScore
from torchmetrics.image.kid import KernelInceptionDistance

from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.fid_report import FidReport
from ovbench.harness.metrics.fid_request import FidRequest
from ovbench.harness.metrics.fid_run import run_fid
from ovbench.harness.metrics.inception_weights import RANDOM, random_state

from .picture_sets import pictures, write_folder

SIDE = 40
MANY, FEW = 70, 12
REAL, FAKE = pictures(MANY, 21, side=SIDE), pictures(MANY, 22, noise=30, side=SIDE)


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    found = {"weights": root / "seeded.pth"}
    for name, images in (("real", REAL), ("fake", FAKE), ("few real", REAL[:FEW]), ("few fake", FAKE[:FEW])):
        found[name] = write_folder(root / name, images)
    torch.save(random_state(), found["weights"])
    return found


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))


def ours(real: Path, fake: Path, **options: Any) -> FidReport:
    return run_fid(FidRequest(real=real, fake=fake, weights=RANDOM, intervals=False, **options))


def torch_fidelity_says(sets: Mapping[str, Path], real: str, fake: str, layer: str, **options: Any) -> dict[str, float]:
    return torch_fidelity.calculate_metrics(
        input1=str(sets[fake]), input2=str(sets[real]), feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(sets["weights"]), feature_layer_fid=layer, feature_layer_kid=layer,
        feature_layer_prc=layer, cuda=False, cache=False, verbose=False, save_cpu_ram=True, **options,
    )  # fmt: skip


def shallow(name: str, **options: Any) -> Extractor:
    """The backend, with the distance at the 64-dimensional layer."""
    found = load_extractor(name, weights=RANDOM, layers=("64",))
    return replace(found, info=replace(found.info, pool="64", spatial=None, logits=None))


def test_three_packages_agree_on_the_same_files_where_the_covariance_has_full_rank(
    sets: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ovbench.harness.metrics.fid_request.load_extractor", shallow)
    report = ours(sets["real"], sets["fake"], mode="torch-fidelity", metrics="fid,kid,pr", kid_subset_size=50)
    theirs = torch_fidelity_says(sets, "real", "fake", "64", fid=True, kid=True, prc=True, kid_subset_size=50)
    assert report["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert report["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-5)
    assert report["precision"] == pytest.approx(theirs["precision"], abs=2 / MANY)
    assert report["recall"] == pytest.approx(theirs["recall"], abs=2 / MANY)

    metric = FrechetInceptionDistance(
        feature=64, antialias=False, feature_extractor_weights_path=str(sets["weights"])
    ).set_dtype(torch.float64)
    for images, real in ((REAL, True), (FAKE, False)):
        metric.update(torch.from_numpy(images).permute(0, 3, 1, 2), real=real)
    assert report["fid"] == pytest.approx(float(metric.compute()), rel=1e-5)

    network = FeatureExtractorInceptionV3("seeded", ["64"], feature_extractor_weights_path=str(sets["weights"]))

    def features(resized: torch.Tensor) -> torch.Tensor:
        # clean-fid gives 0…255 at 299 pixels, in floating point, which torch-fidelity's own forward does not take.
        x = (resized - 128) / 128
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1"):
            x = network.get_submodule(name)(x)
        return x.mean(dim=(2, 3))

    clean = compute_fid(
        str(sets["real"]), str(sets["fake"]), mode="clean", custom_feat_extractor=features, num_workers=0,
        device=torch.device("cpu"), use_dataparallel=False, verbose=False,
    )  # fmt: skip
    assert ours(sets["real"], sets["fake"], mode="clean", metrics="fid")["fid"] == pytest.approx(clean, rel=1e-4)
    assert clean != pytest.approx(report["fid"], rel=1e-3)  # the resize is another metric


def test_two_packages_agree_on_the_whole_network(sets: Mapping[str, Path]) -> None:
    report = ours(sets["few real"], sets["few fake"], mode="torch-fidelity", kid_subset_size=8)
    theirs = torch_fidelity_says(
        sets, "few real", "few fake", "2048", isc=True, fid=True, kid=True, prc=True, kid_subset_size=8
    )
    assert report["is"] == pytest.approx(theirs["inception_score_mean"], rel=1e-3)
    assert report["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert report["precision"] == pytest.approx(theirs["precision"], abs=2 / FEW)
    assert report["recall"] == pytest.approx(theirs["recall"], abs=2 / FEW)
    # Singular covariances: `eigvals` is off by some hundredths, which ours is not.
    assert report["fid"] == pytest.approx(theirs["frechet_inception_distance"], abs=0.1)

    class Pooled(torch.nn.Module):
        """What torchmetrics takes in place of a layer's number."""

        num_features = 2048

        def __init__(self, layer: str) -> None:
            super().__init__()
            self.network = FeatureExtractorInceptionV3(
                "seeded", [layer], feature_extractor_weights_path=str(sets["weights"])
            )

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network(images)[0]

    kid = KernelInceptionDistance(feature=Pooled("2048"), subsets=200, subset_size=FEW)
    score = InceptionScore(feature=Pooled("logits_unbiased"), splits=1)
    real, fake = (torch.from_numpy(images[:FEW]).permute(0, 3, 1, 2) for images in (REAL, FAKE))
    kid.update(real, real=True)
    kid.update(fake, real=False)
    score.update(fake)
    full = ours(sets["few real"], sets["few fake"], mode="adm", metrics="kid,is")
    assert full["kid"] == pytest.approx(float(kid.compute()[0]), rel=1e-3)  # whole sets, so that nothing is drawn
    assert full["is"] == pytest.approx(float(score.compute()[0]), rel=1e-3)


def test_pictures_are_read_as_the_packages_read_them(sets: Mapping[str, Path]) -> None:
    for index in (0, MANY - 1):
        with Image.open(sets["real"] / f"{index:05d}.png") as picture:
            np.testing.assert_array_equal(np.asarray(picture), REAL[index])
