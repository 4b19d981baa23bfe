"""Statistics of every layout are read, what is none is refused, and nothing is compared with what it does not fit."""

from __future__ import annotations

import os
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.metrics.extractor_base import ExtractorInfo
from ovbench.harness.metrics.reference_checks import check_match, check_purpose
from ovbench.harness.metrics.references import (
    Gaussian,
    Reference,
    check_gaussian,
    check_statistics,
    features_path,
    read_reference,
    write_reference,
)

D, D_S = 6, 4


def gaussian(dim: int = D, seed: int = 0) -> Gaussian:
    x = np.random.default_rng(seed).standard_normal((50, dim))
    return Gaussian(mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False))


def info(**changes: Any) -> ExtractorInfo:
    fields: dict[str, Any] = {
        "name": "inception-tf", "network": "inception-2015-12-05", "trained": True, "weights_sha256": "6726825d" * 8,
        "resize": "tf1-bilinear", "quantisation": "none", "normalisation": "(x - 128) / 128", "size_px": 299,
        "layers": {"2048": D, "spatial_2023": D_S}, "pool": "2048", "spatial": "spatial_2023", "title": "FID",
    }  # fmt: skip
    return ExtractorInfo(**{**fields, **changes})


def own(**changes: Any) -> Reference:
    fields: dict[str, Any] = {
        "name": "val-256", "pool": gaussian(), "spatial": gaussian(D_S), "n": 50, "purpose": "reconstruction",
        "network": "inception-2015-12-05", "extractor": "inception-tf", "weights_sha256": "6726825d" * 8,
        "resize": "tf1-bilinear", "quantise": "stored", "crop": "adm-256", "split": "val", "source_sha256": "a" * 64,
    }  # fmt: skip
    return Reference(**{**fields, **changes})


def write_adm(path: Path) -> Path:
    pool, spatial = gaussian(), gaussian(D_S)
    np.savez(
        path, np.zeros((3, 8, 8, 3), dtype=np.uint8), mu=pool.mu.astype(np.float32), sigma=pool.sigma, mu_s=spatial.mu,
        sigma_s=spatial.sigma,
    )  # fmt: skip
    return path


def test_adms_file_is_a_generation_reference_of_the_whole_training_set(tmp_path: Path) -> None:
    found = read_reference(write_adm(tmp_path / "VIRTUAL.npz"))
    assert (found.layout, found.purpose, found.network) == ("adm", "generation", "inception-2015-12-05")
    assert found.resize == "tf1-bilinear"
    assert found.n is None  # its 3 pictures are not what mu is of
    assert found.pictures == 3
    assert found.pool.mu.dtype == found.pool.sigma.dtype == np.float64
    assert np.allclose(found.pool.mu, gaussian().mu, atol=1e-7)
    assert np.array_equal(found.pool.sigma, gaussian().sigma)
    assert found.spatial is not None
    assert found.spatial.dim == D_S
    assert found.describe["n"] == found.describe["split"] == "unknown"


def test_a_file_of_mu_and_sigma_says_nothing_more(tmp_path: Path) -> None:
    np.savez(tmp_path / "imagenet.npz", mu=gaussian().mu, sigma=gaussian().sigma)
    found = read_reference(tmp_path / "imagenet.npz", name="mine", purpose="generation")
    assert (found.name, found.layout, found.network, found.resize) == ("mine", "mu-sigma", None, None)
    assert found.purpose == "generation"
    assert len(check_match(found, info())) == 4  # network, resize, weights, count


@pytest.mark.parametrize(
    ("name", "resize"),
    [
        ("cifar10_clean_train_32", "pil-bicubic"),
        ("mine_clean_custom_na", "pil-bicubic"),
        ("lsun_church_legacy_tensorflow_train_256", "tf1-bilinear"),
        ("ffhq_legacy_pytorch_trainval70k_1024", "torch-bilinear"),
    ],
)
def test_clean_fids_file_tells_its_resize_by_its_name(tmp_path: Path, name: str, resize: str) -> None:
    np.savez(tmp_path / f"{name}.npz", mu=gaussian().mu, sigma=gaussian().sigma)
    found = read_reference(tmp_path / f"{name}.npz")
    assert (found.layout, found.resize) == ("clean-fid", resize)


