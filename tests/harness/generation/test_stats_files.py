from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.generation.latent_stats import LatentStats, compute_stats
from ovbench.harness.generation.stats_files import load_released_stats, load_stats, save_stats
from tests.harness.generation.rae_data import patch_encoder, pictures, randn

SUFFIXES = [".safetensors", ".npz"]


def _computed() -> LatentStats:
    return compute_stats(patch_encoder(), [pictures(4)], data="four pictures")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("mean", [True, False])
def test_a_file_gives_back_everything(tmp_path: Path, suffix: str, mean: bool) -> None:
    stats = _computed() if mean else _computed().without_mean()
    path = tmp_path / f"stats{suffix}"
    save_stats(path, stats)
    loaded = load_stats(path, patch_encoder())
    assert loaded.digest() == stats.digest()
    assert loaded.num_pictures == 4
    assert loaded.provenance == stats.provenance
    assert (loaded.mean is None) is not mean
    assert loaded.var is not None
    assert loaded.var.dtype == torch.float64


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_statistics_give_equal_bytes(tmp_path: Path, suffix: str) -> None:
    for name in ("a", "b"):
        save_stats(tmp_path / f"{name}{suffix}", _computed())
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_statistics_of_another_encoder_are_refused(tmp_path: Path, suffix: str) -> None:
    save_stats(tmp_path / f"stats{suffix}", _computed())
    with pytest.raises(ConfigError) as error:
        load_stats(tmp_path / f"stats{suffix}", patch_encoder(seed=1))
    assert error.value.what == ("the latent statistics are of another encoder, tap or precision than 'stand-in/patch'")
    assert error.value.fix == "compute them for this encoder"


def test_only_named_formats_are_written_and_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"statistics cannot be written as '\.pt'"):
        save_stats(tmp_path / "stats.pt", _computed())
    with pytest.raises(ConfigError) as error:
        load_stats(tmp_path / "stat.pt", patch_encoder())
    assert error.value.fix == "use load_released_stats for RAE's own files"


def test_foreign_and_damaged_files_are_refused(tmp_path: Path) -> None:
    save_file({"var": torch.ones(6, 4, 4)}, tmp_path / "plain.safetensors")
    save_file({"var": torch.ones(6, 4, 4)}, tmp_path / "newer.safetensors", {"ovbench": '{"format": "newer"}'})
    np.savez(tmp_path / "plain.npz", mu=np.zeros(3))
    np.savez(tmp_path / "whole.npz", mu=np.zeros(3, dtype=np.int64))
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04 torn")
    for name in ("plain.safetensors", "newer.safetensors", "plain.npz", "whole.npz"):
        with pytest.raises(DataError, match=f"'{name}' holds no latent statistics of ovbench"):
            load_stats(tmp_path / name, patch_encoder())
    with pytest.raises(DataError, match="'torn.npz' is damaged"):
        load_stats(tmp_path / "torn.npz", patch_encoder())
    with pytest.raises(DataError, match="no such file 'none.npz'"):
        load_stats(tmp_path / "none.npz", patch_encoder())


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    header = '{"format": "newer", "encoder": "e", "eps": 1e-5, "num_pictures": 1, "provenance": {}}'
    save_file({"var": torch.ones(6, 4, 4)}, tmp_path / "newer.safetensors", {"ovbench": header})
    with pytest.raises(DataError, match="in a format that this version cannot read"):
        load_stats(tmp_path / "newer.safetensors", patch_encoder())


# --- what RAE released ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extra_axis", [False, True])
def test_a_released_file_without_a_mean_keeps_it_at_zero(tmp_path: Path, extra_axis: bool) -> None:
    var = randn(6, 4, 4).square() + 0.1
    torch.save({"mean": None, "var": var[None] if extra_axis else var}, tmp_path / "stat.pt")
    encoder, latents = patch_encoder(), randn(2, 6, 4, 4, seed=1)
    stats = load_released_stats(tmp_path / "stat.pt", encoder)
    assert stats.mean is None
    torch.testing.assert_close(stats.normalise(latents), latents / (var + 1e-5).sqrt())
    assert stats.provenance["binding"] == "stated by the user"
    stats.check_encoder(encoder)


def test_a_released_file_with_both_is_read(tmp_path: Path) -> None:
    mean, var = randn(6, 4, 4), randn(6, 4, 4, seed=1).square()
    torch.save({"mean": mean, "var": var}, tmp_path / "stat.pt")
    stats = load_released_stats(tmp_path / "stat.pt", patch_encoder(), eps=1e-4)
    assert torch.equal(stats.shift(), mean)
    torch.testing.assert_close(stats.scale(), (var + 1e-4).sqrt())


def test_a_released_file_of_another_size_is_refused(tmp_path: Path) -> None:
    torch.save({"mean": None, "var": torch.ones(6, 8, 8)}, tmp_path / "stat.pt")
    with pytest.raises(ConfigError, match=r"are \[6, 8, 8\], and the latents of 'stand-in/patch' are \[6, 4, 4\]"):
        load_released_stats(tmp_path / "stat.pt", patch_encoder())


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"mu": torch.ones(3)}, r"holds no statistics of RAE, but \['mu'\]"),
        ({"var": torch.ones(6, 4, 4), "decoder": torch.ones(1)}, "holds no statistics of RAE"),
        (torch.ones(3), "holds no statistics of RAE, but Tensor"),
        ({"mean": None, "var": [1.0]}, "'var' is a list, not a tensor"),
        ({"mean": None, "var": None}, "neither a mean nor a variance"),
    ],
)
def test_other_pickles_are_refused(tmp_path: Path, document: Any, message: str) -> None:
    torch.save(document, tmp_path / "stat.pt")
    with pytest.raises(DataError, match=message):
        load_released_stats(tmp_path / "stat.pt", patch_encoder())
