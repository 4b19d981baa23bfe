"""Every score of a set is what its own function gives, with an interval that is right, or a reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ovbench.harness.metrics.against import Against
from ovbench.harness.metrics.cmmd import cmmd
from ovbench.harness.metrics.conventions import METRICS, MODES
from ovbench.harness.metrics.feature_sets import FeatureAccumulator, FeatureSet
from ovbench.harness.metrics.fid_infinity import frechet_curve
from ovbench.harness.metrics.frechet import frechet_from_features
from ovbench.harness.metrics.inception_score import is_adm, is_tf
from ovbench.harness.metrics.jackknife import block_rows, jackknife_frechet, paired_frechet_difference
from ovbench.harness.metrics.kid import kid_full, kid_subsets
from ovbench.harness.metrics.manifold import density_coverage, precision_recall, squared_radii, tile_size
from ovbench.harness.metrics.picture_scores import PictureScore, Settings, paired_score_difference, score_sets
from ovbench.harness.metrics.references import Gaussian, Reference

from .picture_sets import pictures, toy_extractor, toy_rows

REAL, FAKE = toy_rows(pictures(90, 3)), toy_rows(pictures(110, 4, noise=25))
INFO = toy_extractor().info
SETS = ("fid", "sfid", "fid-infinity", "is", "kid", "precision", "recall", "density", "coverage")


def features(
    tmp_path: Path, rows: dict[str, np.ndarray], *, keep: tuple[str, ...] = ("pool", "spatial", "logits")
) -> FeatureSet:
    count = len(rows["pool"])
    accumulator = FeatureAccumulator(INFO, count, keep=keep, stream=("pool", "spatial"), folder=tmp_path)
    accumulator.add(rows, 0)
    return accumulator.finish()


def gaussian(rows: np.ndarray) -> Gaussian:
    exact = rows.astype(np.float64)
    return Gaussian(mu=exact.mean(axis=0), sigma=np.cov(exact, rowvar=False))


def against(rows: dict[str, np.ndarray], *, pictures: bool = True, **change: object) -> Against:
    reference = Reference(
        name="real", pool=gaussian(rows["pool"]), spatial=gaussian(rows["spatial"]), n=len(rows["pool"])
    )
    reference = replace(reference, **change)  # type: ignore[arg-type]
    return Against.of(reference, rows["pool"] if pictures else None, toy_extractor().device)


def settings(mode: str = "adm", **change: object) -> Settings:
    return replace(Settings(mode=MODES[mode]), **change)  # type: ignore[arg-type]


def scores(tmp_path: Path, metrics: tuple[str, ...] = SETS, *, mode: str = "adm", real: Against | None = None,
           fake: FeatureSet | None = None, **change: object) -> dict[str, PictureScore]:  # fmt: skip
    found = score_sets(metrics, real or against(REAL), fake or features(tmp_path, FAKE), settings(mode, **change))
    return {entry.metric: entry for entry in found.scores}


def test_every_score_is_its_own_functions(tmp_path: Path) -> None:
    found = {name: entry.score.value for name, entry in scores(tmp_path).items()}
    real, fake = REAL["pool"], FAKE["pool"]
    manifold, balls = precision_recall(real, fake), density_coverage(real, fake)
    pool = gaussian(real)
    assert found == {
        "fid": pytest.approx(frechet_from_features(real, fake).value, abs=1e-9),
        "sfid": pytest.approx(frechet_from_features(REAL["spatial"], FAKE["spatial"]).value, abs=1e-9),
        "fid-infinity": pytest.approx(frechet_curve(pool.mu, pool.sigma, fake, reference_n=90).infinity, abs=1e-9),
        "is": pytest.approx(is_adm(FAKE["logits"]).mean, abs=1e-12),
        "kid": pytest.approx(kid_full(real, fake), abs=1e-12),
        "precision": manifold.precision,
        "recall": manifold.recall,
        "density": balls.density,
        "coverage": balls.coverage,
    }
    assert scores(tmp_path, ("cmmd",))["cmmd"].score.value == pytest.approx(cmmd(real, fake), abs=1e-9)


def test_every_score_has_an_interval_around_it_but_the_line(tmp_path: Path) -> None:
    for name, entry in scores(tmp_path, (*SETS, "cmmd")).items():
        interval, value = entry.score.interval, entry.score.value
        if name == "fid-infinity":
            assert interval.low is None
            assert "scatter" in interval.method
            continue
        assert value is not None
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < value < interval.high or value in (0.0, 1.0), name


def test_intervals_can_be_switched_off_and_change_no_value(tmp_path: Path) -> None:
    found, bare = scores(tmp_path), scores(tmp_path, intervals=False)
    for name in SETS:
        assert bare[name].score.value == pytest.approx(found[name].score.value, abs=1e-12)
        assert bare[name].score.interval.low is None
    assert bare["fid"].score.interval.method == "none: switched off"


def test_the_distances_interval_is_the_block_jackknife(tmp_path: Path) -> None:
    pool = gaussian(REAL["pool"])
    knife = jackknife_frechet(FAKE["pool"], pool.mu, pool.sigma, 90)
    interval = scores(tmp_path)["fid"].score.interval
    assert interval.low == pytest.approx(knife.interval.low, abs=1e-9)
    assert interval.high == pytest.approx(knife.interval.high, abs=1e-9)


def leave_out(rows: np.ndarray, function: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """The textbook interval of a jackknife with 50 blocks, by computing everything again without each block."""
    values = np.array([function(np.delete(rows, block, axis=0)) for block in block_rows(len(rows), 50, 0)])
    error = np.sqrt(49 / 50 * np.sum((values - np.mean(values)) ** 2))
    centre = function(rows)
    return centre - 2.0095752 * error, centre + 2.0095752 * error


def test_the_intervals_of_kid_and_cmmd_are_the_plain_jackknifes(tmp_path: Path) -> None:
    found = scores(tmp_path, ("kid", "cmmd"))
    for name, function in (("kid", kid_full), ("cmmd", cmmd)):
        low, high = leave_out(FAKE["pool"], lambda rows, function=function: function(REAL["pool"], rows))
        assert found[name].score.interval.low == pytest.approx(low, rel=1e-6)
        assert found[name].score.interval.high == pytest.approx(high, rel=1e-6)


@pytest.mark.parametrize("mode", ["adm", "torch-fidelity"])
def test_the_interval_of_the_inception_score_leaves_rows_out_of_its_splits(tmp_path: Path, mode: str) -> None:
    interval = scores(tmp_path, ("is",), mode=mode)["is"].score.interval
    if mode == "adm":  # one split, so that leaving rows out and scoring again is the same
        low, high = leave_out(FAKE["logits"], lambda rows: is_adm(rows).mean)
        assert interval.low == pytest.approx(low, rel=1e-6)
        assert interval.high == pytest.approx(high, rel=1e-6)
    else:
        value = is_tf(FAKE["logits"]).mean
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < value < interval.high


def test_modes_take_the_conventions_of_their_programs(tmp_path: Path) -> None:
    found = scores(tmp_path, ("is", "kid"), mode="torch-fidelity", kid_subset_size=40)
    assert found["is"].score.value == pytest.approx(is_tf(FAKE["logits"]).mean)
    wanted = kid_subsets(FAKE["pool"], REAL["pool"], convention="torch-fidelity", subset_size=40)
    assert found["kid"].score.value == pytest.approx(wanted.mean)
    assert "torch-fidelity: mean of 100 subsets of 40, seed 2020" in found["kid"].how
    assert found["kid"].details["std_over_subsets"] == pytest.approx(wanted.std)
    clean = kid_subsets(REAL["pool"], FAKE["pool"], convention="clean-fid")
    assert scores(tmp_path, ("kid",), mode="clean")["kid"].score.value == pytest.approx(clean.mean)


def test_a_subset_that_is_too_large_is_a_reason_and_no_number(tmp_path: Path) -> None:
    entry = scores(tmp_path, ("kid",), mode="torch-fidelity")["kid"]
    assert entry.score.value is None
    assert "a subset of 1000 is larger than a set of 90" in (entry.score.reason or "")


def test_statistics_alone_give_distances_and_reasons(tmp_path: Path) -> None:
    found = scores(tmp_path, real=against(REAL, pictures=False))
    for name in SETS:
        if METRICS[name].needs == "reference pictures":
            assert found[name].score.value is None
            assert found[name].score.reason == "the reference holds statistics and no pictures"
        else:
            assert found[name].score.value is not None
    bare = scores(tmp_path, ("sfid",), real=against(REAL, spatial=None))
    assert "no spatial statistics" in (bare["sfid"].score.reason or "")


def test_statistics_of_more_than_the_pictures_are_used_for_the_distance(tmp_path: Path) -> None:
    whole = toy_rows(pictures(300, 5))
    real = replace(against(whole), rows=whole["pool"][:60])
    real = Against.of(real.stats, whole["pool"][:60], toy_extractor().device)
    found = scores(tmp_path, ("fid", "precision"), real=real)
    assert found["fid"].score.value == pytest.approx(frechet_from_features(whole["pool"], FAKE["pool"]).value, abs=1e-9)
    assert found["fid"].num_reference == 300
    assert found["precision"].score.value == precision_recall(whole["pool"][:60], FAKE["pool"]).precision
    assert found["precision"].num_reference == 60


@pytest.mark.parametrize(("n", "m"), [(8, 9), (8, 60), (60, 8), (12, 13)])
def test_sets_smaller_than_the_width_are_exact(tmp_path: Path, n: int, m: int) -> None:
    real, fake = ({layer: rows[:count] for layer, rows in part.items()} for part, count in ((REAL, n), (FAKE, m)))
    found = scores(tmp_path, ("fid", "sfid"), real=against(real), fake=features(tmp_path, fake))
    for name, layer in (("fid", "pool"), ("sfid", "spatial")):
        wanted = frechet_from_features(real[layer], fake[layer]).value
        assert found[name].score.value == pytest.approx(wanted, abs=1e-8)


def test_kept_radii_change_nothing_and_are_left_alone_where_they_do_not_fit(tmp_path: Path) -> None:
    tile = tile_size(90, 110)
    radii = squared_radii(REAL["pool"], tile=tile)
    plain = scores(tmp_path, ("precision", "recall"))
    kept = scores(tmp_path, ("precision", "recall"), real=against(REAL, radii_k3=radii, radii_tile=tile))
    other = scores(tmp_path, ("precision", "recall"), real=against(REAL, radii_k3=0 * radii, radii_tile=tile + 64))
    wrong = scores(tmp_path, ("precision", "recall"), real=against(REAL, radii_k3=0 * radii, radii_tile=tile))
    for name in ("precision", "recall"):
        assert plain[name].score.value == kept[name].score.value == other[name].score.value
    assert wrong["precision"].score.value == 0.0  # so they are used where they fit


def test_rows_that_were_not_kept_cost_the_interval_alone(tmp_path: Path) -> None:
    found = scores(tmp_path, ("fid", "sfid"), fake=features(tmp_path, FAKE, keep=()))
    whole = scores(tmp_path, ("fid", "sfid"))
    for name in ("fid", "sfid"):
        assert found[name].score.value == pytest.approx(whole[name].score.value, abs=1e-9)
        assert found[name].score.interval.method == "none: the rows of this layer were not kept"


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_very_few_pictures_are_scored_or_have_a_reason(tmp_path: Path, count: int) -> None:
    few = {layer: rows[:count] for layer, rows in FAKE.items()}
    for entry in scores(tmp_path, fake=features(tmp_path, few)).values():
        assert (entry.score.value is None) == bool(entry.score.reason)
    found = scores(tmp_path, ("fid", "precision"), fake=features(tmp_path, few))
    assert found["fid"].score.value is not None
    assert (found["precision"].score.value is None) == (count <= 3)


def test_sorted_labels_are_said(tmp_path: Path) -> None:
    labels = np.repeat(np.arange(11), 10)
    (warning,) = scores(tmp_path, ("is",), labels=labels)["is"].warnings
    assert "labels arrive sorted" in warning


def test_names_are_honest(tmp_path: Path) -> None:
    names = {entry.score.spec.name for entry in scores(tmp_path, (*SETS, "cmmd")).values()}
    assert names == {
        "FD-Toy", "sFID-Toy", "FD-infinity-Toy", "IS-Toy", "KID-Toy", "Precision-Toy", "Recall-Toy", "Density-Toy",
        "Coverage-Toy", "CMMD-Toy",
    }  # fmt: skip


def test_drawing_subsets_widens_the_interval_of_kid(tmp_path: Path) -> None:
    """Both errors add in squares: that of the pictures, and that of the mean over 100 subsets."""
    full = scores(tmp_path, ("kid",))["kid"].score.interval
    drawn = scores(tmp_path, ("kid",), mode="torch-fidelity", kid_subset_size=40)["kid"]
    wanted = kid_subsets(FAKE["pool"], REAL["pool"], convention="torch-fidelity", subset_size=40)
    t = 2.0095752
    assert full.low is not None
    assert full.high is not None
    assert drawn.score.interval.low is not None
    half = t * np.hypot((full.high - full.low) / 2 / t, wanted.std / 10)
    assert wanted.mean - drawn.score.interval.low == pytest.approx(half, rel=1e-6)
    assert "the draw of subsets" in drawn.score.interval.method


def test_every_network_score_names_its_resize_and_an_untrained_network(tmp_path: Path) -> None:
    for entry in scores(tmp_path, (*SETS, "cmmd")).values():
        assert entry.how.startswith("resize none; ")
    untrained = replace(features(tmp_path, FAKE), info=replace(INFO, trained=False))
    assert scores(tmp_path, ("fid",), fake=untrained)["fid"].how.startswith("resize none, UNTRAINED network; ")


def test_details_hold_the_bias_and_the_corrected_distance(tmp_path: Path) -> None:
    entry = scores(tmp_path, ("fid",))["fid"]
    pool = gaussian(REAL["pool"])
    knife = jackknife_frechet(FAKE["pool"], pool.mu, pool.sigma, 90)
    assert entry.details["bias"] == pytest.approx(knife.bias, rel=1e-6)
    assert entry.details["corrected"] == pytest.approx(knife.corrected, abs=1e-8)
    assert entry.details["num_blocks"] == 50


def test_a_difference_is_paired_wherever_both_scores_have_a_jackknife(tmp_path: Path) -> None:
    other = toy_rows(pictures(110, 9, noise=25))
    first, second = scores(tmp_path), scores(tmp_path, fake=features(tmp_path, other))
    for name in SETS:
        gap = paired_score_difference(first[name], second[name])
        assert gap is not None
        assert gap.value == pytest.approx((first[name].score.value or 0) - (second[name].score.value or 0))
        assert (gap.interval.low is not None) == (name in ("fid", "sfid", "is", "kid"))
    pool = gaussian(REAL["pool"])
    wanted = paired_frechet_difference(FAKE["pool"], other["pool"], pool.mu, pool.sigma, 90)
    gap = paired_score_difference(first["fid"], second["fid"])
    assert gap is not None
    assert gap.interval.low == pytest.approx(wanted.interval.low, abs=1e-8)
    assert gap.interval.high == pytest.approx(wanted.interval.high, abs=1e-8)
