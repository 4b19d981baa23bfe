"""What an understanding run would cost, from configurations alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from ovbench.harness.forecast import PlanRequest, look_ahead
from ovbench.harness.plan import plan_runs
from ovbench.harness.planning import Forecast, Work
from ovbench.harness.understanding.forecast import understanding_forecast
from ovbench.harness.understanding.options_config import UnderstandingOptions
from tests.end_to_end.llava_parts import LLM, write_protocol


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))


@dataclass(frozen=True)
class Cost:
    """An encoder of LLaVA-1.5's size: CLIP's L/14 at 336 px."""

    name: str = "clip/l14-336"
    params: int = 303_507_456
    shape: tuple[int, int, int] = (1024, 24, 24)
    total_flops: int = 381_900_000_000

    def work(self, num_images: int, /) -> tuple[Work, ...]:
        return (Work(what="encoder", flops=num_images * self.total_flops, precision="float32"),)


def forecast(protocol: str, options: UnderstandingOptions | None = None) -> Forecast:
    (job,) = plan_runs(
        encoders=["clip"], suite="understanding", protocol=protocol, tasks=None, limit=None, seeds=[0], device="cpu",
        dtype="float32", batch_size=64, out=None, understanding=options,
    ).jobs  # fmt: skip
    return understanding_forecast(job, Cost(), repeats=1)


def flops(found: Forecast, name: str) -> int:
    (step,) = (step for step in found.steps if step.name == name)
    return sum(work.flops for work in step.work)


def test_the_vicuna_protocol_costs_what_llava_reports() -> None:
    found = forecast("llava15-vicuna7b")
    assert round(found.params["language model"] / 1e6) == 6738
    assert 2e19 < flops(found, "llava_stage2") < 5e19
    assert 1e19 < flops(found, "llava_stage1") < 2e19
    (stage2,) = (step for step in found.steps if step.name == "llava_stage2")
    assert stage2.what.startswith("5,198 updates of 128")
    memory = {amount.what: amount.num_bytes for amount in found.memory}
    assert any("fsdp2" in what and 100e9 < size < 120e9 for what, size in memory.items())


def test_the_proxy_costs_a_hundredth() -> None:
    whole, proxy = forecast("llava15-vicuna7b"), forecast("llava15-proxy")
    assert 20 < flops(whole, "llava_stage2") / flops(proxy, "llava_stage2") < 200
    (stage1,) = (step for step in proxy.steps if step.name == "llava_stage1")
    assert stage1.what.startswith("436 updates of 256")


def test_the_miniature_protocol_is_counted_in_scenes() -> None:
    found = forecast("mini")
    steps = {step.name: step for step in found.steps}
    assert steps["features"].what.startswith("6,000 training scenes")
    assert steps["llava_stage1"].what == "300 updates of 32 scenes"
    assert steps["llava_stage2"].what == "800 updates of 16 scenes"
    assert not steps["llava_stage2"].work
    assert found.memory == found.disk == ()


def test_another_language_model_is_counted_in_place_of_the_protocols() -> None:
    found = forecast("llava15-vicuna7b", UnderstandingOptions(language_model=LLM))
    assert 0 < found.params["language model"] < 5e6
    assert flops(found, "llava_stage2") < 1e17


def test_recipe_of_ones_own_is_planned_without_its_data(tmp_path: Path) -> None:
    request = PlanRequest(
        encoders=("clip",), suite="understanding", protocol=str(write_protocol(tmp_path / "own.yaml"))
    )
    (found,) = look_ahead(request, runs=tmp_path / "runs", cache=tmp_path / "cache").forecasts
    assert any("lists of conversations" in note for note in found.notes)
    assert {step.name for step in found.steps} == {"features", "llava_stage1", "llava_stage2", "answers"}
