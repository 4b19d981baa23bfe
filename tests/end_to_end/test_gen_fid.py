"""`ovbench gen-fid` and the suites of pictures, in a process of their own, on the smoke protocol."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from ovbench.results.record import RunRecord
from ovbench.results.store import RunStore

from .conftest import Cli, call

SMALL = ("--protocol", "mini-smoke")


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which one smoke run of an encoder with a trained decoder and of a VAE has ended."""
    folder = tmp_path_factory.mktemp("generated")
    done = call(folder, "gen-fid", "-e", "clip", "-e", "vae", *SMALL)
    assert done.returncode == 0, done.stderr
    return folder


def records(folder: Path, suite: str) -> dict[str, RunRecord]:
    return {record.encoder.spec: record for record in RunStore(folder / "runs").records() if record.suite == suite}


def test_each_encoder_leaves_a_record_per_suite(generated: Path) -> None:
    for suite in ("reconstruction", "generation"):
        assert set(records(generated, suite)) == {"clip/mini", "vae/mini"}


def test_the_score_is_never_called_fid(generated: Path) -> None:
    for record in [*records(generated, "generation").values(), *records(generated, "reconstruction").values()]:
        names = {metric.name for metric in record.metrics}
        assert "FD-wardrobe" in names
        assert "FID" not in names


def test_samples_are_scored_at_the_end_and_on_the_way(generated: Path) -> None:
    record = records(generated, "generation")["clip/mini"]
    assert record.tasks[0].groups == ("untrained", "2 epochs", "4 epochs", "6 epochs")
    values = {m.group: m.value for m in record.metrics if m.name == "FD-wardrobe"}
    assert set(values) == {None, "untrained", "2 epochs", "4 epochs", "6 epochs"}
    assert all(value is not None and value > 0 for value in values.values())
    (read_back,) = [m for m in record.metrics if m.name == "class read-back" and m.group is None]
    assert read_back.n == 64
    assert read_back.low is not None


def test_reconstructions_are_scored_in_pairs_too(generated: Path) -> None:
    record = records(generated, "reconstruction")["vae/mini"]
    scores = {metric.name: metric for metric in record.metrics}
    assert set(scores) == {"FD-wardrobe", "PSNR", "SSIM"}
    assert scores["PSNR"].unit == "dB"
    assert (scores["PSNR"].value or 0) > 26  # the shipped VAE decodes its own latents: nothing of it is trained here


def test_the_record_says_how_pictures_were_made(generated: Path) -> None:
    record = records(generated, "generation")["clip/mini"]
    assert "euler 5 full, guidance none, labels equal, truncate to 8 bits" in record.tasks[0].scorer
    figures = {entry.name: entry.value for entry in record.measurements}
    assert figures["NFE"] == 5
    assert figures["guide passes"] == 0
    assert (figures["latent health: effective_rank"] or 0) > 1
    assert "latent health: drift_cosine" in figures
    assert set(record.protocol.content) >= {"generation", "name", "version"}
    assert "understanding" not in record.protocol.content
    assert {"latents", "latent_stats", "decoder", "dit", "samples", "scores"} <= {step.name for step in record.steps}


def test_there_are_sheets_to_look_at(generated: Path) -> None:
    for suite, name, size in (
        ("generation", "samples.png", (8, 8)),
        ("reconstruction", "reconstructions.png", (16, 2)),
    ):
        record = records(generated, suite)["clip/mini"]
        with Image.open(generated / "runs" / record.run_id / name) as image:
            columns, rows = size
            zoom = image.width // (columns * 32)
            assert image.size == (columns * (32 * zoom + 2) - 2, rows * (32 * zoom + 2) - 2)


def test_the_same_again_comes_from_the_cache_and_leaves_no_second_record(generated: Path) -> None:
    before = sorted(path.name for path in (generated / "runs").iterdir())
    done = call(generated, "gen-fid", "-e", "clip", *SMALL)
    assert done.returncode == 0, done.stderr
    assert "started" not in done.stderr
    assert sorted(path.name for path in (generated / "runs").iterdir()) == before


def test_the_table_compares_encoders(generated: Path) -> None:
    done = call(generated, "leaderboard", "--suite", "generation", "--format", "csv")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert any("vae/mini" in line and "FD-wardrobe" in line for line in lines)
    console = call(generated, "leaderboard", "--suite", "generation").stdout
    assert "over the pictures" in console
    headlines, others = console.split("other metrics")
    assert "chance" not in headlines  # a distance has no such level
    (chance,) = (line for line in others.splitlines() if line.startswith("chance"))
    assert "12.5" in chance
    assert "native decoder" in next(line for line in headlines.splitlines() if line.startswith("vae/mini"))


def test_more_samples_stand_in_a_table_of_their_own(generated: Path) -> None:
    done = call(generated, "gen-fid", "-e", "vae", *SMALL, "--num-samples", "32", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = [entry for entry in json.loads(done.stdout) if entry["suite"] == "generation"]
    assert record["tasks"][0]["n"] == 32
    console = call(generated, "leaderboard", "--suite", "generation").stdout
    assert console.count("protocol mini-smoke v1") == 2


def test_the_record_says_which_decoder_made_the_pictures(generated: Path) -> None:
    for suite in ("reconstruction", "generation"):
        found = records(generated, suite)
        assert all("decoder rae" in metric.interval for metric in found["clip/mini"].metrics)
        assert all("decoder native" in metric.interval for metric in found["vae/mini"].metrics)


def test_run_has_the_same_suites(ovbench: Cli, generated: Path) -> None:
    done = ovbench("run", "-e", "vae", "-s", "reconstruction", *SMALL, folder=generated)
    assert done.returncode == 0, done.stderr
    assert "mini-reconstruction" in done.stdout


def test_python_has_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ovbench
    from ovbench.harness.generation.options_config import GenerationOptions

    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    first, second = ovbench.gen_fid("vae", "mini-smoke", options=GenerationOptions(num_samples=16), out=tmp_path)
    assert (first.suite, second.suite) == ("reconstruction", "generation")
    assert second.tasks[0].n == 16
    with pytest.raises(ovbench.OvbenchError, match="a record per suite"):
        ovbench.run("vae", "all", "mini-smoke", out=tmp_path)


def test_tasks_of_pictures_are_listed(ovbench: Cli) -> None:
    listed = ovbench("tasks").stdout
    assert "mini-images" in listed
    assert "imagenet256-reconstruction" in listed
    assert "FD-wardrobe" in ovbench("tasks", "show", "mini-images").stdout
