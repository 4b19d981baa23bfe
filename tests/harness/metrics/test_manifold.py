from __future__ import annotations

import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.manifold import density_coverage, precision_recall

ORACLE = SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "oracles" / "generation.py")))
Z = ORACLE.golden_features()
PRDC = ORACLE.golden_expected()["prdc"]
PAIRS = [
    ("pr_ref", "pr_gen", "pr_ref_vs_pr_gen"),
    ("pr_ref_big", "pr_gen_big", "pr_ref_big_vs_pr_gen_big"),
    ("a", "b", "a_as_ref_b_as_gen"),
]


@pytest.mark.parametrize(("ref", "gen", "key"), PAIRS)
@pytest.mark.parametrize(
    ("variant", "options"),
    [
        ("adm_k3_float32_distances", {}),
        ("adm_k3_float64_distances", {"distance_dtype": "float64"}),
        ("adm_k3_float32_batch97", {"block": 97}),
        ("adm_k5_float32_distances", {"k": 5}),
        ("prdc_k3", {"convention": "prdc"}),
        ("prdc_k5", {"convention": "prdc", "k": 5}),
        ("torch_fidelity_k3_input1_generated_input2_real", {"convention": "torch-fidelity"}),
    ],
)
def test_golden_values(ref: str, gen: str, key: str, variant: str, options: dict[str, Any]) -> None:
    found = precision_recall(Z[ref], Z[gen], **options)
    expected = PRDC[key][variant]
    assert found.precision == pytest.approx(expected["precision"], abs=1e-7)
    assert found.recall == pytest.approx(expected["recall"], abs=1e-7)
    if "f_score" in expected:
        assert found.f_score == pytest.approx(expected["f_score"], abs=1e-7)


@pytest.mark.parametrize(("ref", "gen", "key"), PAIRS)
@pytest.mark.parametrize("k", [3, 5])
def test_density_and_coverage_golden_values(ref: str, gen: str, key: str, k: int) -> None:
    found = density_coverage(Z[ref], Z[gen], k=k)
    assert found.density == pytest.approx(PRDC[key][f"prdc_k{k}"]["density"], abs=1e-9)
    assert found.coverage == pytest.approx(PRDC[key][f"prdc_k{k}"]["coverage"], abs=1e-9)


@pytest.mark.parametrize(("ref", "gen", "key"), PAIRS)
def test_half_precision_as_adm(ref: str, gen: str, key: str) -> None:
    found = precision_recall(Z[ref], Z[gen], distance_dtype="float16_adm")
    expected = PRDC[key]["adm_k3_float16_emulated"]
    assert found.precision == pytest.approx(expected["precision"], abs=2 / 500 + 1e-9)
    assert found.recall == pytest.approx(expected["recall"], abs=2 / 400 + 1e-9)
    assert found.distance_dtype == ("float32" if "big" in ref else "float16_adm")  # large features would overflow


def test_constant_vectors_are_inside_for_adm_and_outside_for_prdc() -> None:
    same = np.full((10, 8), 0.3, dtype=np.float32)
    expected = PRDC["constant_vectors_10x8_vs_same"]
    adm, prdc, rest = (
        precision_recall(same, same),
        precision_recall(same, same, convention="prdc"),
        density_coverage(same, same, k=3),
    )
    assert {"precision": adm.precision, "recall": adm.recall} == expected["adm_k3"]
    assert expected["prdc_k3"] == {
        "precision": prdc.precision, "recall": prdc.recall, "density": rest.density, "coverage": rest.coverage,
    }  # fmt: skip


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize(("n", "m", "k"), [(30, 41, 3), (12, 50, 5), (5, 4, 3)])
def test_oracle_agrees_with_unequal_sizes(n: int, m: int, k: int, strict: bool) -> None:
    generator = np.random.default_rng(n)
    ref, gen = generator.standard_normal((n, 4)), generator.standard_normal((m, 4)) * 0.8
    expected = ORACLE.manifold(ref, gen, k, strict=strict)
    found = precision_recall(ref, gen, k=k, convention="prdc" if strict else "adm")
    assert found.precision == pytest.approx(expected["precision"])
    assert found.recall == pytest.approx(expected["recall"])
    if strict:
        rest = density_coverage(ref, gen, k=k)
        assert rest.density == pytest.approx(expected["density"])
        assert rest.coverage == pytest.approx(expected["coverage"])


@pytest.mark.parametrize(("n", "m", "k"), [(30, 41, 3), (12, 50, 5), (9, 4, 2)])
def test_the_error_of_the_density_is_the_oracles(n: int, m: int, k: int) -> None:
    generator = np.random.default_rng(n)
    ref, gen = generator.standard_normal((n, 4)), generator.standard_normal((m, 4)) * 0.8
    expected = ORACLE.density_error(ref, gen, k)
    assert expected > 0
    assert density_coverage(ref, gen, k=k, block=16).density_error == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16_adm"])
@pytest.mark.parametrize("block", [1, 3, 64, 97, 333])
def test_blocks_do_not_change_the_result(dtype: Any, block: int) -> None:
    ref, gen = Z["a"][:150], np.concatenate([Z["b"][:160], Z["a"][:20]])  # with copies of reference images
    options = {"distance_dtype": dtype}
    assert precision_recall(ref, gen, block=block, **options) == precision_recall(ref, gen, **options)
    assert density_coverage(ref, gen, block=block, **options) == density_coverage(ref, gen, **options)


def test_torch_fidelity_agrees_side_by_side() -> None:
    pytest.importorskip("torch_fidelity", reason="torch-fidelity is not installed")
    from torch_fidelity.metric_prc import prc_features_to_metric

    generator = np.random.default_rng(6)
    ref, gen = (torch.from_numpy(generator.standard_normal((n, 6)).astype(np.float32)) for n in (300, 420))
    theirs = prc_features_to_metric(gen * 0.7, ref, verbose=False)
    ours = precision_recall(ref, gen * 0.7, convention="torch-fidelity")
    assert ours.precision == pytest.approx(theirs["precision"], abs=1 / 420 + 1e-6)
    assert ours.recall == pytest.approx(theirs["recall"], abs=1 / 300 + 1e-6)
    assert ours.precision > ours.recall  # and not swapped


def test_the_result_says_what_it_is() -> None:
    found = precision_recall(Z["pr_ref"], Z["pr_gen"], k=5)
    assert (found.convention, found.k, found.num_reference, found.num_generated) == ("adm", 5, 400, 500)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be between 1 and 399, got 0"),
        ({"k": 400}, "k must be between 1 and 399, got 400"),
        ({"block": 0}, "block must be at least 1, got 0"),
        ({"convention": "improved"}, "unknown convention 'improved'"),
        ({"distance_dtype": "bfloat16"}, "unknown distance_dtype 'bfloat16'"),
    ],
)
def test_impossible_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        precision_recall(Z["pr_ref"], Z["pr_gen"], **options)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (np.zeros((1, 32)), "at least 2 rows are needed, got 1"),
        (np.zeros((0, 32)), "at least 2 rows are needed, got 0"),
        (np.full((5, 32), np.inf), "5 of 5 rows hold NaN or infinity"),
        (np.zeros((5, 31)), "the two sets have 32 and 31 dimensions"),
    ],
)
@pytest.mark.parametrize("score", [precision_recall, density_coverage])
def test_bad_features_are_refused(features: Any, message: str, score: Any) -> None:
    with pytest.raises(DataError, match=message):
        score(Z["pr_ref"], features)
