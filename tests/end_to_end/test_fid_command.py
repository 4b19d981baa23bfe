"""`ovbench fid` as a user runs it: tables and JSON, bad pictures and files, an interruption at any moment."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.end_to_end.conftest import Cli, environment
from tests.harness.metrics.picture_sets import pictures, write_folder

WARDROBE = ("--extractor", "wardrobe")


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of pictures; tests only read them."""
    root = tmp_path_factory.mktemp("sets")
    write_folder(root / "real", pictures(90, 1, side=32))
    write_folder(root / "fake", pictures(80, 2, noise=30, side=32))
    return root


def test_the_table_and_the_file_hold_the_same_numbers(sets: Path, tmp_path: Path, ovbench: Cli) -> None:
    out = tmp_path / "report.json"
    done = ovbench("fid", str(sets / "real"), str(sets / "fake"), *WARDROBE, "--metrics", "fid,prdc", "--out", str(out))
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert [row["metric"] for row in report["scores"]] == ["fid", "precision", "recall", "density", "coverage"]
    for row in report["scores"]:
        assert row["label"] in done.stdout
        assert f"{row['value']:.5g}" in done.stdout
    assert done.stderr.startswith("fid · fake (80) against real (90) · mode adm · wardrobe, resize ")
    assert "warning: 90 reference pictures and 80 generated ones" in done.stderr
    again = ovbench("fid", str(sets / "real"), str(sets / "fake"), *WARDROBE, "--metrics", "fid,prdc", "--json")
    found = json.loads(again.stdout)
    assert found["scores"] == report["scores"]
    assert found["provenance"]["num_computed"] == {"real": 0, "fake": 0}
    assert json.loads(again.stderr.splitlines()[0])["headline"].startswith("fid · fake (80)")


def test_every_source_of_the_same_pictures_gives_the_same_numbers(sets: Path, tmp_path: Path, ovbench: Cli) -> None:
    images = pictures(80, 2, noise=30, side=32)
    np.savez(tmp_path / "fake.npz", images)
    import zipfile

    with zipfile.ZipFile(tmp_path / "fake.zip", "w") as archive:
        for path in sorted((sets / "fake").iterdir()):
            archive.write(path, path.name)
    values = []
    for source in (sets / "fake", tmp_path / "fake.npz", tmp_path / "fake.zip"):
        done = ovbench("fid", str(sets / "real"), str(source), *WARDROBE, "--metrics", "fid,kid", "--json")
        assert done.returncode == 0, done.stderr
        values.append([row["value"] for row in json.loads(done.stdout)["scores"]])
    assert values[0] == values[1] == values[2]


def test_an_audit_prints_a_row_a_change(sets: Path, ovbench: Cli) -> None:
    done = ovbench("fid", str(sets / "real"), str(sets / "fake"), *WARDROBE, "--metrics", "fid", "--audit",
                   "--audit-limit", "70", "--no-intervals")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "What each single change of convention is worth. FD-wardrobe as it stands:" in done.stdout
    assert "70 pictures against 70" in done.stdout
    for change in ("scipy.linalg.sqrtm", "numpy eigvals", "a random half of the reference", "35 of 70 generated"):
        assert change in done.stdout


def grey(folder: Path) -> None:
    Image.fromarray(pictures(1, 9, side=32)[0]).convert("L").save(folder / "00003.png")


def alpha(folder: Path) -> None:
    Image.fromarray(pictures(1, 9, side=32)[0]).convert("RGBA").save(folder / "00003.png")


def sixteen(folder: Path) -> None:
    Image.fromarray(np.full((32, 32), 40_000, dtype=np.uint16)).save(folder / "00003.png")


def corrupt(folder: Path) -> None:
    path = folder / "00003.png"
    path.write_bytes(path.read_bytes()[:150])


def larger(folder: Path) -> None:
    Image.fromarray(pictures(1, 9, side=40)[0]).save(folder / "00003.png")


@pytest.mark.parametrize(
    ("spoil", "message", "way_out"),
    [
        (grey, "00003.png: grey", "--convert"),
        (alpha, "00003.png: RGB with alpha", "--convert"),
        (sixteen, "00003.png: 16-bit grey", "--convert"),
        (corrupt, "00003.png: ", "--skip-bad 1"),
        (larger, "00003.png: 40×40 pixels among 32×32", "--crop"),
    ],
)
def test_an_unusable_picture_is_named_and_refused(
    tmp_path: Path, sets: Path, ovbench: Cli, spoil: Callable[[Path], None], message: str, way_out: str
) -> None:
    folder = write_folder(tmp_path / "fake", pictures(12, 2, side=32))
    spoil(folder)
    words = ("fid", str(sets / "real"), str(folder), *WARDROBE, "--metrics", "fid")
    done = ovbench(*words, "--out", str(tmp_path / "report.json"))
    assert done.returncode == 2
    assert "1 of 12 pictures cannot be scored" in done.stderr
    assert message in done.stderr
    assert way_out in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report.json").exists()
    allowed = ovbench(*words, "--skip-bad", "1")
    assert allowed.returncode == 0, allowed.stderr
    assert "1 pictures were left out, first 00003.png" in allowed.stderr
    assert "FD-wardrobe-11" in allowed.stdout