def test_clean_fids_file_of_2048_dimensions_is_of_the_2015_network(tmp_path: Path) -> None:
    np.savez(tmp_path / "a_clean_train_32.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    np.savez(tmp_path / "a_clean_clip_vit_b_32_train_32.npz", mu=np.zeros(512), sigma=np.eye(512))
    assert read_reference(tmp_path / "a_clean_train_32.npz").network == "inception-2015-12-05"
    assert read_reference(tmp_path / "a_clean_clip_vit_b_32_train_32.npz").network is None


def test_a_pt_of_plain_tensors_is_read_and_one_of_objects_is_not(tmp_path: Path) -> None:
    torch.save({"mu": torch.from_numpy(gaussian().mu), "sigma": torch.from_numpy(gaussian().sigma)}, tmp_path / "a.pt")
    assert np.array_equal(read_reference(tmp_path / "a.pt").pool.sigma, gaussian().sigma)
    torch.save({"mu": Path("code"), "sigma": 0}, tmp_path / "b.pt")
    with pytest.raises(DataError, match="pickled code or objects"):
        read_reference(tmp_path / "b.pt")
    torch.save({"weight": torch.zeros(1)}, tmp_path / "c.pt")
    with pytest.raises(DataError, match=r"mu and sigma are missing \(it has: weight\)"):
        read_reference(tmp_path / "c.pt")


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    written = own()
    write_reference(tmp_path / "a.npz", written)
    found = read_reference(tmp_path / "a.npz")
    assert np.array_equal(found.pool.mu, written.pool.mu)
    assert np.array_equal(found.pool.sigma, written.pool.sigma)
    assert found.spatial is not None
    assert np.array_equal(found.spatial.sigma, gaussian(D_S).sigma)
    skipped = {"file_sha256", "tool_version"}
    assert {key: value for key, value in found.describe.items() if key not in skipped} == {
        key: value for key, value in written.describe.items() if key not in skipped
    }
    assert found.tool_version
    assert len(found.file_sha256 or "") == 64
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:  # other tools can read it
        assert arrays["mu"].shape == (D,)


def test_features_lie_beside_and_are_mapped(tmp_path: Path) -> None:
    features = np.random.default_rng(0).standard_normal((50, D)).astype(np.float32)
    write_reference(tmp_path / "a.npz", own(features=features))
    found = read_reference(tmp_path / "a.npz")
    assert isinstance(found.features, np.memmap)
    assert np.array_equal(found.features, features)
    np.save(features_path(tmp_path / "a.npz"), features + 1)
    with pytest.raises(DataError, match="does not belong to 'a.npz'"):
        read_reference(tmp_path / "a.npz")


def test_radii_are_kept_and_must_be_of_as_many_pictures(tmp_path: Path) -> None:
    write_reference(tmp_path / "a.npz", own(radii_k3=np.arange(50.0)))
    found = read_reference(tmp_path / "a.npz").radii_k3
    assert found is not None
    assert found.tolist() == list(range(50))
    write_reference(tmp_path / "a.npz", own(radii_k3=np.arange(49.0)))
    with pytest.raises(DataError, match=r"the radii \[49\] are not of 50 pictures"):
        read_reference(tmp_path / "a.npz")


def test_missing_features_are_said_and_the_statistics_stay_useful(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_reference(tmp_path / "a.npz", own(features=np.zeros((50, D))))
    features_path(tmp_path / "a.npz").unlink()
    assert read_reference(tmp_path / "a.npz").features is None
    assert "the features beside 'a.npz' are missing" in caplog.text


@pytest.mark.parametrize("field", ["n", "purpose", "network", "weights_sha256", "resize", "source_sha256"])
def test_statistics_without_provenance_are_not_written(tmp_path: Path, field: str) -> None:
    with pytest.raises(ConfigError, match=f"do not say: {field}"):
        write_reference(tmp_path / "a.npz", own(**{field: None}))
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(ConfigError, match="no space left"):
        write_reference(tmp_path / "a.npz", own())
    assert not list(tmp_path.iterdir())
    with pytest.raises(ConfigError, match="written as .npz"):
        write_reference(tmp_path / "a.json", own())


@pytest.mark.parametrize("there_already", [False, True])
@pytest.mark.parametrize("fails_at", [1, 2, 3, 4])
def test_a_write_that_fails_in_the_middle_leaves_the_earlier_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_already: bool, fails_at: int
) -> None:
    path, rows = tmp_path / "a.npz", np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    if there_already:
        write_reference(path, own(features=rows))
    replace_file, calls = os.replace, [0]

    def fail(source: Any, target: Any) -> None:
        calls[0] += 1
        if calls[0] == fails_at:
            raise OSError(28, "No space left on device")
        replace_file(source, target)

    monkeypatch.setattr("os.replace", fail)
    if fails_at == 4 and not there_already:  # one step fewer: nothing has to be moved out of the way
        write_reference(path, own(features=rows + 1))
    else:
        with pytest.raises(ConfigError, match="no space left"):
            write_reference(path, own(features=rows + 1))
    monkeypatch.undo()
    if there_already:
        np.testing.assert_array_equal(read_reference(path).features, rows)
        assert len(list(tmp_path.iterdir())) == 2
    elif fails_at < 4:
        assert not list(tmp_path.iterdir())


def test_facts_of_the_pictures_are_kept(tmp_path: Path) -> None:
    write_reference(
        tmp_path / "a.npz", own(size_px=(32, 48), num_distinct=99, left_out=("a.png: grey", "b\nc.png: bad"))
    )
    found = read_reference(tmp_path / "a.npz")
    assert (found.size_px, found.num_distinct, found.left_out) == ((32, 48), 99, ("a.png: grey", "b c.png: bad"))


def test_each_fact_of_the_pictures_is_kept_alone_and_as_it_is(tmp_path: Path) -> None:
    for change in ({"size_px": (32, 48)}, {"num_distinct": 99}, {"left_out": ("a  b.png: grey",)}):
        write_reference(tmp_path / "a.npz", own(**change))
        found = read_reference(tmp_path / "a.npz")
        kept = {"size_px": found.size_px, "num_distinct": found.num_distinct, "left_out": found.left_out}
        assert kept == {"size_px": None, "num_distinct": None, "left_out": (), **change}


@pytest.mark.parametrize("there_already", [False, True])
def test_statistics_that_cannot_be_written_leave_the_earlier_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there_already: bool
) -> None:
    path, rows = tmp_path / "a.npz", np.random.default_rng(0).standard_normal((50, 6)).astype(np.float32)
    if there_already:
        write_reference(path, own(features=rows))
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    in_place: list[bytes | None] = []

    def fail(_: object) -> bytes:
        beside = features_path(path)
        in_place.append(beside.read_bytes() if beside.exists() else None)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ovbench.harness.metrics.references._packed", fail)
    with pytest.raises(ConfigError, match="no space left"):
        write_reference(path, own(features=rows + 1))
    assert in_place == [before.get("a.features.npy")]  # nothing was replaced before both were written
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_what_a_killed_write_moved_away_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".a.features.npy.old.tmp").write_bytes(b"of a killed process")
    monkeypatch.setattr("ovbench.harness.metrics.references._packed", lambda _: (_ for _ in ()).throw(OSError(28, "")))
    with pytest.raises(ConfigError, match="no space left"):
        write_reference(tmp_path / "a.npz", own(features=np.zeros((50, 6), dtype=np.float32)))
    assert not list(tmp_path.iterdir())


