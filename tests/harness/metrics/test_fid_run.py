"""`ovbench fid` in Python: what is refused before work, what a report holds, what an audit changes."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ovbench
from ovbench._base.errors import OvbenchError
from ovbench._base.files import to_json
from ovbench.harness.metrics.extractor_base import Extractor
from ovbench.harness.metrics.fid_audit import AuditRequest
from ovbench.harness.metrics.fid_report import FidReport
from ovbench.harness.metrics.fid_request import FidRequest, check_report_target
from ovbench.harness.metrics.fid_run import headline, open_run, run_fid
from ovbench.harness.metrics.frechet import frechet_distance, frechet_from_features
from ovbench.harness.metrics.image_sources import ImageSource
from ovbench.harness.metrics.jackknife import paired_frechet_difference, paired_mean_difference
from ovbench.harness.metrics.reconstruction import psnr

from .picture_sets import pictures, toy_extractor, toy_rows, write_folder

REAL, FAKE, OTHER = pictures(60, 1), pictures(50, 2, noise=20), pictures(50, 3, noise=40)
Run = Callable[..., FidReport]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three sources, a cache of its own, and the toy network in place of the extractors."""
    monkeypatch.setenv("OVBENCH_CACHE", str(tmp_path / "cache"))

    def load(name: str, *, weights: str | None = None, **_: object) -> Extractor:
        return toy_extractor(name=name, scale=2.0 if weights == "other" else 1.0)

    for module in ("fid_request", "fid_audit"):
        monkeypatch.setattr(f"ovbench.harness.metrics.{module}.load_extractor", load)
    for name, images in (("real", REAL), ("fake", FAKE), ("other", OTHER)):
        write_folder(tmp_path / name, images)
    return tmp_path


@pytest.fixture
def run(folder: Path) -> Run:
    def run(real: str = "real", fake: str = "fake", **options: Any) -> FidReport:
        settings: dict[str, Any] = {"extractor": "toy"} | options
        return run_fid(FidRequest(real=folder / real, fake=folder / fake, **settings))

    return run


def test_the_report_holds_every_score_that_was_asked_for_in_that_order(run: Run) -> None:
    report = run(metrics="kid,fid,psnr", real="other")
    assert [entry.metric for entry in report.scores] == ["kid", "fid", "psnr"]
    wanted = frechet_from_features(toy_rows(OTHER)["pool"], toy_rows(FAKE)["pool"]).value
    assert report["fid"] == pytest.approx(wanted, abs=1e-9)
    assert report["psnr"] == pytest.approx(float(psnr(OTHER, FAKE).mean()))
    with pytest.raises(KeyError):
        report["ssim"]


def test_the_report_is_json_with_all_that_decides_a_number(run: Run) -> None:
    report = json.loads(to_json(run(metrics="fid,prdc", split="val").to_dict()))
    (fid, *_) = report["scores"]
    assert fid["label"] == "FD-Toy-50"
    assert (fid["n"], fid["num_reference"], fid["higher_is_better"]) == (50, 60, False)
    assert fid["low"] < fid["value"] < fid["high"]
    assert report["extractor"]["resize"] == "none"
    assert report["extractor"]["weights_sha256"]
    assert (report["real"]["n"], report["real"]["split"], report["fake"]["n"]) == (60, "val", 50)
    assert report["fake"]["pixels_sha256"] != report["real"]["pixels_sha256"]
    assert report["provenance"]["num_computed"] == {"real": 60, "fake": 50}
    assert set(report["timings_s"]) == {"real", "fake", "scores", "total"}


def test_batch_cache_and_repetition_change_no_number(run: Run) -> None:
    def values(**options: Any) -> list[float | None]:
        return [entry.score.value for entry in run(metrics="fid,sfid,is,kid,prdc,fid-infinity", **options).scores]

    first = values()
    assert values() == first
    assert values(batch_size=1) == first
    assert values(batch_size=7, cache=False) == first


def test_the_second_run_computes_nothing(run: Run) -> None:
    run()
    assert run().provenance["num_computed"] == {"real": 0, "fake": 0}


