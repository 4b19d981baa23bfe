"""Hours of steps, and what the cache knows of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from ovbench._base.errors import ConfigError
from ovbench.harness.planning import (
    GPUS,
    Amount,
    Forecast,
    PlannedStep,
    Work,
    check_mfu,
    check_precision,
    find_gpu,
)
from ovbench.harness.steps import Step, StepCache

H100 = GPUS["h100"]
TRAIN = PlannedStep(name="dit", what="training", work=(Work(what="network", flops=989 * 10**15, precision="bfloat16"),))
SCORE = Work(what="scoring", flops=67 * 10**12, precision="float32", fixed=True)


def build(out: Path, work: Path) -> None:
    del work
    (out / "weights").write_text("w")


def test_hours_are_operations_over_the_reached_share_of_the_peak() -> None:
    assert TRAIN.gpu_hours(H100, 0.5) == pytest.approx(1000 / 0.5 / 3600)


def test_repeats_multiply_operations_and_hours() -> None:
    step = PlannedStep(name="dit", what="", work=TRAIN.work, repeats=3)
    assert step.flops == 3 * 989 * 10**15
    assert step.gpu_hours(H100, 1.0) == pytest.approx(3 * 1000 / 3600)


def test_step_that_is_not_counted_has_neither_operations_nor_hours() -> None:
    step = PlannedStep(name="scores", what="")
    assert step.flops is None
    assert step.gpu_hours(H100, 0.5) is None


def test_each_part_runs_at_the_peak_of_its_own_precision() -> None:
    step = PlannedStep(name="samples", what="", work=(*TRAIN.work, SCORE))
    assert step.gpu_hours(H100, 1.0) == pytest.approx((1000 + 1) / 3600)
    assert step.precisions == ("bfloat16", "float32")


def test_another_precision_leaves_the_scoring_network_as_it_is() -> None:
    step = PlannedStep(name="samples", what="", work=(*TRAIN.work, SCORE)).in_precision("tf32")
    assert [part.precision for part in step.work] == ["tf32", "float32"]


def test_a_cached_step_costs_nothing_any_more() -> None:
    done = PlannedStep(name="decoder", what="", work=TRAIN.work, cached=True)
    left = PlannedStep(name="dit", what="", work=TRAIN.work, cached=False)
    forecast = Forecast(encoder="e", steps=(done, left, PlannedStep(name="samples", what="")))
    assert forecast.flops == 989 * 10**15
    assert forecast.gpu_hours(H100, 1.0) == pytest.approx(1000 / 3600)


def test_disk_on_request_is_not_in_the_total_and_the_largest_memory_counts() -> None:
    forecast = Forecast(
        encoder="e",
        steps=(),
        memory=(Amount(what="a", num_bytes=5), Amount(what="b", num_bytes=9)),
        disk=(
            Amount(what="a", num_bytes=5),
            Amount(what="b", num_bytes=9),
            Amount(what="c", num_bytes=7, optional=True),
        ),
    )
    assert (forecast.disk_bytes, forecast.memory_bytes) == (14, 9)


def test_cache_tells_whether_a_step_is_there_and_what_it_cost(tmp_path: Path) -> None:
    cache, step = StepCache(tmp_path), Step(name="dit", version=1, inputs={"a": 1})
    assert TRAIN.looked_up(cache, [step]).cached is False
    cache.obtain(step, build)
    found = TRAIN.looked_up(cache, [step])
    assert found.cached is True
    assert found.made_in_s == cache.describe(step).made_in_s
    assert found.made_in_s is not None


def test_step_of_several_seeds_is_cached_when_all_are(tmp_path: Path) -> None:
    cache = StepCache(tmp_path)
    seeds = [Step(name="dit", version=1, inputs={"seed": seed}) for seed in (0, 1)]
    cache.obtain(seeds[0], build)
    assert TRAIN.looked_up(cache, seeds).cached is False
    cache.obtain(seeds[1], build)
    assert TRAIN.looked_up(cache, seeds).cached is True
    assert TRAIN.looked_up(cache, []).cached is False


def test_damaged_entry_counts_as_absent(tmp_path: Path) -> None:
    cache, step = StepCache(tmp_path), Step(name="dit", version=1, inputs={"a": 1})
    result = cache.obtain(step, build)
    (result.path / "weights").write_text("x")
    assert TRAIN.looked_up(StepCache(tmp_path), [step]).cached is False


def test_unknown_gpu_and_precision_are_refused_with_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown GPU 'h10'") as caught:
        find_gpu("h10")
    assert "did you mean 'h100'" in caught.value.fix
    with pytest.raises(ConfigError, match="unknown precision 'bfloat'") as caught:
        check_precision("bfloat")
    assert "did you mean 'bfloat16'" in caught.value.fix
    assert find_gpu("H100") is H100


@pytest.mark.parametrize("value", [0.0, -0.1, 1.01, float("nan"), float("inf")])
def test_share_of_the_peak_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="share above 0 and up to 1") as caught:
        check_mfu(value)
    assert caught.value.where == "--mfu"