def test_bad_statistics_made_by_hand_are_refused_before_they_are_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"mu \[6\] and sigma \[5, 5\] are no mean and covariance"):
        own(pool=Gaussian(mu=gaussian().mu, sigma=np.eye(5)))
    for change, where in ({"pool": D}, "val-256: mu, sigma"), ({"spatial": D_S}, "val-256: mu_s, sigma_s"):
        bad = own(**{key: Gaussian(mu=np.zeros(dim), sigma=-np.eye(dim)) for key, dim in change.items()})
        for use in (check_statistics, lambda reference: write_reference(tmp_path / "a.npz", reference)):
            with pytest.raises(DataError, match="no variance") as caught:
                use(bad)
            assert caught.value.where == where
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mu": np.zeros(5)}, r"mu \[5\] and sigma \[6, 6\] are no mean and covariance"),
        ({"mu": np.zeros((1, 6))}, r"mu \[1, 6\]"),
        ({"sigma": np.ones((6, 5))}, r"sigma \[6, 5\]"),
        ({"mu": np.full(6, np.nan)}, "NaN or infinite"),
        ({"sigma": np.diag([1, 1, 1, 1, 1, np.inf])}, "NaN or infinite"),
        ({"sigma": np.eye(6) + np.eye(6, k=1) * 1e-4}, "not symmetric"),
        ({"sigma": np.zeros((6, 6))}, "no variance"),
        ({"sigma": np.diag([1, 1, 1, 1, 1, -1e-4])}, "negative eigenvalue, -0.0001"),
    ],
)
def test_what_is_no_mean_and_covariance_is_refused(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    arrays: dict[str, Any] = {"mu": gaussian().mu, "sigma": gaussian().sigma, **change}
    with pytest.raises(DataError, match=message):
        check_gaussian(Gaussian(**arrays), where="x")
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_reference(tmp_path / "a.npz")


def test_a_rank_deficient_covariance_passes() -> None:
    x = np.random.default_rng(0).standard_normal((4, 40))
    check_gaussian(Gaussian(mu=x.mean(axis=0), sigma=np.cov(x, rowvar=False)), where="x")


@pytest.mark.parametrize(
    "array", [gaussian().mu.astype(complex), np.array(["a"] * D), np.array([{}] * D, dtype=object)]
)
def test_what_are_no_real_numbers_is_refused(tmp_path: Path, array: np.ndarray) -> None:
    np.savez(tmp_path / "a.npz", allow_pickle=True, mu=array, sigma=gaussian().sigma)
    with pytest.raises(DataError, match="not of real numbers|pickled objects"):
        read_reference(tmp_path / "a.npz")


@pytest.mark.parametrize("keep", [0.2, 0.6, 0.99])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: float) -> None:
    path = write_adm(tmp_path / "a.npz")
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
    with pytest.raises(DataError, match="truncated or no zip"):
        read_reference(path)


