from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, RecordError
from ovbench.results.merge import merge_runs
from ovbench.results.store import RunStore


@pytest.fixture
def sites(tmp_path: Path, make: Any) -> tuple[Path, Path]:
    """Two sites with one run each."""
    found = []
    for name, spec in (("one", "ovis3/mini"), ("two", "clip/mini")):
        RunStore(tmp_path / name).keep(make.record(spec), make.rows())
        found.append(tmp_path / name)
    return found[0], found[1]


def ids(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_runs_of_all_sites_come_together_whole(sites: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "all"
    done = merge_runs(sites, out)
    assert sorted(done.copied) == ids(out) == sorted([*ids(sites[0]), *ids(sites[1])])
    assert len(RunStore(out).records()) == 2
    for site in sites:
        for path in site.rglob("*.*"):
            assert (out / path.relative_to(site)).read_bytes() == path.read_bytes()


def test_merging_again_skips_what_is_there(sites: tuple[Path, Path], tmp_path: Path) -> None:
    merge_runs(sites, tmp_path / "all")
    again = merge_runs(sites, tmp_path / "all")
    assert again.copied == ()
    assert len(again.skipped) == 2
    assert "the same as" in again.skipped[0]


def test_the_same_results_of_two_sites_count_once(sites: tuple[Path, Path], tmp_path: Path, make: Any) -> None:
    RunStore(sites[1]).keep(make.record("ovis3/mini", day=2), make.rows())
    done = merge_runs(sites, tmp_path / "all")
    assert len(done.copied) == 2
    assert "ran the same as" in done.skipped[0]


def test_one_id_with_two_contents_is_refused_and_nothing_is_written(
    sites: tuple[Path, Path], tmp_path: Path, make: Any
) -> None:
    RunStore(sites[0]).keep(make.record("siglip/mini"), make.rows())
    (run_id,) = ids(sites[1])
    shutil.copytree(sites[1] / run_id, sites[0] / run_id)
    path = sites[0] / run_id / "record.json"
    path.write_text(path.read_text().replace('"a processor"', '"another"'))
    with pytest.raises(RecordError, match="1 run id.s. have two contents; nothing was merged") as caught:
        merge_runs(sites, tmp_path / "all")
    assert f"{sites[0] / run_id} and {sites[1] / run_id} differ in record.json" in caught.value.where
    assert ids(tmp_path / "all") == []


def test_a_damaged_and_an_edited_run_stay_behind_and_are_named(
    sites: tuple[Path, Path], tmp_path: Path, make: Any
) -> None:
    RunStore(sites[0]).keep(make.record("siglip/mini", 0.5), make.rows())
    first, second = sorted(sites[0].iterdir())[-2:]
    (first / "record.json").write_text("{")
    document = json.loads((second / "record.json").read_text())
    document["metrics"][0]["value"] = 0.599
    (second / "record.json").write_text(json.dumps(document))
    done = merge_runs(sites, tmp_path / "all")
    assert len(done.copied) == 1
    assert ["is damaged" in fault.what or "changed after the run" in fault.what for fault in done.faults] == [True] * 2


def test_a_folder_that_is_missing_or_the_target_is_refused(sites: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        merge_runs([tmp_path / "nowhere"], tmp_path / "all")
    with pytest.raises(ConfigError, match="is the target itself"):
        merge_runs([sites[0]], sites[0])
