"""scripts/speed_generation.py and its parts, at a size of seconds: what is timed side by side must be equal."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.encoders.registry import load_encoder, parse_encoder
from ovbench.harness.generation.config import DiTDHConfig
from ovbench.harness.generation.decoder_config import DecoderConfig, DinoConfig, DiscriminatorConfig
from ovbench.harness.protocols import load_protocol

SCRIPTS = Path(__file__).parent.parent / "scripts"
PARTS = ("side_by_side", "generation_sizes", "generation_baseline", "generation_savings", "speed_generation")
CPU = torch.device("cpu")
SAVINGS = (
    "autoguidance on a single batch",
    "padded SwiGLU",
    "no trajectory kept",
    "no picture files",
    "stage 1: one backward fewer",
    "label-dependent parts once per label",
    "EMA in one call",
)


@pytest.fixture(scope="module")
def scripts() -> Iterator[SimpleNamespace]:
    """The parts by name, imported as a script imports its neighbours."""
    before = set(sys.modules)
    sys.path.insert(0, str(SCRIPTS))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in PARTS})
    finally:
        sys.path.remove(str(SCRIPTS))
        for name in set(PARTS) - before:
            sys.modules.pop(name, None)


def tiny(scripts: SimpleNamespace) -> Any:
    network = DiTDHConfig(
        input_size=4, in_channels=8, hidden_size=(16, 32), depth=(1, 1), num_heads=(2, 2), num_classes=3
    )
    return scripts.generation_sizes.Size(
        network=network,
        guide=network,
        decoder=DecoderConfig(latent_dim=8, num_patches=16, patch_px=4, width=16, depth=1, num_heads=2, mlp_width=24),
        discriminator=DiscriminatorConfig(
            dino=DinoConfig(depth=2, width=32, num_heads=4, patch_px=8, input_px=32), key_depths=(0,)
        ),
        vgg_width=2,
        shift_base=128,
        num_steps=5,
        batch=4,
        train_batch=4,
        stage1_batch=2,
    )


def bench(scripts: SimpleNamespace, *, rounds: int = 1, tolerance: float = 1e-4) -> Any:
    size = tiny(scripts)
    return scripts.generation_savings.Bench(size=size, device=CPU, rounds=rounds, tolerance=tolerance, min_s=0.0)


def test_every_saving_is_listed_here(scripts: SimpleNamespace) -> None:
    assert tuple(scripts.generation_savings.SAVINGS) == SAVINGS


@pytest.mark.parametrize("name", SAVINGS)
def test_with_and_without_a_saving_the_result_is_equal(scripts: SimpleNamespace, name: str) -> None:
    found = scripts.generation_savings.SAVINGS[name](bench(scripts, rounds=2))
    assert found["bit_equal"] or 0.0 < found["relative_difference"] < 1e-4
    assert min(found["with_s"], found["without_s"], found["times_faster"]) > 0.0
    assert len(found["times_faster_of_rounds"]) == 2


@pytest.mark.parametrize("name", ["no trajectory kept", "no picture files", "label-dependent parts once per label"])
def test_what_reorders_no_sum_changes_no_bit(scripts: SimpleNamespace, name: str) -> None:
    assert scripts.generation_savings.SAVINGS[name](bench(scripts))["bit_equal"]


def test_the_reference_solver_holds_a_state_per_point_and_ours_does_not(scripts: SimpleNamespace) -> None:
    found = scripts.generation_savings.no_trajectory(bench(scripts))
    extra = found["without_peak_bytes"] - found["with_peak_bytes"]
    states = extra / found["state_bytes"]
    assert found["num_points"] - 1 <= states <= found["num_points"] + 4  # a step of its own holds some more


def test_the_reference_solver_is_skipped_with_its_reason_where_it_is_not_installed(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)
    for found in (
        scripts.generation_savings.no_trajectory(bench(scripts)),
        scripts.generation_savings.against_reference(bench(scripts), guided=False),
    ):
        assert found["measured"] is False
        assert "'torchdiffeq' is not installed" in found["reason"]


@pytest.mark.parametrize("guided", [True, False])
def test_the_package_scores_what_the_reference_loop_scores(scripts: SimpleNamespace, guided: bool) -> None:
    found = scripts.generation_savings.against_reference(bench(scripts), guided=guided, passes=2)
    assert found["relative_difference"] < 1e-2
    assert found["num_images"] == 8
    assert found["with_images_per_s"] == pytest.approx(8 / found["with_s"])


def test_guidance_moves_the_features_of_both_sides(scripts: SimpleNamespace, tmp_path: Path) -> None:
    made = bench(scripts)
    noise, labels = made.noise()
    plain, guided = (made.sampler(guided=guided).solve(noise, labels) for guided in (False, True))
    assert not torch.allclose(plain, guided, rtol=1e-3, atol=1e-4)


def test_the_doubled_batch_gives_both_halves_of_the_first_and_no_guidance_above_one(scripts: SimpleNamespace) -> None:
    made, baseline = bench(scripts), scripts.generation_baseline
    sampler, (noise, labels) = made.sampler(guided=True), made.noise()
    doubled = torch.cat([labels, torch.full_like(labels, sampler.network.null_label)])
    parts = [torch.cat([noise, -noise]), torch.tensor(0.5), doubled]
    with torch.no_grad():
        inside = baseline.doubled_velocity(sampler.network, sampler.guide, *parts, 1.5)
        main, other = (
            baseline.plain_velocity(part, noise, parts[1], labels) for part in (sampler.network, sampler.guide)
        )
        parts[1] = torch.tensor(1.001)
        outside = baseline.doubled_velocity(sampler.network, sampler.guide, *parts, 1.5)
        alone = baseline.plain_velocity(sampler.network, noise, parts[1], labels)
    torch.testing.assert_close(inside, torch.cat([other + 1.5 * (main - other)] * 2))
    torch.testing.assert_close(outside, torch.cat([alone, alone]))


def test_what_is_measured_on_a_gpu_alone_runs_here_too(scripts: SimpleNamespace) -> None:
    savings = scripts.generation_savings
    low = savings.low_precision(bench(scripts))
    assert 0.0 < low["relative_difference"] < 0.1
    assert low["tolerance"] is None
    assert savings.compiled(bench(scripts), backend="eager")["relative_difference"] < 1e-3


def test_a_padded_network_has_the_weights_of_the_plain_one(scripts: SimpleNamespace) -> None:
    size = tiny(scripts)
    plain, padded = (scripts.generation_sizes.network_of(size.network, CPU, multiple=multiple) for multiple in (1, 64))
    assert padded.blocks[0].mlp.w3.in_features == 64 != plain.blocks[0].mlp.w3.in_features
    other = padded.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in plain.state_dict().items())


def test_sides_that_differ_are_not_timed(scripts: SimpleNamespace) -> None:
    calls: list[str] = []

    def side(name: str, value: float) -> Any:
        return lambda: calls.append(name) or [torch.full((3,), value)]

    with pytest.raises(DataError, match="differ by 0.5 of the largest value, and 0.1 is allowed"):
        scripts.side_by_side.compare(side("a", 1.0), side("b", 2.0), rounds=3, device=CPU, tolerance=0.1)
    assert calls == ["a", "b"]


@pytest.mark.parametrize(
    ("one", "other"),
    [(torch.zeros(3), torch.zeros(3)), (torch.full((3,), torch.nan), torch.ones(3)), (torch.ones(2), torch.ones(3))],
)
def test_results_that_prove_nothing_are_refused(
    scripts: SimpleNamespace, one: torch.Tensor, other: torch.Tensor
) -> None:
    with pytest.raises(DataError, match="nothing to compare|other shapes"):
        scripts.side_by_side.difference([one], [other])


def test_rounds_alternate_their_order(scripts: SimpleNamespace) -> None:
    calls: list[str] = []
    sides = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = scripts.side_by_side.alternate(sides, rounds=3, device=CPU, min_s=0.0)
    assert "".join(calls) == "ab" * 2 + "ab" + "ba" + "ab"  # twice to warm up
    assert [len(times[name]) for name in "ab"] == [3, 3]


def test_short_calls_are_repeated_and_their_time_is_of_one(scripts: SimpleNamespace) -> None:
    calls: list[int] = []
    times = scripts.side_by_side.alternate(
        {"a": lambda: calls.append(0)}, rounds=2, device=CPU, min_s=1.0, slowest_s=0.01
    )
    assert len(calls) == 200
    assert max(times["a"]) < 0.01


def test_the_peak_counts_what_is_held_at_once(scripts: SimpleNamespace) -> None:
    def at_once() -> None:
        _ = [torch.ones(1000, 250) for _ in range(5)]

    def in_turn() -> None:
        for _ in range(5):
            torch.ones(1000, 250)

    peak = scripts.side_by_side.peak_bytes
    assert peak(at_once, CPU) == 5_000_000
    assert peak(in_turn, CPU) == 1_000_000


def test_achieved_flops_are_speed_times_the_models_own(scripts: SimpleNamespace) -> None:
    found = scripts.speed_generation.throughput(bench(scripts))
    entry, forward = found["float32"], found["forward_flop_per_image"]
    assert entry["sampling"]["flop_per_s"] == pytest.approx(entry["sampling"]["images_per_s"] * 4 * forward)
    assert entry["training"]["flop_per_s"] == pytest.approx(entry["training"]["images_per_s"] * 3 * forward)
    assert 0.0 < entry["sampling"]["share_of_peak"] < 1.0
    assert entry["peak_source"].startswith("measured")


def test_the_training_that_is_timed_trains(scripts: SimpleNamespace) -> None:
    step = scripts.speed_generation.trainer(bench(scripts))
    losses = [step() for _ in range(400)]
    assert sum(losses[-50:]) < 0.9 * sum(losses[:50])


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA H100 NVL", None),
        ("Another GPU", None),
    ],
)
def test_a_gpu_that_is_not_in_the_table_has_no_peak(scripts: SimpleNamespace, name: str, peak: float | None) -> None:
    found = scripts.speed_generation.peak_of(name)
    assert (found or {}).get("bfloat16") == peak


def test_the_whole_report_is_written(
    scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = scripts.speed_generation
    monkeypatch.setattr(script, "size_of", lambda name, device: tiny(scripts))
    monkeypatch.setattr(script, "_MATMUL", {"cpu": 64})
    monkeypatch.setattr(script, "Bench", lambda **fields: scripts.generation_savings.Bench(**fields, min_s=0.0))
    path = tmp_path / "speed.json"
    monkeypatch.setattr(sys, "argv", ["speed_generation.py", "--preset", "mini", "--rounds", "1", "--json", str(path)])
    assert script.main() == 0
    assert capsys.readouterr().out == ""
    report = json.loads(path.read_text(encoding="utf-8"))
    assert set(report["sizes"]) == {"mini"}
    savings = report["sizes"]["mini"]["savings"]
    assert set(savings) == {*SAVINGS, "bfloat16 autocast", "torch.compile"}
    assert savings["torch.compile"] == {"measured": False, "reason": "it is made for GPUs, and this run is on a CPU"}
    assert set(report["sizes"]["mini"]["against_reference"]) == {"autoguidance", "unguided"}


def test_a_pair_that_differs_is_named(scripts: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    script = scripts.speed_generation

    def broken(_: Any) -> dict[str, Any]:
        raise DataError("the two sides differ")

    monkeypatch.setattr(script, "SAVINGS", {"a saving": broken})
    with pytest.raises(DataError) as caught:
        script.measure(bench(scripts), "mini")
    assert caught.value.where == "mini: a saving"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rounds", "0"], "--rounds must be at least 1, got 0"),
        (["--threads", "0"], "--threads must be at least 1, got 0"),
        (["--json", "nowhere/at/all.json"], "there is no folder 'nowhere/at'"),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_settings_are_checked_before_anything_runs(scripts: SimpleNamespace, words: list[str], message: str) -> None:
    script = scripts.speed_generation
    with pytest.raises(ConfigError, match=message):
        script.run(script.parse(words))


def test_the_mini_size_is_that_of_the_protocol(scripts: SimpleNamespace) -> None:
    generation = load_protocol("mini").section("generation")
    size, encoder = scripts.generation_sizes.SIZES["mini"], load_encoder(parse_encoder("clip/mini?size=32")).info
    assert size.latent_shape == (encoder.dim, *encoder.grid)
    assert size.shift_base == generation["dit"]["transport"]["shift_base"]
    assert list(size.network.hidden_size) == generation["dit"]["changes"]["hidden_size"]
    assert size.num_steps - 1 == generation["sampling"]["sampler"]["num_steps"]
    assert size.decoder.output_px == generation["data"]["image_px"]


@pytest.mark.parametrize("name", ["mini", "mid", "dit-dh-s"])
def test_the_sizes_fit_together(scripts: SimpleNamespace, name: str) -> None:
    size = scripts.generation_sizes.SIZES[name]
    assert size.decoder.latent_dim == size.network.in_channels
    assert size.decoder.num_patches == size.network.num_tokens
    assert size.shift >= 1.0
    on_gpu = scripts.generation_sizes.size_of(name, torch.device("cuda"))
    assert on_gpu.num_steps == 50
    assert scripts.generation_sizes.size_of(name, CPU) == size
