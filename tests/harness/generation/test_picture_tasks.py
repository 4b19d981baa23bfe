"""Scores of picture tasks: the same numbers as `ovbench fid`, in the words of a record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.picture_tasks import (
    TaskScore,
    against_pictures,
    check_task,
    few_pictures,
    headline_of,
    layers_of,
    open_adm,
    score_pictures,
    score_values,
)
from ovbench.harness.generation.world_data import WorldGarments
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.extractors import load_extractor
from ovbench.harness.metrics.feature_sets import FeatureAccumulator, FeatureSet
from ovbench.harness.metrics.frechet import frechet_distance
from ovbench.tasks.pictures import load_picture_task

IMAGES = load_picture_task("mini-images")


@pytest.fixture(scope="module")
def extractor() -> Extractor:
    return load_extractor("wardrobe")


def features(extractor: Extractor, split: str, folder: Path) -> tuple[FeatureSet, np.ndarray]:
    data = WorldGarments(5, split, 96)
    found = FeatureAccumulator(extractor.info, 96, keep=layers_of(IMAGES, extractor.info), folder=folder)
    found.add(extractor.extract(data.images_u8(range(96))), 0)
    return found.finish(), data.labels(range(96))


@pytest.fixture(scope="module")
def both(extractor: Extractor, tmp_path_factory: pytest.TempPathFactory) -> tuple[FeatureSet, FeatureSet, np.ndarray]:
    folder = tmp_path_factory.mktemp("features")
    test, _ = features(extractor, "test", folder)
    train, labels = features(extractor, "train", folder)
    return test, train, labels


def scored(extractor: Extractor, both: tuple[FeatureSet, FeatureSet, np.ndarray]) -> dict[str, TaskScore]:
    test, train, labels = both
    against = against_pictures("test", test, purpose="generation", extractor=extractor)
    return {entry.metric: entry for entry in score_pictures(IMAGES, against, train, labels=labels)}


def test_the_distance_is_that_of_the_features(
    extractor: Extractor, both: tuple[FeatureSet, FeatureSet, np.ndarray]
) -> None:
    test, train, _ = both
    rows = [torch.from_numpy(np.array(part.rows["features_64"], dtype=np.float64)) for part in (test, train)]
    moments = [(part.mean(dim=0).numpy(), torch.cov(part.T).numpy()) for part in rows]
    expected = frechet_distance(*moments[0], *moments[1])
    assert scored(extractor, both)["fid"].score.value == pytest.approx(expected.value, rel=1e-6)


def test_every_metric_of_the_task_has_a_score(
    extractor: Extractor, both: tuple[FeatureSet, FeatureSet, np.ndarray]
) -> None:
    found = scored(extractor, both)
    assert tuple(found) == IMAGES.metrics
    assert found["fid"].score.spec.name == "FD-wardrobe" == headline_of(IMAGES, extractor.info)


def test_the_class_is_read_back_by_the_judge(
    extractor: Extractor, both: tuple[FeatureSet, FeatureSet, np.ndarray]
) -> None:
    test, train, labels = both
    share = scored(extractor, both)["class-read-back"].score
    assert share.value == np.mean(train.rows["logits"].argmax(axis=1) == labels)
    assert (share.value or 0) > 0.85  # real pictures of the training set
    against = against_pictures("test", test, purpose="generation", extractor=extractor)
    wrong = score_pictures(IMAGES, against, train, labels=(labels + 1) % 8, metrics=["class-read-back"])
    assert (wrong[0].score.value or 0) < 0.1


def test_scores_survive_being_written(extractor: Extractor, both: tuple[FeatureSet, FeatureSet, np.ndarray]) -> None:
    for entry in scored(extractor, both).values():
        assert TaskScore.from_dict(entry.to_dict()) == entry


def test_what_is_no_score_is_said() -> None:
    with pytest.raises(DataError, match="cannot be read"):
        TaskScore.from_dict({"metric": "fid"})


def test_pairs_are_scored_by_their_mean() -> None:
    entry = score_values("psnr", np.array([20.0, 30.0, 25.0, 25.0]))
    assert entry.score.value == 25.0
    assert entry.score.interval.low is not None
    assert entry.score.interval.low < 25.0
    assert score_values("lpips", np.array([0.1, 0.2]), title="LPIPS-untrained").score.spec.name == "LPIPS-untrained"


def test_metrics_that_a_network_cannot_give_are_refused(extractor: Extractor) -> None:
    check_task(IMAGES, extractor.info)
    with pytest.raises(ConfigError, match="spatial"):
        check_task(replace(IMAGES, metrics=(*IMAGES.metrics, "sfid")), extractor.info)
    without = replace(extractor.info, layers={"features_64": 64})
    with pytest.raises(ConfigError, match="does not know the classes"):
        check_task(IMAGES, without)


def test_pictures_are_no_reference_of_adm(tmp_path: Path) -> None:
    path = tmp_path / "samples.npz"
    np.savez(path, arr_0=np.zeros((4, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match="no statistics"):
        open_adm(path)


def test_too_few_pictures_for_the_protocol_and_for_the_features_are_said(extractor: Extractor) -> None:
    dim = extractor.info.dim
    assert few_pictures(IMAGES, extractor.info, 2000, expected=2000, num_compared=2000) == []
    (fewer,) = few_pictures(IMAGES, extractor.info, dim + 1, expected=2000)
    assert f"{dim + 1:,} samples, and the protocol asks for 2,000" in fewer
    (rank,) = few_pictures(IMAGES, extractor.info, 2000, expected=2000, num_compared=dim)
    assert f"{dim:,} pictures are no more than the {dim:,} dimensions of the features" in rank
    pairs = replace(IMAGES, metrics=("psnr",), headline="psnr")
    assert few_pictures(pairs, extractor.info, 4) == []
