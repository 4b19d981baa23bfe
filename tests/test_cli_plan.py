"""`ovbench plan` as a user types it: tables, JSON, sizes of networks, mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from ovbench.cli_plan import plan

PAPER = ("--encoder", "dinov2", "--suite", "generation", "--protocol", "rae-imagenet256-80ep")
app = typer.Typer()
app.command()(plan)


@pytest.fixture(autouse=True)
def _folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OVBENCH_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("COLUMNS", "300")


def asked(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def document(*words: str) -> Any:
    done = asked(*words, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def test_table_shows_the_published_figures() -> None:
    done = asked(*PAPER, "--precision", "bfloat16")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.startswith("plan · protocol rae-imagenet256-80ep v1")
    for text in ("h at 40%", "h at 45%", "h at 50%", "24.6 / 27.7 / 30.8", "252 GB", "1.01 TB (not in the total)"):
        assert text in done.stdout
    assert "838.7M parameters, 323.2 GFLOP forward" in done.stdout
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("dit "))
    assert "73.2      65.0      58.5" in row
    assert "not looked up" in row


def test_gpus_share_the_hours_and_a_share_of_the_peak_can_be_named() -> None:
    done = asked(*PAPER, "--gpus", "8", "--mfu", "0.45", "--gpu", "a100-40gb")
    assert "hours on 8 of them, shared evenly" in done.stdout
    assert "h at 45%" in done.stdout
    assert "h at 40%" not in done.stdout
    assert "A100 SXM 40 GB" in done.stdout


def test_json_holds_hours_work_memory_and_disk() -> None:
    found = document(*PAPER, "--gpus", "4", "--mfu", "0.5")
    assert (found["gpu"], found["gpus"]) == ("H100 SXM", 4)
    (entry,) = found["encoders"]
    steps = {step["step"]: step for step in entry["steps"]}
    assert sum(step["flops"] or 0 for step in steps.values()) == entry["flops"]
    assert sum(step["gpu_hours"]["0.5"] or 0 for step in steps.values()) == pytest.approx(entry["gpu_hours"]["0.5"])
    assert entry["wall_hours"]["0.5"] == pytest.approx(entry["gpu_hours"]["0.5"] / 4)
    assert steps["dit"]["cached"] is None
    assert entry["num_params"]["dit-dh-xl"] == 838_675_796
    assert {amount["optional"] for amount in entry["disk_bytes"]} == {True, False}
    assert entry["memory_bytes"]


def test_memory_that_no_such_gpu_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from ovbench.harness import planning

    small = planning._gpu("small GPU", 100, 50, 10, 16)
    monkeypatch.setattr(planning, "GPUS", {"small": small})
    done = asked(*PAPER, "--gpu", "small")
    assert "17.1 GB and the activations: more than a small GPU has" in done.stdout
    assert "8.92 GB and the activations\n" in done.stdout.replace(" \n", "\n")


def test_embedded_encoder_says_what_is_cached_and_that_times_are_not_known() -> None:
    done = asked("--encoder", "random", "--protocol", "mini-smoke")
    assert done.exit_code == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("llava_stage2"))
    assert row.split()[-3:] == ["not", "known", "no"]


def test_all_suites_have_a_sum_with_units_and_shared_steps_once() -> None:
    words = ("--encoder", "random", "--encoder", "vae", "--protocol", "mini-smoke", "--suite", "all")
    found = document(*words)
    suites = {
        name: [entry["suite"] for entry in found["encoders"] if entry["encoder"] == name]
        for name in ("random/mini", "vae/mini")
    }
    assert suites["random/mini"] == ["understanding", "reconstruction", "generation"]
    assert suites["vae/mini"] == ["reconstruction", "generation"]
    sums = {entry["encoder"]: entry for entry in found["sums"]}
    parts = [entry for entry in found["encoders"] if entry["encoder"] == "random/mini"]
    shared = [step["flops"] for step in parts[1]["steps"] if step["step"] in ("latents", "decoder")]
    assert sums["random/mini"]["flops"] == sum(part["flops"] for part in parts) - sum(shared)
    assert sums["random/mini"]["of"] == suites["random/mini"]
    lines = asked(*words).stdout.splitlines()
    begin = lines.index("random/mini: sum, with hours of one H100 SXM at a share of its peak")
    assert lines[begin + 1].split("  ")[0] == "what"
    for unit in ("FLOP", "h at 40%", "disk, GB"):
        assert unit in lines[begin + 1]
    assert [line.split("  ")[0] for line in lines[begin + 2 : begin + 6]] == [
        "understanding", "reconstruction", "generation", "sum, shared steps once",
    ]  # fmt: skip


def test_a_sweep_of_guidance_samples_often_and_trains_once() -> None:
    found = document(*PAPER, "--guidance", "none", "--guidance", "cfg:1.5", "--mfu", "0.5")
    plain, guided = found["encoders"]
    assert (plain["guidance"], guided["guidance"]) == ("none", "cfg:1.5")
    (total,) = found["sums"]
    samples = [next(step["flops"] for step in entry["steps"] if step["step"] == "samples") for entry in (plain, guided)]
    assert total["flops"] == plain["flops"] + samples[1]
    assert total["gpu_hours"]["0.5"] > plain["gpu_hours"]["0.5"]
    features = [amount for amount in total["disk_bytes"] if amount["what"] == "features of samples"]
    assert len(features) == 2


def test_network_alone_gives_its_size() -> None:
    done = asked("--network", "dit-dh-xl", "--channels", "768", "--grid", "32")
    assert done.stdout.splitlines()[1].split() == ["dit-dh-xl", "839.6M", "1,405.6", "4,216.9"]
    assert document("--network", "vit-xl") == [
        {"network": "vit-xl", "num_params": 415_352_704, "forward_flops": 221_648_320_512}
    ]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "no encoder named"),
        (("--encoder", "dinov"), "did you mean"),
        (("--encoder", "dinov2", "--suite", "generation"), "no default variant for the protocol 'mini'"),
        ((*PAPER, "--gpu", "h1000"), "did you mean 'h100'"),
        ((*PAPER, "--gpus", "0"), "1 or more, got 0"),
        ((*PAPER, "--mfu", "45"), "up to 1, got 45"),
        ((*PAPER, "--precision", "fp32"), "unknown precision 'fp32'"),
        ((*PAPER, "--num-samples", "0"), "2 or more, got 0"),
        ((*PAPER, "--grid", "16"), "no effect without --network"),
        (("--network", "dit-dh-xl", "--encoder", "dinov2"), "no effect beside --network"),
        (("--network", "dit-dh-xl", "--patch-px", "16"), "makes no pixels"),
        (("--network", "dit-dh-xx"), "did you mean 'dit-dh-xl'"),
        (("--network", "vit-xl", "--channels", "0"), "1 or more, got 0"),
    ],
)
def test_mistake_ends_with_exit_code_2_and_three_lines(words: tuple[str, ...], message: str) -> None:
    done = asked(*words)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stdout == ""
