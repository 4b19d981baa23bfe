from __future__ import annotations

import runpy
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import DataError
from ovbench.harness.metrics.frechet import (
    factor,
    frechet_distance,
    frechet_from_features,
    gaussian,
    moments_of,
    singular_values,
)

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()
FID = ORACLE.golden_expected()["fid"]
PAIRS = [
    ("a", "b", "a_vs_b"),
    ("a", "a", "a_vs_a"),
    ("small_a", "small_b", "small_a_vs_small_b"),
    ("small_a", "b", "small_a_vs_b"),
    ("wide_a", "wide_b", "wide_a_vs_wide_b (12 rows, 512 dims)"),
    ("exact_a", "exact_b", "exact_a_vs_exact_b"),
]


def _stats(features: Any) -> tuple[np.ndarray, np.ndarray]:
    return ORACLE.moments(features)


@pytest.mark.parametrize(("one", "other", "key"), PAIRS)
@pytest.mark.parametrize("route", ["features", "statistics", "statistics of unknown n", "torch", "swapped"])
def test_golden_values_hold_on_every_route(one: str, other: str, key: str, route: str) -> None:
    first, second = Z[one], Z[other]
    if route == "features":
        found = frechet_from_features(first, second)
    elif route == "torch":
        found = frechet_from_features(torch.from_numpy(first), torch.from_numpy(second))
    elif route == "swapped":
        found = frechet_from_features(second, first)
    elif route == "statistics":
        found = frechet_distance(*_stats(first), *_stats(second), len(first), len(second))
    else:
        found = frechet_distance(*_stats(first), *_stats(second))
    tolerance = 1e-9 if key == "a_vs_a" else 1e-8
    assert found.value == pytest.approx(FID[key]["float64_svd_of_centred_data"], abs=tolerance)
    others = {name: value for name, value in FID[key].items() if "wide" not in key and "ddof0" not in name}
    for name, value in others.items():
        relative = 1e-5 if name.startswith("torchmetrics") else 0.0
        assert abs(found.value - value) <= max(relative * abs(value), 1e-5), name


def test_the_parts_add_up_and_say_how() -> None:
    found = frechet_from_features(Z["a"], Z["b"])
    assert found.value == found.mean_term + found.trace1 + found.trace2 - 2 * found.trace_sqrt
    assert (found.n1, found.n2, found.solver, found.flags) == (400, 500, "cholesky-eigvalsh", ())


@pytest.mark.parametrize(
    ("one", "other", "solver", "flags"),
    [
        ("small_a", "small_b", "svd-of-data", ("n1-below-dim", "n2-below-dim")),
        ("small_a", "b", "svd-of-factors", ("n1-below-dim",)),
        ("b", "small_a", "svd-of-factors", ("n2-below-dim",)),
    ],
)
def test_few_rows_choose_the_safe_solver_and_are_flagged(one: str, other: str, solver: str, flags: Any) -> None:
    found = frechet_from_features(Z[one], Z[other])
    assert (found.solver, found.flags) == (solver, flags)


def test_a_singular_covariance_with_enough_rows_falls_back_to_factors() -> None:
    flat = Z["b"].copy()
    flat[:, 0] = 0.0  # a dead channel
    found = frechet_from_features(Z["a"], flat)
    assert found.solver == "svd-of-factors"
    assert found.value == pytest.approx(ORACLE.frechet(*_stats(Z["a"]), *_stats(flat)), abs=1e-6)


def test_unknown_n_is_flagged_and_gives_the_same_value() -> None:
    known = frechet_distance(*_stats(Z["a"]), *_stats(Z["b"]), 400, 500)
    unknown = frechet_distance(*_stats(Z["a"]), *_stats(Z["b"]))
    assert unknown.flags == ("n1-unknown", "n2-unknown")
    assert unknown.solver == "svd-of-factors"
    assert unknown.value == pytest.approx(known.value, abs=1e-10)


def test_closed_form_of_the_block_statistics() -> None:
    found = frechet_distance(Z["block_mu1"], Z["block_sigma1"], Z["block_mu2"], Z["block_sigma2"])
    assert found.value == pytest.approx(
        ORACLE.golden_expected()["fid_from_statistics"]["block"]["closed_form"], abs=1e-8
    )