def test_the_mode_decides_what_is_scored(run: Run) -> None:
    assert [entry.metric for entry in run(mode="clean").scores] == ["fid", "kid"]
    assert [entry.metric for entry in run(mode="adm").scores] == ["fid", "sfid", "is", "precision", "recall"]


def test_a_saved_reference_scores_the_same_without_its_pictures(run: Run, folder: Path) -> None:
    first = run(metrics="fid,sfid,kid,pr", save_reference=folder / "ref.npz")
    for path in (folder / "real").iterdir():
        path.unlink()
    again = run("ref.npz", metrics="fid,sfid,kid,pr")
    for one, other in zip(first.scores, again.scores, strict=True):
        assert other.score.value == pytest.approx(one.score.value, abs=1e-8)
    assert again.real["kind"] == "statistics"
    assert again.real["source_sha256"] == first.real["pixels_sha256"]


def test_adms_file_gives_its_statistics_to_the_distance_and_its_pictures_to_precision(run: Run, folder: Path) -> None:
    whole = toy_rows(pictures(200, 8))
    exact = {name: whole[name].astype(np.float64) for name in ("pool", "spatial")}
    np.savez(folder / "adm.npz", arr_0=REAL, mu=exact["pool"].mean(0), sigma=np.cov(exact["pool"], rowvar=False))
    report = run("adm.npz", metrics="fid,precision")
    assert report["fid"] == pytest.approx(frechet_from_features(whole["pool"], toy_rows(FAKE)["pool"]).value, abs=1e-8)
    assert report["precision"] == run(metrics="precision")["precision"]
    assert report.real["pictures"] == 60
    assert any("does not say of how many pictures" in warning for warning in report.warnings)


def test_statistics_alone_show_what_cannot_be_scored_unless_it_was_asked_for(run: Run, folder: Path) -> None:
    exact = toy_rows(REAL)["pool"].astype(np.float64)
    np.savez(folder / "stats.npz", mu=exact.mean(0), sigma=np.cov(exact, rowvar=False))
    report = run("stats.npz")
    by_name = {entry.metric: entry.score for entry in report.scores}
    assert by_name["fid"].value is not None
    assert by_name["precision"].reason == "the reference holds statistics and no pictures"
    with pytest.raises(OvbenchError, match="KID needs the pictures of the reference"):
        run("stats.npz", metrics="fid,kid")
    with pytest.raises(OvbenchError, match="holds no spatial statistics"):
        run("stats.npz", metrics="sfid")
    with pytest.raises(OvbenchError, match="PSNR compares pictures, and 'stats.npz' is a file of statistics"):
        run("stats.npz", metrics="psnr")


def test_the_paired_difference_has_the_interval_of_common_seeds(run: Run, folder: Path) -> None:
    report = run(metrics="fid,psnr", real="fake", fake="fake", versus=folder / "other")
    fid, of_psnr = report.differences
    exact = toy_rows(FAKE)["pool"].astype(np.float64)
    wanted = paired_frechet_difference(
        toy_rows(FAKE)["pool"], toy_rows(OTHER)["pool"], exact.mean(0), np.cov(exact, rowvar=False), 50, num_blocks=25
    )
    assert fid.found.value == pytest.approx(wanted.value, abs=1e-8)
    assert fid.found.interval.low == pytest.approx(wanted.interval.low, abs=1e-8)
    gap = paired_mean_difference(psnr(FAKE, FAKE), psnr(FAKE, OTHER), label="psnr")
    assert of_psnr.found.value == pytest.approx(gap.value)
    assert report.versus is not None


def test_unequal_numbers_and_few_pictures_are_said(run: Run) -> None:
    warnings = run(metrics="fid").warnings
    assert any("60 reference pictures and 50 generated ones" in warning for warning in warnings)


def test_sets_no_larger_than_the_width_are_said(run: Run, folder: Path) -> None:
    write_folder(folder / "few", FAKE[:9])
    warnings = run(fake="few", metrics="fid").warnings
    assert any("9 generated pictures at 12 dimensions" in warning for warning in warnings)


