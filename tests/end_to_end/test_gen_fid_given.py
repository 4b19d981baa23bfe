"""`ovbench gen-fid` with given weights, guidance sweeps and samples as files; only one slow test trains anything."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ovbench.harness.generation.world_data import WorldGarments
from ovbench.harness.metrics.fid_request import FidRequest
from ovbench.harness.metrics.fid_run import run_fid
from ovbench.harness.protocols import load_protocol
from tests.end_to_end.gen_fid import Parts, Result, command, write_network, write_parts

COUNT = 33  # no multiple of the 8 classes
SMOKE = ("gen-fid", "-e", "clip", "-p", "mini-smoke", "-n", str(COUNT))
Gen = Callable[..., Result]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return write_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture
def gen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Gen:
    """The command with a cache and records of the test's own; it has to end well."""

    def run(*words: str) -> Result:
        done = command(tmp_path, monkeypatch, *SMOKE, *words)
        assert done.code == 0, done.err
        return done

    return run


def generation(result: Result) -> dict[str, Any]:
    (record,) = (record for record in result.records if record["suite"] == "generation")
    return record


def value(record: dict[str, Any], name: str) -> float:
    (found,) = (m["value"] for m in record["metrics"] if m["name"] == name and m["group"] is None)
    return found


def measured(record: dict[str, Any], name: str) -> float | None:
    (found,) = (m["value"] for m in record["measurements"] if m["name"] == name)
    return found


def test_given_weights_are_sampled_and_nothing_is_trained(gen: Gen, parts: Parts, tmp_path: Path) -> None:
    record = generation(gen(*parts.words))
    assert record["protocol"]["name"] == "mini-smoke, given decoder + stats + dit"
    assert set(record["protocol"]["content"]["given"]) == {"decoder", "stats", "dit"}
    assert not (tmp_path / "cache" / "dit").exists()
    assert not (tmp_path / "cache" / "decoder").exists()
    assert not list((tmp_path / "cache").glob("latents/*"))
    assert [metric["group"] for metric in record["metrics"]] == [None] * len(record["metrics"])


def test_reconstructions_are_of_the_given_decoder_alone(gen: Gen, parts: Parts) -> None:
    (record,) = (record for record in gen(*parts.words).records if record["suite"] == "reconstruction")
    assert record["protocol"]["name"] == "mini-smoke, given decoder"
    assert set(record["protocol"]["content"]["given"]) == {"decoder"}


