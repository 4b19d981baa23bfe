"""How often networks ran for a sample: counted where a solver chooses its steps, known where it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from ovbench.harness.generation.flow_config import GuidanceConfig, SamplingConfig
from ovbench.harness.generation.picture_parts import Content
from ovbench.harness.generation.sampling import Evaluations
from ovbench.harness.generation.sampling_steps import EVALUATIONS, SamplingSteps


def steps(sampler: SamplingConfig) -> SamplingSteps:
    setting: Any = SimpleNamespace(sampling=SimpleNamespace(sampler=sampler), shift=1.0)
    return SamplingSteps(setting, cast(Any, None), cast(Any, None))


def content(**values: Any) -> Content:
    return Content(features=cast(Any, None), values=values, images_u8=cast(Any, None), kept=cast(Any, None))


def test_an_adaptive_solver_gives_the_mean_over_all_samples() -> None:
    counts = np.array([[20, 20, 0], [26, 30, 1]], dtype=np.int32)
    found = steps(SamplingConfig(method="dopri5")).evaluations(content(**{EVALUATIONS: counts}))
    assert found == Evaluations(velocities=23.0, network=25.0, guide=0.5)


def test_of_an_adaptive_solver_that_did_not_count_nothing_is_known() -> None:
    assert steps(SamplingConfig(method="dopri5")).evaluations(content(labels=np.zeros(2))) is None
    assert steps(SamplingConfig(method="dopri5")).evaluations(None) is None


@pytest.mark.parametrize(
    ("guidance", "expected"),
    [
        (GuidanceConfig(), (25, 25, 0)),
        (GuidanceConfig(kind="cfg", scale=1.5), (25, 50, 0)),
        (GuidanceConfig(kind="auto", scale=1.42), (25, 25, 25)),
    ],
)
def test_a_fixed_grid_is_known_without_the_samples(guidance: GuidanceConfig, expected: tuple[int, int, int]) -> None:
    velocities, network, guide = expected
    found = steps(SamplingConfig(method="euler", grid="full", num_steps=25, guidance=guidance)).evaluations(None)
    assert found == Evaluations(velocities=velocities, network=network, guide=guide)