def test_repeated_and_plain_pictures_are_said(run: Run, folder: Path) -> None:
    images = FAKE.copy()
    images[7] = images[3]
    images[9] = 5
    write_folder(folder / "odd", images)
    warnings = run(fake="odd", metrics="fid").warnings
    assert any("1 pictures repeat others, first '00007.png' = '00003.png'" in warning for warning in warnings)
    assert any("1 of 50 pictures are of one colour" in warning for warning in warnings)
    with pytest.raises(OvbenchError, match="50 pictures, but only 49 distinct ones"):
        run(fake="odd", expect=50)


def test_the_first_line_says_which_pictures_and_which_network(folder: Path) -> None:
    line = headline(open_run(FidRequest(real=folder / "real", fake=folder / "fake", extractor="toy")))
    assert line.startswith("fid · fake (50) against real (60) · mode adm · toy, resize none · weights ")
    assert line.endswith("fid, sfid, is, precision, recall")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metrics": "fid,kit"}, "unknown metric 'kit'"),
        ({"metrics": " , "}, "no metric was named"),
        ({"mode": "adn"}, "unknown mode 'adn'"),
        ({"purpose": "fun"}, "unknown purpose 'fun'"),
        ({"batch_size": 0}, "it must be 1 or more, got 0"),
        ({"seed": -1}, "a seed must be 0 or more, got -1"),
        ({"kid_subset_size": 1}, "it must be 2 or more, got 1"),
        ({"expect": 51}, "50 pictures instead of 51"),
        ({"fake": "absent"}, "no such file or folder 'absent'"),
        ({"metrics": "cmmd"}, "CMMD is defined on the features of 'clip-l14-336'"),
        ({"metrics": "psnr"}, "60 originals and 50 reconstructions are no pairs"),
        ({"metrics": "psnr", "real": "other", "audit": AuditRequest()}, "the audit is of the Fréchet distance"),
    ],
)
def test_what_cannot_be_scored_is_refused(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(OvbenchError, match=message) as caught:
        run(**options)
    assert caught.value.where or caught.value.fix


def test_refusals_come_before_the_first_picture(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> object:
        raise AssertionError("a picture was opened")

    monkeypatch.setattr(ImageSource, "batches", refuse)
    exact = toy_rows(REAL)["spatial"].astype(np.float64)
    np.savez(folder / "narrow.npz", mu=exact.mean(0), sigma=np.cov(exact, rowvar=False))
    for options, message in (
        ({"real": "narrow.npz", "metrics": "fid"}, "has 10 dimensions, and 'toy' gives 12"),
        ({"versus": folder / "real"}, "as many pictures of both, got 50 and 60"),
        ({"save_reference": folder / "x.json"}, "statistics are written as .npz"),
        ({"save_reference": folder / "x.npz", "real": "other", "metrics": "psnr"}, "scores of pairs need none"),
        ({"audit": AuditRequest(references=(folder / "absent.npz",))}, "no such file"),
    ):
        with pytest.raises(OvbenchError, match=message):
            run(**options)


def test_a_reference_of_another_purpose_is_refused(run: Run, folder: Path) -> None:
    run(metrics="fid", save_reference=folder / "ref.npz")
    with pytest.raises(OvbenchError, match="is a reference for generation, and rFID cannot be computed with it"):
        run("ref.npz", purpose="reconstruction")
    run(metrics="fid", purpose="reconstruction", save_reference=folder / "own.npz")
    with pytest.raises(OvbenchError, match="is a reference for reconstruction, and gFID"):
        run("own.npz")
    with pytest.raises(OvbenchError, match="is a reference already"):
        run("ref.npz", save_reference=folder / "again.npz")


def test_one_picture_is_no_set(run: Run, folder: Path) -> None:
    write_folder(folder / "one", FAKE[:1])
    with pytest.raises(OvbenchError, match="a covariance needs at least 2 pictures, got 1"):
        run(fake="one", metrics="fid")


def test_an_audit_says_what_each_change_is_worth(run: Run, folder: Path) -> None:
    write_folder(folder / "second", pictures(60, 9))
    report = run(metrics="fid", audit=AuditRequest(references=(folder / "second",)))
    audit = report.audit
    assert audit is not None
    assert audit.base == pytest.approx(report["fid"], abs=1e-9)
    rows = {row.change: row for row in audit.rows}
    assert {row.kind for row in audit.rows} == {
        "precision",
        "reference",
        "number",
        "solver",
    }  # no Inception: no resizes
    real, fake = toy_rows(REAL)["pool"], toy_rows(FAKE)["pool"]
    second = frechet_from_features(toy_rows(pictures(60, 9))["pool"], fake).value
    assert rows[str(folder / "second")].mixed == pytest.approx(second, abs=1e-8)
    assert rows["scipy.linalg.sqrtm, as ADM, pytorch-fid and clean-fid"].both == pytest.approx(audit.base, abs=1e-6)
    assert rows["numpy eigvals, as torch-fidelity"].both == pytest.approx(audit.base, abs=1e-6)
    centred = real.astype(np.float64), fake.astype(np.float64)
    parts = [(part.mean(axis=0), np.cov(part, rowvar=False, ddof=0)) for part in centred]
    population = frechet_distance(*parts[0], *parts[1], 60, 50).value
    assert rows["covariances divided by n"].both == pytest.approx(population, rel=1e-9)
    assert population != pytest.approx(audit.base, rel=1e-4)
    assert rows["25 of 50 generated pictures"].mixed != pytest.approx(audit.base)
    table = audit.to_dict()["rows"]
    assert all(
        row["both"] is None or row["both_minus_base"] == pytest.approx(row["both"] - audit.base) for row in table
    )


def test_an_audit_of_fewer_pictures_is_of_the_first_ones(run: Run) -> None:
    audit = run(metrics="fid", audit=AuditRequest(limit=20)).audit
    assert audit is not None
    assert (audit.num_real, audit.num_fake) == (20, 20)
    wanted = frechet_from_features(toy_rows(REAL)["pool"][:20], toy_rows(FAKE)["pool"][:20]).value
    assert audit.base == pytest.approx(wanted, abs=1e-9)
    with pytest.raises(OvbenchError, match="it must be 4 or more"):
        AuditRequest(limit=3)


def test_an_audit_against_statistics_leaves_out_what_needs_pictures(run: Run, folder: Path) -> None:
    run(metrics="fid", save_reference=folder / "ref.npz")
    audit = run("ref.npz", metrics="fid", audit=AuditRequest()).audit
    assert audit is not None
    (row,) = [row for row in audit.rows if row.kind == "precision"]
    assert row.both is None
    assert row.mixed is not None
    assert "statistics without pictures" in row.note


def test_an_audit_of_the_inception_network_changes_one_thing_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def load(name: str, *, weights: str | None, device: str, **options: Any) -> Extractor:
        asked.append({"name": name, **options})
        return toy_extractor(name=name, scale=1.0 + 0.1 * len(asked))

    monkeypatch.setattr("ovbench.harness.metrics.fid_audit.load_extractor", load)
    monkeypatch.setattr("ovbench.harness.metrics.fid_audit.installed", lambda module: False)
    request = FidRequest(real=folder / "real", fake=folder / "fake", extractor="inception-tf", metrics="fid",
                         intervals=False, audit=AuditRequest(limit=20))  # fmt: skip
    audit = run_fid(request).audit
    assert audit is not None
    base = {"name": "inception-tf", "layers": ("pool",)}
    changes = [{key: value for key, value in found.items() if base.get(key) != value} for found in asked]
    assert changes[-1] == {"precision": "bfloat16"}
    assert {"fast": False} in changes
    assert {"centre": 127.5} in changes
    assert {"name": "inception-pytorchfid"} in changes
    assert {"resize": "torch-bicubic-antialias"} in changes
    assert all(len(change) == 1 for change in changes)
    kinds = [row.kind for row in audit.rows]
    assert [kinds.count(kind) for kind in ("resize", "rounding", "normalisation", "port", "precision")] == [
        6,
        0,
        1,
        2,
        1,
    ]
    for row in audit.rows:
        if row.kind in ("resize", "normalisation", "port"):
            assert row.both is not None
            assert row.mixed is not None
            assert row.both != pytest.approx(row.mixed)


def test_settings_without_effect_are_said(run: Run) -> None:
    report = run(metrics="fid,psnr", real="other", kid_subset_size=50, lpips_weights="random", split="val")
    assert "--kid-subset-size has no effect on these scores" in report.warnings
    assert "--lpips-weights has no effect on these scores" in report.warnings
    assert report.real["split"] == "val"  # which scores of pairs do not take away


def test_pairs_alone_are_counted_and_looked_at_too(run: Run, folder: Path) -> None:
    images = FAKE.copy()
    images[7] = images[3]
    write_folder(folder / "odd", images)
    report = run(fake="odd", real="other", metrics="psnr")
    assert any("fake: 1 pictures repeat others" in warning for warning in report.warnings)
    with pytest.raises(OvbenchError, match="only 49 distinct ones"):
        run(fake="odd", real="other", metrics="psnr", expect=50)


def test_generators_whose_pictures_have_other_names_are_no_pairs(run: Run, folder: Path) -> None:
    (folder / "other" / "00004.png").rename(folder / "other" / "00004b.png")
    with pytest.raises(OvbenchError, match="00004"):
        run(metrics="fid", versus=folder / "other")


def test_another_reference_that_does_not_fit_says_so_beside_its_number(run: Run, folder: Path) -> None:
    run(metrics="fid", weights="other", save_reference=folder / "foreign.npz")
    audit = run(metrics="fid", audit=AuditRequest(references=(folder / "foreign.npz",))).audit
    assert audit is not None
    (row,) = [row for row in audit.rows if row.change.endswith("foreign.npz")]
    assert row.mixed is not None
    assert "was made with the weights" in row.note


def test_python_takes_every_setting_of_the_request() -> None:
    wanted = {field.name for field in dataclasses.fields(FidRequest)}
    assert set(inspect.signature(ovbench.fid).parameters) == wanted


def test_a_reference_overwrites_no_pictures_and_no_input(run: Run, folder: Path) -> None:
    np.savez(folder / "pictures.npz", REAL)
    before = (folder / "pictures.npz").read_bytes()
    with pytest.raises(OvbenchError, match="'pictures.npz' is there and is no reference that could be replaced"):
        run(metrics="fid", save_reference=folder / "pictures.npz")
    with pytest.raises(OvbenchError, match="no reference that could be replaced"):
        run("pictures.npz", metrics="fid", save_reference=folder / "pictures.npz")
    assert (folder / "pictures.npz").read_bytes() == before
    (folder / "new.features.npy").write_bytes(b"mine")
    with pytest.raises(OvbenchError, match="'new.features.npy' is there"):
        run(metrics="fid", save_reference=folder / "new.npz")
    run(metrics="fid", save_reference=folder / "own.npz")
    run(metrics="fid", save_reference=folder / "own.npz")  # an earlier reference may be replaced


def test_a_report_overwrites_nothing_but_a_report(tmp_path: Path) -> None:
    check_report_target(tmp_path / "new.json")
    (tmp_path / "mine.json").write_text('{"format": "something else"}')
    with pytest.raises(OvbenchError, match="is no report of ovbench fid"):
        check_report_target(tmp_path / "mine.json")
    (tmp_path / "old.json").write_text('{"format": "ovbench-fid-1"}')
    check_report_target(tmp_path / "old.json")


def test_the_crop_stands_beside_the_number_and_another_one_is_said(run: Run, folder: Path) -> None:
    first = run(metrics="fid", crop_px=16, save_reference=folder / "cut.npz")
    assert first.scores[0].how.startswith("crop 16, resize none; ")
    assert not any("had the crop" in warning for warning in first.warnings)
    other = run("cut.npz", metrics="fid")
    assert any("had the crop 'ADM centre 16'" in warning and "have 'none'" in warning for warning in other.warnings)
    same = run("cut.npz", metrics="fid", crop_px=16)
    assert not any("had the crop" in warning for warning in same.warnings)


def test_an_absent_device_is_said_for_scores_of_pairs_too(run: Run) -> None:
    with pytest.raises(OvbenchError, match="CUDA device"):
        run(real="other", metrics="psnr", device="cuda")
