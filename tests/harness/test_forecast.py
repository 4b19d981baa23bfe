"""From words to a forecast: sizes of encoders without weights, what was measured, what is cached, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, OvbenchError
from ovbench._base.paths import asset
from ovbench.encoders.registry import parse_encoder
from ovbench.harness.forecast import PlanRequest, encoder_cost, look_ahead, measured, sized
from ovbench.harness.generation.flow_config import GuidanceConfig
from ovbench.harness.generation.options_config import GenerationOptions
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.lookup import steps_of
from ovbench.harness.plan import Job, plan_runs
from ovbench.harness.planning import Forecast
from ovbench.harness.protocols import load_protocol
from ovbench.harness.run import run_job
from ovbench.harness.steps import StepCache
from ovbench.results.record import ProtocolRecord, StepRecord
from ovbench.results.store import RunStore
from tests.results.conftest import record

PAPER = PlanRequest(encoders=["dinov2"], suite="generation", protocol="rae-imagenet256-80ep")
MINI = PlanRequest(encoders=["random"], suite="generation", protocol="mini-smoke")


def ahead(request: PlanRequest, folder: Path) -> Forecast:
    (forecast,) = look_ahead(request, runs=folder / "runs", cache=folder / "cache").forecasts
    return forecast


def recipe_of(name: str) -> GenerationRecipe:
    return read_recipe(load_protocol(name).section("generation"), where=name)


def job_of(request: PlanRequest, **options: Any) -> Job:
    made = [GenerationOptions(**options)] if request.suite == "generation" else None
    plan = plan_runs(
        encoders=request.encoders, suite=request.suite, protocol=request.protocol, tasks=None, limit=None,
        seeds=request.seeds, device="cpu", dtype="float32", batch_size=64, out=None, generation=made,
    )  # fmt: skip
    return plan.jobs[0]


# --- encoders ---


@pytest.mark.parametrize(
    ("text", "gflop", "shape"),
    [
        ("dinov2/base-reg", 47.1, (768, 16, 16)),
        ("clip/l14-336", 162.0, (1024, 16, 16)),  # 224 px in place of its 336
        ("siglip2/base-256", 46.8, (768, 16, 16)),
        ("ovis3/base-256", 319.07, (768, 16, 16)),  # behind the FLUX VAE
    ],
)
def test_released_encoder_is_sized_at_the_input_that_makes_the_grid(
    text: str, gflop: float, shape: tuple[int, int, int]
) -> None:
    cost = encoder_cost(parse_encoder(text), recipe_of("rae-imagenet256"), precision="bfloat16")
    assert cost.total_flops / 1e9 == pytest.approx(gflop, abs=0.06)
    assert (cost.shape, cost.fold, cost.native_flops) == (shape, 1, None)


def test_vae_reads_the_picture_and_is_folded_to_the_grid() -> None:
    cost = encoder_cost(parse_encoder("vae/sd"), recipe_of("rae-imagenet256"), precision="tf32")
    assert (cost.shape, cost.fold) == ((4, 32, 32), 2)
    assert cost.native_flops is not None
    assert cost.native_flops > cost.frontend_flops > 0  # its decoder is the wider half


def test_miniature_encoder_reads_one_garment() -> None:
    cost = encoder_cost(parse_encoder("clip/mini"), recipe_of("mini"), precision="tf32")
    assert cost.shape == (128, 4, 4)


def test_a_file_of_ones_own_training_is_sized_as_the_embedded_one_is() -> None:
    text = f"ovis3/mini:{asset('encoders/ovis3-mini.safetensors')}"
    assert sized(parse_encoder(text)).flops == sized(parse_encoder("ovis3/mini")).flops


def test_embedded_vae_in_front_is_sized_too() -> None:
    size = sized(parse_encoder("ovis3/mini"))
    assert size.flops.frontend > 0
    assert size.info.num_params_frontend == 473_804


def test_size_that_the_user_names_is_kept() -> None:
    with pytest.raises(ConfigError, match="no whole number of patches for 24 x 24 tokens"):
        look_ahead(replace(PAPER, encoders=["dinov2?size=336"]), runs=Path("none"), cache=Path("none"))


def test_encoder_that_cannot_read_the_protocols_size_is_refused() -> None:
    with pytest.raises(OvbenchError, match="256 were asked for"):
        look_ahead(replace(PAPER, encoders=["ovis1/base-16-224"]), runs=Path("none"), cache=Path("none"))


# --- what is planned ---


def test_paper_protocol_is_planned_without_any_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    outlook = look_ahead(PAPER, runs=tmp_path / "runs", cache=tmp_path / "cache")
    assert outlook.headline.startswith("plan · protocol rae-imagenet256-80ep v1 · suite generation (imagenet256)")
    assert " · seed 0 · dinov2/base-reg (facebook/dinov2-with-registers-base@a1d738ccfa7a)" in outlook.headline
    (forecast,) = outlook.forecasts
    assert all(step.cached is None for step in forecast.steps)
    assert any("not looked up" in note for note in forecast.notes)
    assert not (tmp_path / "cache").exists()


def test_count_guidance_and_seeds_change_the_samples(tmp_path: Path) -> None:
    def network(**changes: Any) -> int:
        (step,) = (step for step in ahead(replace(PAPER, **changes), tmp_path).steps if step.name == "samples")
        return next(part.flops for part in step.work if part.what == "network") * step.repeats

    plain = network()
    assert network(num_samples=10_000) * 5 == plain
    assert network(seeds=(0, 1)) == 2 * plain
    assert plain < network(guidance="cfg:1.5@0.1-0.9") < network(guidance="cfg:1.5")
    assert network(guidance="auto:1.42") == plain  # the guide is a network of its own


def test_types_of_the_encoder_and_of_everything_decide_the_precision(tmp_path: Path) -> None:
    def precisions(**changes: Any) -> dict[str, str]:
        (step,) = (step for step in ahead(replace(PAPER, **changes), tmp_path).steps if step.name == "dit")
        return {part.what: part.precision for part in step.work}

    assert precisions() == {"network": "tf32", "encoder": "tf32"}
    assert precisions(dtype="bfloat16") == {"network": "tf32", "encoder": "bfloat16"}
    assert precisions(encoders=["dinov2?dtype=bf16"])["encoder"] == "bfloat16"
    assert precisions(precision="bfloat16") == {"network": "bfloat16", "encoder": "bfloat16"}


def test_each_encoder_has_a_forecast_once(tmp_path: Path) -> None:
    request = replace(PAPER, encoders=["dinov2", "dinov2/base-reg", "mae"])
    found = look_ahead(request, runs=tmp_path, cache=tmp_path).forecasts
    assert [forecast.encoder for forecast in found] == ["dinov2/base-reg", "mae/base-256"]


# --- what is known of earlier runs ---


def test_cached_steps_are_those_that_a_run_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    request = replace(MINI, suite="reconstruction")
    assert {step.cached for step in ahead(request, tmp_path).steps} == {False}
    run_job(job_of(request))
    again = ahead(request, tmp_path)
    assert {step.name: step.cached for step in again.steps} == dict.fromkeys(
        ("latents", "decoder", "samples", "features", "scores"), True
    )
    assert again.flops == 0
    shared = {step.name: step.cached for step in ahead(MINI, tmp_path).steps}
    assert shared == {
        "latents": True, "latent_stats": False, "decoder": True,
        "features": False,  # other layers: the samples' classes are read back
        "dit": False, "samples": False, "scores": False,
    }  # fmt: skip
    other = {step.name: step.cached for step in ahead(replace(request, seeds=(1,)), tmp_path).steps}
    assert (other["latents"], other["decoder"]) == (True, False)


def test_a_finished_generation_run_is_found_with_its_steps_and_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    job = job_of(MINI, num_samples=16, guidance=GuidanceConfig(kind="cfg", scale=1.5))
    made = run_job(job).record
    assert job.generation is not None
    assert {step.key for step in steps_of(job, StepCache(tmp_path / "cache"))} == {step.key for step in made.steps}
    request = replace(MINI, num_samples=16, guidance="cfg:1.5")
    planned = ahead(request, tmp_path)
    names = ("latents", "latent_stats", "decoder", "dit", "samples", "features", "scores")
    assert {step.name: step.cached for step in planned.steps} == dict.fromkeys(names, True)
    assert planned.flops == 0

    store = RunStore(tmp_path / "runs")
    store.keep(made, [])
    assert set(measured(store, job)) == set(names)
    for other in (job_of(MINI, num_samples=16), job_of(MINI, num_samples=17, guidance=job.generation.guidance)):
        assert measured(store, other) == {}
    guided = ahead(replace(MINI, num_samples=16, guidance="auto:1.42"), tmp_path)
    assert all(step.made_in_s is None for step in guided.steps)


def test_step_of_the_understanding_suite_is_looked_up(tmp_path: Path) -> None:
    request = replace(MINI, suite="understanding")
    cache = StepCache(tmp_path / "cache")
    (first,) = (step for step in steps_of(job_of(request), cache) if step.name == "llava_stage1")
    cache.obtain(first, lambda out, work: None)
    found = {step.name: step.cached for step in ahead(request, tmp_path).steps}
    assert found == {"features": False, "llava_stage1": True, "llava_stage2": False, "answers": False}


def test_times_are_those_of_the_newest_record_of_such_a_run(tmp_path: Path) -> None:
    def kept(day: int, steps: dict[str, float | None], spec: str = "random/mini", **changes: Any) -> None:
        made = tuple(
            StepRecord(name=name.rstrip("2"), key=f"{day}{name}".ljust(64, "0"), seconds=0.0, cached=False, made_in_s=s)
            for name, s in steps.items()
        )
        fields = {"suite": "reconstruction", "protocol": protocol, "day": day, "steps": made, **changes}
        RunStore(tmp_path).keep(record(spec, **fields), [])

    protocol = ProtocolRecord(name="mini-smoke", version=1, content={"name": "mini-smoke"})
    job = job_of(replace(MINI, suite="reconstruction"))
    assert measured(RunStore(tmp_path), job) == {}
    kept(1, {"decoder": 9.0})
    kept(2, {"decoder": 5.0, "samples": 1.0, "samples2": 2.0, "scores": None})
    kept(3, {"decoder": 7.0}, suite="generation")
    kept(4, {"decoder": 7.5}, protocol=replace(protocol, version=2))
    kept(5, {"decoder": 8.0}, spec="clip/mini")
    assert measured(RunStore(tmp_path), job) == {"decoder": 5.0, "samples": 3.0}


# --- what is refused ---


@pytest.mark.parametrize(
    ("changes", "where", "message"),
    [
        ({"encoders": ["dinov"]}, "--encoder", "unknown encoder 'dinov'"),
        ({"encoders": []}, "--encoder", "no encoder named"),
        ({"suite": "generatoin"}, "--suite", "unknown suite 'generatoin'"),
        ({"suite": "understanding"}, "--protocol", "has no section 'understanding'"),
        ({"suite": "all", "num_samples": 1}, "--num-samples", "must be 2 or more, got 1"),
        ({"protocol": "rae-imagenet"}, "--protocol", "unknown protocol 'rae-imagenet'"),
        ({"num_samples": 1}, "--num-samples", "must be 2 or more, got 1"),
        ({"suite": "reconstruction", "num_samples": 9}, "--num-samples", "needs --suite generation"),
        ({"suite": "reconstruction", "guidance": "none"}, "--guidance", "needs --suite generation"),
        ({"guidance": "cfg"}, "--guidance", "'cfg' is no guidance"),
        ({"guidance": "cfg:0.5"}, "--guidance", "at least 1, got 0.5"),
        ({"seeds": (-1,)}, "--seed", "0 or more, got -1"),
        ({"dtype": "float8"}, "--dtype", "float8"),
    ],
)
def test_what_cannot_be_planned_is_refused(changes: dict[str, Any], where: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        look_ahead(replace(PAPER, **changes), runs=tmp_path, cache=tmp_path)
    assert message in caught.value.what
    assert caught.value.where == where