def test_damaged_numbers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, mu=gaussian().mu, sigma=gaussian().sigma)
    data = bytearray(path.read_bytes())
    place = data.index(gaussian().sigma.tobytes())
    data[place + 8] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="the array 'sigma' is damaged: Bad CRC"):
        read_reference(path)


def test_pickles_and_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pkl").write_bytes(pickle.dumps({"mu": 0}))
    with pytest.raises(ConfigError, match="is a pickle, which can run code"):
        read_reference(tmp_path / "a.pkl")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ConfigError, match="no statistics file"):
        read_reference(tmp_path / "a.txt")
    with pytest.raises(DataError, match="no such file"):
        read_reference(tmp_path / "absent.npz")
    np.savez(tmp_path / "pictures.npz", np.zeros((2, 8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"mu and sigma are missing \(it has: arr_0\)"):
        read_reference(tmp_path / "pictures.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": "ovbench-statistics-9"}, "has the format 'ovbench-statistics-9'"), ({"n": [1, 2]}, "'n' is not one"),
     ({"size_px": [1, 2, 3]}, "'size_px' is not 2 whole numbers"), ({"num_distinct": 1.5}, "'num_distinct' is not one"),
     ({"purpose": "fun"}, "unknown purpose 'fun'"), ({"n": 1}, "statistics of 1 pictures have no covariance")],
)  # fmt: skip
def test_an_own_file_with_odd_fields_is_refused(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    write_reference(tmp_path / "a.npz", own())
    with np.load(tmp_path / "a.npz") as arrays:
        fields = dict(arrays)
    np.savez(tmp_path / "a.npz", **{**fields, **{key: np.asarray(value) for key, value in change.items()}})
    with pytest.raises(DataError, match=message):
        read_reference(tmp_path / "a.npz")


def test_rfid_refuses_a_generation_reference_and_the_other_way_round(tmp_path: Path) -> None:
    generation = read_reference(write_adm(tmp_path / "a.npz"))
    assert check_purpose(generation, "generation") == []
    with pytest.raises(ConfigError, match="rFID cannot be computed with it") as caught:
        check_purpose(generation, "reconstruction")
    assert "the very pictures that were encoded" in caught.value.fix
    with pytest.raises(ConfigError, match="gFID cannot be computed with it"):
        check_purpose(own(), "generation")
    with pytest.raises(ConfigError, match="is a reference for generation, not for reconstruction"):
        read_reference(tmp_path / "a.npz", purpose="reconstruction")
    assert "does not say whether" in check_purpose(own(purpose=None), "generation")[0]


def test_statistics_of_the_same_extractor_fit() -> None:
    assert check_match(own(), info()) == []


@pytest.mark.parametrize(
    ("reference", "changes", "message"),
    [
        (own(pool=gaussian(5)), {}, "has 5 dimensions, and 'inception-tf' gives 6"),
        (own(spatial=gaussian(5)), {}, "has 5 spatial dimensions, and 'inception-tf' gives 4"),
        (own(network="dinov2-l14"), {}, "made with the network dinov2-l14"),
        (own(resize="pil-bicubic"), {}, "made with the resize pil-bicubic"),
        (own(weights_sha256="0" * 64), {}, "made with the weights 0000"),
        (own(), {"resize": "torch-bilinear"}, "'inception-tf' uses torch-bilinear"),
    ],
)
def test_statistics_of_another_extractor_are_refused(
    reference: Reference, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        check_match(reference, info(**changes))


def test_an_untrained_network_is_not_compared_with_adms_file(tmp_path: Path) -> None:
    untrained = info(trained=False, network="inception-2015-12-05, untrained")
    with pytest.raises(ConfigError, match="made with the network"):
        check_match(read_reference(write_adm(tmp_path / "a.npz")), untrained)


def test_an_unknown_count_and_a_small_one_are_said(tmp_path: Path) -> None:
    adm = read_reference(write_adm(tmp_path / "a.npz"))
    assert check_match(adm, info()) == ["'a' does not say of how many pictures it is"]
    assert "singular" in check_match(replace(own(), n=5), info())[0]
