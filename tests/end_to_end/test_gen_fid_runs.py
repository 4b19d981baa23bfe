"""`ovbench gen-fid` when it is hard: a full disk, two commands on one cache, a protocol of the paper, all suites."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ovbench.encoders.modeling.sources import seeded
from ovbench.harness.generation.decoder import ViTDecoder
from ovbench.harness.generation.decoder_config import DecoderConfig
from ovbench.harness.metrics.fid_request import FidRequest
from ovbench.harness.metrics.fid_run import run_fid
from tests.end_to_end.conftest import environment
from tests.end_to_end.gen_fid import Parts, Result, command, seeded_noise, write_network, write_parts
from tests.harness.generation.test_given_parts import write_folder

SMOKE = ("gen-fid", "-e", "clip", "-p", "mini-smoke", "-n", "24")


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return write_parts(tmp_path_factory.mktemp("parts"))


def scores(result: Result) -> dict[str, dict[str, float | None]]:
    return {
        record["suite"]: {m["name"]: m["value"] for m in record["metrics"] if m["group"] is None}
        for record in result.records
    }


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_moment_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Parts
) -> None:
    expected = scores(command(tmp_path / "clean", monkeypatch, *SMOKE, *parts.words))
    words = (*SMOKE, *parts.words, "--save-samples", str(tmp_path / "s"))
    fsync = os.fsync
    for allowed in (0, 2, 6):
        left = allowed

        def full(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            fsync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            stopped = command(tmp_path / "full", monkeypatch, *words)
        assert stopped.code == 2, f"{allowed} writes were enough"
        assert "no space left on the device" in stopped.err
        assert "  fix:   free some space" in stopped.err
        assert not (tmp_path / "s").exists()
    done = command(tmp_path / "full", monkeypatch, *words)
    assert done.code == 0, done.err
    assert scores(done) == expected
    assert not list((tmp_path / "full").rglob("*.tmp"))


@pytest.mark.slow
def test_two_commands_on_one_cache_both_end_well(tmp_path: Path, parts: Parts) -> None:
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "ovbench", *SMOKE, *parts.words, "--out", str(tmp_path / name), "-j", "1"],
            env=environment(tmp_path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in ("one", "two")
    ]
    for process in running:
        _, err = process.communicate(timeout=200)
        assert process.returncode == 0, err
        assert "Traceback" not in err
    fingerprints = [
        sorted(path.name.rsplit("-", 1)[1] for path in (tmp_path / name).iterdir() if path.is_dir())
        for name in ("one", "two")
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(fingerprints[0]) == 2
    assert not (tmp_path / "cache" / "damaged").exists()


@pytest.mark.slow
def test_one_record_per_suite_and_what_a_suite_cannot_have_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("run", "-e", "vae", "-p", "mini-smoke", "-s")
    everything = command(tmp_path, monkeypatch, *words, "all")
    assert everything.code == 0, everything.err
    assert [record["suite"] for record in everything.records] == ["reconstruction", "generation"]
    assert "vae/mini: suite understanding left out" in everything.err
    for suite in ("reconstruction", "generation"):
        again = command(tmp_path, monkeypatch, *words, suite)
        assert again.code == 0, again.err
        assert len(again.records) == 2
        assert "started" not in again.err


@pytest.mark.slow
def test_a_protocol_of_the_paper_needs_no_pictures_for_given_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    config = DecoderConfig(latent_dim=384, num_patches=256, patch_px=16, width=32, depth=1, num_heads=2, mlp_width=32)
    decoder = seeded(lambda: ViTDecoder(config), 0)
    seeded_noise(decoder, 0)
    rae = str(write_folder(tmp_path / "rae", decoder, latent=384, grid=16, encoder_input_size=64))
    sizes = {"in_channels": 384, "input_size": 16, "num_classes": 1000, "hidden_size": [16, 384]}
    write_network(tmp_path, "dit", 1, **sizes)
    pictures = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    np.savez(tmp_path / "real.npz", arr_0=pictures)
    run_fid(
        FidRequest(
            real=tmp_path / "real.npz",
            fake=tmp_path / "real.npz",
            metrics="fid,sfid,precision,recall",
            weights="random",
            intervals=False,
            save_reference=tmp_path / "reference.npz",
        )
    )
    words = ("gen-fid", "-e", "dinov2/small?weights=random:0", "-p", "rae-imagenet256-proxy", "-n", "4")
    given: tuple[Any, ...] = ("--decoder", rae, "--stats", rae, "--dit", tmp_path / "dit.pt")
    given = (*given, "--dit-network", tmp_path / "dit.yaml", "--reference", tmp_path / "reference.npz")
    done = command(tmp_path, monkeypatch, *words, *map(str, given), "--extractor-weights", "random")
    assert done.code == 0, done.err
    (record,) = done.records
    assert record["suite"] == "generation"
    assert record["protocol"]["name"] == "rae-imagenet256-proxy, given decoder + stats + dit"
    assert all(metric["value"] is not None or metric["reason"] for metric in record["metrics"])
    assert all(metric["name"].endswith("-UntrainedInception") for metric in record["metrics"])


@pytest.mark.slow
def test_two_processes_save_the_samples_of_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: Parts) -> None:
    words = (*SMOKE, *parts.words, "--save-format", "npz", "--save-samples")
    alone = command(tmp_path / "alone", monkeypatch, *words, str(tmp_path / "s1"))
    assert alone.code == 0, alone.err
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--rdzv-backend=c10d",
         "--rdzv-endpoint=localhost:0", "-m", "ovbench", *words, str(tmp_path / "s2")],
        env=environment(tmp_path / "two"),
        capture_output=True,
        text=True,
        timeout=250,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "s1" / "samples.npz").read_bytes() == (tmp_path / "s2" / "samples.npz").read_bytes()
