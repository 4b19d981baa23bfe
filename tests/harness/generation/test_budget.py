"""What training, sampling and scoring cost, against the specification's table for an H100."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ovbench.harness.generation.budget import (
    IMAGENET_TRAIN,
    Budget,
    EncoderCost,
    guided_evaluations,
    sample_cost,
)
from ovbench.harness.generation.budget_forecast import generation_forecast, reconstruction_forecast
from ovbench.harness.generation.config import preset
from ovbench.harness.generation.cost import decoder_flops, vgg16_flops
from ovbench.harness.generation.decoder_config import DECODERS
from ovbench.harness.generation.flow_config import GuidanceConfig, SamplingConfig
from ovbench.harness.generation.recipe_config import GenerationRecipe, read_recipe
from ovbench.harness.planning import GPUS, Forecast, PlannedStep
from ovbench.harness.protocols import load_protocol
from ovbench.tasks.pictures import PictureTask, load_picture_task

H100 = GPUS["h100"]
DINOV2_B = EncoderCost(
    name="dinov2/base-reg", flops=47_078_313_984, params=86_583_552, shape=(768, 16, 16), precision="bfloat16"
)
SHIFT = 768**0.5 / 4  # sqrt(768 * 16 * 16 / 4096)
XL, S = preset("dit-dh-xl"), preset("dit-dh-s")
DECODE = decoder_flops(DECODERS["vit-xl"])


def recipe_of(name: str) -> GenerationRecipe:
    return read_recipe(load_protocol(name).section("generation"), where=name)


def task_of(name: str) -> PictureTask:
    return load_picture_task(name)


def paper(name: str = "rae-imagenet256-80ep", encoder: EncoderCost = DINOV2_B, **settings: int) -> Budget:
    return Budget(recipe_of(name), encoder, **settings)


def forecast_of(budget: Budget) -> Forecast:
    return generation_forecast(budget, task_of("imagenet256"))


def part(step: PlannedStep | None, what: str) -> int:
    assert step is not None
    (found,) = (work.flops for work in step.work if work.what == what)
    return found


def bfloat16_hours(step: PlannedStep, mfu: float) -> float:
    hours = step.in_precision("bfloat16").gpu_hours(H100, mfu)
    assert hours is not None
    return hours


# --- sampling ---


@pytest.mark.parametrize(
    ("guidance", "teraflop"),
    [
        (GuidanceConfig(), 16.06),
        (GuidanceConfig(kind="auto", scale=1.42), 20.8),
        (GuidanceConfig(kind="cfg", scale=1.5), 31.9),
    ],
)
def test_a_sample_costs_what_the_specification_says(guidance: GuidanceConfig, teraflop: float) -> None:
    cost = sample_cost(XL, S, SamplingConfig(guidance=guidance), SHIFT)
    assert cost.network is not None
    assert cost.guide is not None
    assert (cost.network + cost.guide + DECODE) / 1e12 == pytest.approx(teraflop, rel=0.003)


@pytest.mark.parametrize(("mfu", "images", "minutes"), [(0.40, 24.6, 34), (0.45, 27.7, 30), (0.50, 30.8, 27)])
def test_speed_of_sampling_is_the_specifications(mfu: float, images: float, minutes: float) -> None:
    rate = forecast_of(paper()).samples_per_s(H100, mfu, "bfloat16")
    assert rate == pytest.approx(images, abs=0.06)
    assert 50_000 / (rate or 1.0) / 60 == pytest.approx(minutes, abs=0.5)


@pytest.mark.parametrize(
    ("sampler", "counts"),
    [
        (SamplingConfig(), (49, 0)),
        (SamplingConfig(grid="full"), (50, 0)),
        (SamplingConfig(method="heun2"), (98, 0)),
        (SamplingConfig(method="rk4", num_steps=5, grid="full"), (20, 0)),
        (SamplingConfig(guidance=GuidanceConfig(kind="cfg", scale=1.0)), (49, 0)),
        (SamplingConfig(guidance=GuidanceConfig(kind="cfg", scale=2.0)), (49, 49)),
        (
            SamplingConfig(
                num_steps=4, grid="full", guidance=GuidanceConfig(kind="cfg", scale=2.0, interval=(0.5, 0.8))
            ),
            (4, 2),
        ),
    ],
)
def test_evaluations_are_counted_by_method_grid_and_interval(sampler: SamplingConfig, counts: tuple[int, int]) -> None:
    # Of the last case: unshifted times 1, 0.75, 0.5, 0.25, of which two lie in [0.5, 0.8].
    assert guided_evaluations(sampler, 1.0) == counts


@pytest.mark.parametrize(
    ("interval", "shift", "guided"),
    [
        ((0.0, 1.0), 2.449489742783178, 5),  # this shift takes the time 1 to 1.0000001
        ((0.1, 0.8), 1.0, 4),  # in float32 0.8 is a little more
    ],
)
def test_ends_of_the_interval_are_guided_as_the_sampler_guides_them(
    interval: tuple[float, float], shift: float, guided: int
) -> None:
    sampler = SamplingConfig(
        num_steps=5, grid="full", guidance=GuidanceConfig(kind="cfg", scale=2.0, interval=interval)
    )
    assert guided_evaluations(sampler, shift) == (5, guided)


def test_a_solver_that_chooses_its_steps_is_not_counted_and_says_so() -> None:
    recipe = recipe_of("rae-imagenet256-80ep")
    sampling = replace(recipe.sampling, sampler=replace(recipe.sampling.sampler, method="dopri5"))
    budget = Budget(replace(recipe, sampling=sampling), DINOV2_B)
    step = budget.samples_step(task_of("imagenet256"))
    assert "dopri5 chooses" in step.missing
    assert [work.what for work in step.work] == ["decoder", "inception-tf"]
    assert forecast_of(budget).sample_flops is None


def test_samples_are_made_untrained_at_every_probe_and_at_the_end() -> None:
    step = paper().samples_step(task_of("imagenet256"))  # one probe
    forward = 323_157_393_408
    assert part(step, "network") == 50_000 * (2 * 49 + 1) * forward
    assert part(step, "decoder") == 3 * 50_000 * DECODE
    assert part(step, "inception-tf") == 3 * 50_000 * 11_426_464_960


# --- training ---


@pytest.mark.parametrize(("mfu", "hours", "online"), [(0.40, 69.7, 73.1), (0.45, 62.0, 65.0), (0.50, 55.8, 58.5)])
def test_80_epochs_take_the_specifications_hours(mfu: float, hours: float, online: float) -> None:
    step = paper().dit_step()
    alone = replace(step, work=tuple(work for work in step.work if work.what == "network"))
    assert bfloat16_hours(alone, mfu) == pytest.approx(hours, abs=0.1)
    assert bfloat16_hours(step, mfu) == pytest.approx(online, abs=0.1)


def test_stage_1_costs_what_the_specification_says_but_for_the_trained_heads() -> None:
    step = paper().decoder_step()
    assert step is not None
    heads = part(step, "discriminator's heads")
    assert ((step.flops or 0) - heads) == pytest.approx(2.2e19, rel=0.005)
    assert bfloat16_hours(step, 0.45) == pytest.approx(14, abs=0.5)
    # A real and a made picture in 10 epochs, trained; forward and back in 8.
    per_epoch = IMAGENET_TRAIN // 512 * 512
    assert heads == (10 * 2 * 3 + 8 * 2) * per_epoch * 11_563_560_960


def test_perceptual_term_is_three_passes_of_every_picture() -> None:
    assert part(paper().decoder_step(), "LPIPS") == 3 * 16 * (IMAGENET_TRAIN // 512 * 512) * vgg16_flops(256)


def test_decoder_without_perceptual_and_adversarial_term_trains_alone() -> None:
    recipe = recipe_of("rae-imagenet256-80ep")
    loss = replace(recipe.decoder.loss, lpips_weight=0.0, gan_weight=0.0)
    step = Budget(replace(recipe, decoder=replace(recipe.decoder, loss=loss)), DINOV2_B).decoder_step()
    assert step is not None
    assert [work.what for work in step.work] == ["encoder", "decoder"]


def test_float32_of_a_protocol_is_tf32_on_a_gpu_and_scores_stay_float32() -> None:
    forecast = forecast_of(paper())
    by_name = {step.name: step for step in forecast.steps}
    assert by_name["dit"].work[0].precision == "tf32"
    fixed = [work for work in by_name["samples"].work if work.fixed]
    assert [(work.what, work.precision) for work in fixed] == [("inception-tf", "float32")]


def test_the_seed_multiplies_trainings_and_not_statistics() -> None:
    one, two = ({step.name: step.flops for step in forecast_of(paper(num_seeds=n)).steps} for n in (1, 2))
    assert two["dit"] == 2 * (one["dit"] or 0)
    assert two["decoder"] == 2 * (one["decoder"] or 0)
    assert two["latent_stats"] == one["latent_stats"]


def test_stored_latents_are_encoded_once_and_read_by_statistics_and_training() -> None:
    recipe = recipe_of("rae-imagenet256-80ep")
    budget = Budget(replace(recipe, dit=replace(recipe.dit, latent_cache="bfloat16")), DINOV2_B)
    assert part(budget.latents_step(), "encoder") == 2 * IMAGENET_TRAIN * DINOV2_B.flops
    assert budget.stats_step().flops is None
    assert [work.what for work in budget.dit_step().work] == ["network"]
    stored = next(amount for amount in forecast_of(budget).disk if amount.what.startswith("latents"))
    assert not stored.optional
    assert stored.num_bytes / 1e12 == pytest.approx(1.01, abs=0.005)


def test_front_end_stays_in_float32_whatever_the_encoders_type() -> None:
    behind_vae = replace(DINOV2_B, frontend_flops=10**9)
    assert [(work.what, work.precision) for work in behind_vae.work(2)] == [
        ("encoder", "bfloat16"),
        ("VAE in front", "tf32"),
    ]


# --- memory, disk, suites ---


def test_memory_and_disk_are_the_specifications() -> None:
    forecast = forecast_of(paper())
    disk = {amount.what: amount.num_bytes for amount in forecast.disk}
    assert forecast.memory_bytes / 1e9 == pytest.approx(17.1, abs=0.1)  # 16.8 of the transformer, 0.3 of the encoder
    assert disk["training pictures at 256 px"] / 1e9 == pytest.approx(252, abs=0.5)
    assert disk["samples as npz, on request"] / 1e9 == pytest.approx(9.83, abs=0.01)
    assert disk["features of samples"] == 3 * 50_000 * 2048 * 4
    assert disk["latents in bfloat16, if they are stored"] / 1e12 == pytest.approx(1.01, abs=0.005)


def test_native_decoder_is_not_trained_and_its_latents_are_folded() -> None:
    vae = replace(DINOV2_B, flops=0, shape=(4, 32, 32), fold=2, frontend_flops=272 * 10**9, native_flops=620 * 10**9)
    budget = paper(encoder=vae)
    assert budget.decoder_step() is None
    assert (budget.network.in_channels, budget.network.input_size) == (16, 16)
    forecast = forecast_of(budget)
    assert "decoder" not in {step.name for step in forecast.steps}
    assert forecast.notes == ("the encoder has a decoder of its own, so none is trained",)


def test_autoguidance_names_the_guide_that_it_takes() -> None:
    recipe = recipe_of("rae-imagenet256-80ep")
    sampler = replace(recipe.sampling.sampler, guidance=GuidanceConfig(kind="auto", scale=1.42))
    forecast = forecast_of(Budget(replace(recipe, sampling=replace(recipe.sampling, sampler=sampler)), DINOV2_B))
    assert forecast.params["guide dit-dh-s"] / 1e6 == pytest.approx(196.5, abs=0.05)
    assert any("dit-dh-s, whose weights must be given" in note for note in forecast.notes)


def test_reconstruction_scores_both_pictures_and_needs_no_transformer() -> None:
    forecast = reconstruction_forecast(paper(), task_of("imagenet256-reconstruction"))
    assert [step.name for step in forecast.steps] == ["decoder", "samples", "features", "scores"]
    by_name = {step.name: step for step in forecast.steps}
    assert (
        part(by_name["samples"], "inception-tf") == part(by_name["features"], "inception-tf") == 50_000 * 11_426_464_960
    )
    assert part(by_name["samples"], "LPIPS") == 2 * 50_000 * vgg16_flops(256)
    assert "dit-dh-xl" not in forecast.params


@pytest.mark.parametrize(
    "name", ["rae-imagenet256", "rae-imagenet256-80ep", "rae-imagenet256-100ep", "rae-imagenet256-proxy"]
)
def test_every_paper_protocol_has_a_forecast(name: str) -> None:
    forecast = forecast_of(paper(name))
    assert forecast.gpu_hours(H100, 0.45) > 1
    assert {step.name for step in forecast.steps} == {"latent_stats", "decoder", "dit", "samples", "scores"}


def test_800_epochs_cost_ten_times_80() -> None:
    long, short = (paper(name).dit_step().flops for name in ("rae-imagenet256", "rae-imagenet256-80ep"))
    assert long == 10 * (short or 0)