def test_closed_form_of_exact_moments_has_n_minus_one() -> None:
    found = frechet_from_features(Z["exact_a"], Z["exact_b"]).value
    assert found == pytest.approx(FID["exact_a_vs_exact_b"]["closed_form"], abs=1e-8)
    assert abs(found - FID["exact_a_vs_exact_b"]["closed_form_if_ddof0_were_used_instead"]) > 0.01


def test_a_shift_alone_costs_its_square() -> None:
    shifted = Z["a"].astype(np.float64) + Z["shift"]
    found = frechet_from_features(Z["a"], shifted).value
    assert found == pytest.approx(float(np.sum(Z["shift"].astype(np.float64) ** 2)), abs=1e-8)
    assert found == pytest.approx(FID["a_vs_a_plus_shift"]["closed_form"], abs=1e-5)


@pytest.mark.parametrize("dim", [1, 2, 30])
@pytest.mark.parametrize("n", [None, 1000])
def test_diagonal_gaussians_have_a_closed_form(dim: int, n: int | None) -> None:
    generator = np.random.default_rng(dim)
    mu1, mu2 = generator.standard_normal((2, dim))
    s1, s2 = generator.random((2, dim)) + 0.01
    expected = float(np.sum((mu1 - mu2) ** 2) + np.sum((s1 - s2) ** 2))
    found = frechet_distance(mu1, np.diag(s1**2), mu2, np.diag(s2**2), n, n)
    assert found.value == pytest.approx(expected, abs=1e-8)


@pytest.mark.parametrize("dim", [3, 40])
def test_rotated_scaled_gaussians_have_a_closed_form(dim: int) -> None:
    generator = np.random.default_rng(0)
    matrix = generator.standard_normal((dim, dim))
    sigma = matrix @ matrix.T
    found = frechet_distance(np.zeros(dim), sigma, np.zeros(dim), 4.0 * sigma, 10_000, 10_000)
    assert found.value == pytest.approx(float(np.trace(sigma)), rel=1e-10)  # (2 - 1)^2 tr S


def test_near_singular_spectrum_is_right() -> None:
    generator = np.random.default_rng(3)
    basis = np.linalg.qr(generator.standard_normal((200, 200)))[0]
    values = np.arange(1, 201) ** -6.0  # condition number 6e13
    sigma = (basis * values) @ basis.T
    sigma = (sigma + sigma.T) / 2
    for n in (None, 10_000):
        found = frechet_distance(np.zeros(200), sigma, np.zeros(200), 9.0 * sigma, n, n)
        assert found.value == pytest.approx(4.0 * values.sum(), abs=1e-6)


def test_disjoint_subspaces_share_nothing() -> None:
    first, second = np.zeros((6, 6)), np.zeros((6, 6))
    first[:3, :3], second[3:, 3:] = np.eye(3), 2 * np.eye(3)
    assert frechet_distance(np.zeros(6), first, np.zeros(6), second).value == pytest.approx(9.0, abs=1e-12)


def test_constant_features_are_a_point() -> None:
    ones = np.ones((10, 4))
    assert frechet_from_features(ones, ones + 2).value == pytest.approx(16.0)
    assert frechet_from_features(ones[:3], ones[:3]).value == 0.0


def test_the_raw_value_is_not_cut_and_a_large_negative_is_flagged() -> None:
    sigma = np.eye(3)
    found = frechet_distance(np.zeros(3), sigma, np.zeros(3), sigma)
    assert abs(found.value) < 1e-12
    assert "negative" not in found.flags
    from ovbench.harness.metrics.frechet import assemble

    stats = gaussian(np.zeros(3), sigma, 10, "x")
    wrong = assemble(stats, stats, 3.1, "svd-of-factors")
    assert wrong.value == pytest.approx(-0.2)
    assert wrong.flags == ("negative",)