def _stats(folder: Path, **arrays: np.ndarray) -> Path:
    np.savez(folder / "stats.npz", **arrays)  # type: ignore[arg-type]
    return folder / "stats.npz"


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _one(folder: Path) -> Path:
    return write_folder(folder / "one", pictures(1, 1, side=32))


def _truncated(folder: Path) -> Path:
    path = _stats(folder, mu=np.zeros(64), sigma=np.eye(64))
    path.write_bytes(path.read_bytes()[:-500])
    return path


def _pickled(folder: Path) -> Path:
    return _stats(folder, mu=np.array([{}], dtype=object), sigma=np.eye(64))


def _nan(folder: Path) -> Path:
    return _stats(folder, mu=np.full(64, np.nan), sigma=np.eye(64))


def _other(folder: Path) -> Path:
    return _stats(folder, mu=np.zeros(2048), sigma=np.eye(2048))


def _adm(folder: Path) -> Path:
    return _stats(folder, mu=np.zeros(64), sigma=np.eye(64), mu_s=np.zeros(9), sigma_s=np.eye(9))


def _pickle(folder: Path) -> Path:
    (folder / "stats.pkl").write_bytes(b"\x80\x04.")
    return folder / "stats.pkl"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (_empty, "'empty' holds no pictures"),
        (_one, "at least 2 rows, got 1"),
        (_truncated, "is truncated or no zip"),
        (_pickled, "holds pickled objects"),
        (_nan, "the statistics hold NaN or infinite values"),
        (_other, "has 2048 dimensions, and 'wardrobe' gives 64"),
        (_adm, "was made with the network inception-2015-12-05"),
        (_pickle, "is a pickle, which can run code"),
    ],
)
def test_a_reference_that_cannot_be_used_is_explained(
    tmp_path: Path, sets: Path, ovbench: Cli, make: Callable[[Path], Path], message: str
) -> None:
    done = ovbench("fid", str(make(tmp_path)), str(sets / "fake"), *WARDROBE, "--metrics", "fid",
                   "--out", str(tmp_path / "report.json"))  # fmt: skip
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout
    assert not (tmp_path / "report.json").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_output_that_cannot_be_written_is_found_before_the_work(sets: Path, ovbench: Cli) -> None:
    done = ovbench("fid", str(sets / "real"), str(sets / "fake"), *WARDROBE, "--out", "/dev/null/report.json")
    assert done.returncode == 2
    assert "cannot write" in done.stderr
    assert "fid  real" not in done.stderr


def test_options_of_the_audit_need_the_audit(sets: Path, ovbench: Cli) -> None:
    done = ovbench("fid", str(sets / "real"), str(sets / "fake"), *WARDROBE, "--audit-limit", "20")
    assert done.returncode == 2
    assert "add --audit" in done.stderr


def test_absent_weights_say_which_file_to_put_where(sets: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ovbench", "fid", str(sets / "real"), str(sets / "fake")],
        env={**environment(tmp_path), "TORCH_HOME": str(tmp_path / "torch")},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "weights-inception-2015-12-05-6726825d.pth" in done.stderr
    assert str(tmp_path / "cache" / "weights") in done.stderr


def test_a_kill_at_any_moment_loses_no_number(tmp_path: Path, ovbench: Cli) -> None:
    real, fake = (
        write_folder(tmp_path / name, pictures(700, seed, side=32)) for name, seed in (("real", 1), ("fake", 2))
    )
    words = ("fid", str(real), str(fake), *WARDROBE, "--metrics", "fid,kid", "--no-intervals", "--json")
    whole = ovbench(*words, folder=tmp_path / "undisturbed")
    assert whole.returncode == 0, whole.stderr
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "ovbench", *words],
            env=environment(tmp_path / "killed"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert process.stderr is not None
        process.stderr.readline()  # the headline: work begins
        time.sleep(random.uniform(0.0, 2.0))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()
    done = ovbench(*words, folder=tmp_path / "killed")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["scores"] == json.loads(whole.stdout)["scores"]


def test_python_gives_the_same(sets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ovbench: Cli) -> None:
    import ovbench as package

    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))
    report = package.fid(sets / "real", sets / "fake", extractor="wardrobe", metrics=["fid"])
    done = ovbench("fid", str(sets / "real"), str(sets / "fake"), *WARDROBE, "--metrics", "fid", "--json")
    assert json.loads(done.stdout)["scores"][0]["value"] == report["fid"]