@pytest.mark.parametrize(
    "files", [{"decoder": "ckpt.pt"}, {"decoder": "model.safetensors"}, {"dit": "dit.safetensors"}], ids=str
)
def test_every_layout_of_the_same_weights_gives_the_same_scores(
    gen: Gen, parts: Parts, files: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = generation(gen(*parts.words))
    changed = parts.changed(**{key: parts.folder / name for key, name in files.items()})
    other = command(tmp_path / "other", monkeypatch, *SMOKE, *changed)
    assert other.code == 0, other.err
    assert value(generation(other), "FD-wardrobe") == value(expected, "FD-wardrobe")


def test_autoguidance_counts_its_passes(gen: Gen, parts: Parts) -> None:
    record = generation(gen(*parts.words, *parts.guide, "--guidance", "auto:1.42"))
    assert record["protocol"]["name"] == "mini-smoke, guidance auto:1.42, given decoder + stats + dit + guide"
    counts = {name: measured(record, name) for name in ("NFE", "network passes", "guide passes")}
    assert counts == {"NFE": 5, "network passes": 5, "guide passes": 5}


def test_autoguidance_changes_the_samples_and_a_scale_of_one_does_not(gen: Gen, parts: Parts) -> None:
    words = (*parts.words, *parts.guide)
    done = gen(*words, "--guidance", "none", "--guidance", "auto:1.0", "--guidance", "auto:3")
    scores = {
        record["protocol"]["name"].split(",")[1].strip(): value(record, "FD-wardrobe")
        for record in done.records
        if record["suite"] == "generation"
    }
    assert scores["guidance auto:1"] == scores["given decoder + stats + dit"]
    assert scores["guidance auto:3"] != scores["guidance auto:1"]


def test_a_sweep_has_a_record_each_and_one_table_with_the_cost_of_each(gen: Gen, parts: Parts) -> None:
    done = gen(*parts.words, "--guidance", "none", "--guidance", "cfg:1.5", "--guidance", "cfg:2")
    records = [record for record in done.records if record["suite"] == "generation"]
    assert len(records) == 3
    assert len({value(record, "FD-wardrobe") for record in records}) == 3
    assert {measured(record, "network passes") for record in records} == {5, 10}
    (title,) = (line for line in done.out.splitlines() if line.startswith("generation"))
    assert "mini-smoke, given decoder + stats + dit v1" in title
    assert "sweep of guidance" in title
    assert "NFE per sample" in done.out
    rows = [line.split()[1] for line in done.out.splitlines() if line.startswith("clip/mini ")]
    assert rows[:3] == ["none", "cfg:1.5", "cfg:2"]


def test_other_given_weights_are_no_newer_run_of_the_same(gen: Gen, parts: Parts, tmp_path: Path) -> None:
    write_network(tmp_path, "other", 5)
    first = gen(*parts.words)
    done = gen(*parts.changed(dit=tmp_path / "other.pt", dit_network=tmp_path / "other.yaml"))
    assert len(done.records) == len(first.records) + 1
    from ovbench.results.store import RunStore

    assert len([record for record in RunStore(tmp_path / "runs").newest() if record.suite == "generation"]) == 2


@pytest.mark.slow
def test_a_sweep_trains_once(gen: Gen) -> None:
    done = gen("--guidance", "none", "--guidance", "cfg:1.5", "--guidance", "cfg:2")
    records = [record for record in done.records if record["suite"] == "generation"]
    assert len(records) == 3
    for name in ("dit", "decoder", "latent_stats"):
        steps = [step for record in records for step in record["steps"] if step["name"] == name]
        assert len({step["key"] for step in steps}) == 1, name
        assert sum(not step["cached"] for step in steps) <= 1, name


# --- samples as files ------------------------------------------------------------------------------------------------


def originals(folder: Path) -> Path:
    """Writes the protocol's test pictures as PNGs."""
    data = load_protocol("mini-smoke").section("generation")["data"]
    world = WorldGarments(data["world_seed"], "test", data["num_test"])
    folder.mkdir()
    for number, image in enumerate(world.images_u8(range(world.num_pictures))):
        Image.fromarray(image).save(folder / f"{number:03d}.png")
    return folder


@pytest.mark.parametrize("save_format", ["png", "npz"])
def test_scoring_the_saved_files_gives_the_record(gen: Gen, parts: Parts, tmp_path: Path, save_format: str) -> None:
    record = generation(gen(*parts.words, "--save-samples", str(tmp_path / "new" / "s"), "--save-format", save_format))
    fake = tmp_path / "new" / "s"
    if save_format == "npz":
        fake = fake / "samples.npz"
    request = FidRequest(
        real=originals(tmp_path / "real"), fake=fake, extractor="wardrobe", metrics="fid", intervals=False, cache=False
    )
    (score,) = run_fid(request).scores
    assert score.score.value == pytest.approx(value(record, "FD-wardrobe"), rel=1e-9)


def test_both_formats_hold_the_same_pictures_and_classes(gen: Gen, parts: Parts, tmp_path: Path) -> None:
    gen(*parts.words, "--save-samples", str(tmp_path / "png"))
    gen(*parts.words, "--save-samples", str(tmp_path / "npz"), "--save-format", "npz")
    held = np.load(tmp_path / "npz" / "samples.npz")
    names = sorted(path.name for path in (tmp_path / "png").glob("*.png"))
    assert names == [f"{number:06d}.png" for number in range(COUNT)]
    assert held["arr_0"].dtype == np.uint8
    assert held["arr_1"].dtype == np.int64
    pictures = np.stack([np.asarray(Image.open(tmp_path / "png" / name)) for name in names])
    np.testing.assert_array_equal(pictures, held["arr_0"])
    rows = (tmp_path / "png" / "labels.csv").read_text().splitlines()
    assert rows == ["index,label", *(f"{number},{label}" for number, label in enumerate(held["arr_1"]))]


def test_an_odd_number_of_samples_has_classes_that_differ_by_one_at_most(
    gen: Gen, parts: Parts, tmp_path: Path
) -> None:
    gen(*parts.words, "--save-samples", str(tmp_path / "s"), "--save-format", "npz")
    counts = np.bincount(np.load(tmp_path / "s" / "samples.npz")["arr_1"], minlength=8)
    assert counts.sum() == COUNT
    assert counts.max() - counts.min() == 1


def test_every_run_of_a_sweep_has_a_folder_of_its_own(gen: Gen, parts: Parts, tmp_path: Path) -> None:
    sweep = ("--guidance", "none", "--guidance", "cfg:2", "--seed", "0", "--seed", "1")
    words = (*parts.words, *sweep, "--save-samples", str(tmp_path / "s"), "--save-format", "npz")
    gen(*words)
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == [f"clip-mini-{guidance}-seed-{seed}" for guidance in ("cfg-2", "none") for seed in (0, 1)]
    digests = {(tmp_path / "s" / name / "samples.npz").read_bytes() for name in names}
    assert len(digests) == 4
    # A kill while one of them was written: the same command goes on.
    last = tmp_path / "s" / names[-1]
    whole = (last / "samples.npz").read_bytes()
    (last / "samples.npz").write_bytes(whole[:100])
    last.rename(tmp_path / "s" / f".{last.name}.ab12_x9z.tmp")
    gen(*words)
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == names
    assert (last / "samples.npz").read_bytes() == whole


def test_saved_samples_do_not_depend_on_what_was_cached(gen: Gen, parts: Parts, tmp_path: Path) -> None:
    words = (*parts.words, "--save-format", "npz", "--save-samples")
    before = gen(*words, str(tmp_path / "a"))
    shutil.rmtree(tmp_path / "cache" / "samples")
    done = gen(*words, str(tmp_path / "b"))
    assert (tmp_path / "a" / "samples.npz").read_bytes() == (tmp_path / "b" / "samples.npz").read_bytes()
    assert [record["run_id"] for record in done.records] == [record["run_id"] for record in before.records]


def test_saving_samples_makes_no_second_record_and_refuses_a_folder_of_others(
    gen: Gen, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = gen(*parts.words)
    words = (*parts.words, "--save-samples", str(tmp_path / "s"))
    kept = gen(*words)
    assert [record["run_id"] for record in kept.records] == [record["run_id"] for record in first.records]
    assert len(list((tmp_path / "s").glob("*.png"))) == COUNT
    refused = command(tmp_path, monkeypatch, *SMOKE, *words, "--seed", "3")
    assert refused.code == 2
    assert "holds other samples" in refused.err
    assert not list((tmp_path / "cache" / "work").iterdir())  # it was said before anything was sampled


def test_scores_are_the_same_whether_all_pictures_are_kept_or_few(
    gen: Gen, parts: Parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = gen(*parts.words)
    kept = command(tmp_path / "other", monkeypatch, *SMOKE, *parts.words, "--save-samples", str(tmp_path / "s"))
    assert kept.code == 0, kept.err
    assert generation(few)["metrics"] == generation(kept)["metrics"]
    assert [step["key"] for step in generation(few)["steps"]] == [step["key"] for step in generation(kept)["steps"]]
    sheets, passes = (
        [
            {path.relative_to(folder): path.read_bytes() for path in folder.glob(pattern)}
            for folder in (tmp_path, tmp_path / "other")
        ]
        for pattern in ("cache/scores/*/samples.png", "cache/samples/*/passes-*/*.npz")
    )
    assert sheets[0] == sheets[1]
    assert len(sheets[0]) == 1
    assert passes[0].items() <= passes[1].items()


def test_a_released_mean_of_none_is_zero(gen: Gen, parts: Parts, tmp_path: Path) -> None:
    held = torch.load(parts.folder / "stat.pt", weights_only=True)
    torch.save({"mean": torch.zeros_like(held["var"]), "var": held["var"]}, tmp_path / "zero.pt")
    first = value(generation(gen(*parts.words)), "FD-wardrobe")
    second = gen(*parts.changed(stats=tmp_path / "zero.pt")).records[-1]
    assert value(second, "FD-wardrobe") == first