def test_oracle_agrees_on_random_statistics() -> None:
    generator = np.random.default_rng(8)
    for n1, n2, dim in ((50, 60, 8), (9, 60, 8), (5, 6, 8), (2, 2, 8)):
        a, b = generator.standard_normal((n1, dim)), generator.standard_normal((n2, dim)) * 2 + 1
        expected = ORACLE.frechet(*_stats(a), *_stats(b))
        assert frechet_from_features(a, b).value == pytest.approx(expected, abs=1e-6)


def test_a_factor_has_the_rank_its_samples_allow() -> None:
    stats = moments_of(Z["wide_a"], "x")
    root = factor(stats)
    assert root.shape == (512, 11)
    assert float((root @ root.T - stats.sigma).abs().max()) < 1e-12
    assert len(singular_values(torch.zeros(0, 3, dtype=torch.float64))) == 0


def test_all_packages_agree_side_by_side() -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    pytest.importorskip("cleanfid", reason="clean-fid is not installed")
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    from cleanfid.fid import frechet_distance as clean_fid
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torchmetrics.image.fid import _compute_fid

    generator = np.random.default_rng(11)
    mixing = generator.standard_normal((48, 48))
    a = np.maximum(generator.standard_normal((700, 48)) @ mixing, 0).astype(np.float32)
    b = np.maximum(generator.standard_normal((650, 48)) @ mixing + 0.3, 0).astype(np.float32)
    ours = frechet_from_features(a, b).value
    stats = [fid_features_to_statistics(torch.from_numpy(rows.astype(np.float64))) for rows in (a, b)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy 1.17 announces the end of `disp`
        theirs = {
            "torch-fidelity": fid_statistics_to_metric(*stats, verbose=False)["frechet_inception_distance"],
            "clean-fid": clean_fid(stats[0]["mu"], stats[0]["sigma"], stats[1]["mu"], stats[1]["sigma"]),
            "torchmetrics": float(_compute_fid(*(torch.from_numpy(s[k]) for s in stats for k in ("mu", "sigma")))),
        }
    for name, value in theirs.items():
        assert ours == pytest.approx(float(value), rel=1e-9), name


_EYE = np.eye(3)


def _skewed() -> np.ndarray:
    matrix = np.eye(3)
    matrix[0, 1] = 0.1
    return matrix


@pytest.mark.parametrize(
    ("mu", "sigma", "n", "message"),
    [
        (np.zeros(3), np.eye(4), None, r"a covariance \[d, d\], got \[3\] and \[4, 4\]"),
        (np.zeros((3, 1)), _EYE, None, r"expected a mean \[d\]"),
        (np.zeros(0), np.zeros((0, 0)), None, r"expected a mean \[d\]"),
        (np.array([0, np.nan, 0]), _EYE, None, "hold NaN or infinity"),
        (np.zeros(3), np.full((3, 3), np.inf), None, "hold NaN or infinity"),
        (np.zeros(3), _skewed(), None, "not symmetric: entries differ from their mirror by up to 0.1"),
        (np.zeros(3), np.diag([1.0, 1.0, -0.5]), None, "not positive semidefinite: it has variance -0.5"),
        (np.zeros(3), np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), None, "it has eigenvalue -1"),
        (np.zeros(3), np.array([[1.0, 2, 0], [2, 1, 0], [0, 0, 1]]), 100, "it has eigenvalue -1"),
        (np.zeros(3), _EYE, 1, "needs at least 2 samples, got n = 1"),
        (np.zeros(2), np.eye(2), None, "the statistics have 3 and 2 dimensions"),
    ],
)
def test_statistics_of_nothing_are_refused(mu: Any, sigma: Any, n: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frechet_distance(np.zeros(3), _EYE, mu, sigma, 100, n)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 64)), "at least 2 rows are needed, got 1"),
        (np.zeros((0, 64)), "at least 2 rows are needed, got 0"),
        (np.zeros(64), "must be a matrix"),
        (np.full((5, 64), np.nan), "5 of 5 rows hold NaN"),
        (np.zeros((5, 63)), "the two sets have 64 and 63 dimensions"),
    ],
)
def test_features_of_nothing_are_refused(features: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        frechet_from_features(Z["a"], features)
