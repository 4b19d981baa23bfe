from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, RecordError
from ovbench.results.leaderboard import export, leaderboard, render_as, tables_of, to_frame
from ovbench.results.store import RunStore


@pytest.fixture
def store(tmp_path: Path, make: Any) -> RunStore:
    store = RunStore(tmp_path / "runs")
    for record in make.example():
        store.keep(record, [])
    return store


def test_the_store_and_the_records_at_hand_give_the_same_tables(store: RunStore) -> None:
    assert leaderboard(store) == tables_of(store.records())


def test_no_record_names_the_command_to_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no finished run") as caught:
        leaderboard(RunStore(tmp_path))
    assert caught.value.fix == "run: ovbench run --encoder ovis3 --suite understanding"


def test_a_suite_without_runs_is_said_with_those_that_have_some(store: RunStore) -> None:
    with pytest.raises(RecordError, match="no finished run has --suite understnding") as caught:
        leaderboard(store, suite="understnding")
    assert caught.value.fix == "did you mean 'understanding'? There are runs with: understanding"


def test_a_protocol_without_runs_is_said(store: RunStore) -> None:
    with pytest.raises(RecordError, match="--protocol llava15-vicuna7b"):
        leaderboard(store, protocol="llava15-vicuna7b")


def test_a_suite_and_a_protocol_that_never_met_are_said(store: RunStore, make: Any) -> None:
    other = make.record(
        suite="generation", protocol=make.record().protocol.__class__(name="rae", version=1, content={})
    )
    store.keep(other, [])
    with pytest.raises(RecordError, match="both --suite generation and --protocol mini"):
        leaderboard(store, suite="generation", protocol="mini")
    assert [table.protocol for table in leaderboard(store, suite="generation")] == ["rae"]


@pytest.mark.parametrize("suffix", [".csv", ".md", ".tex", ".json", ".html"])
def test_export_writes_the_format_of_the_suffix(store: RunStore, tmp_path: Path, suffix: str) -> None:
    tables = leaderboard(store)
    path = tmp_path / "new" / f"table{suffix}"
    export(tables, path)
    assert path.read_text(encoding="utf-8") == render_as(tables, suffix[1:])
    assert path.read_text(encoding="utf-8").endswith("\n")


@pytest.mark.parametrize(("name", "what"), [("t.xlsx", "unknown export format '.xlsx'"), ("t", "'t' has no suffix")])
def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path, name: str, what: str) -> None:
    with pytest.raises(ConfigError) as caught:
        export([], tmp_path / name)
    assert caught.value.what.startswith(what)
    assert caught.value.fix.startswith("name a file that ends with one of: .csv, .md, .tex, .html, .json, .parquet")
    assert not (tmp_path / name).exists()


def test_an_unknown_format_gets_a_suggestion() -> None:
    with pytest.raises(ConfigError, match="unknown format 'jsn'") as caught:
        render_as([], "jsn")
    assert caught.value.fix.startswith("did you mean 'json'?")


def test_the_frame_holds_fractions_and_one_row_per_csv_line(store: RunStore) -> None:
    tables = leaderboard(store)
    frame = to_frame(tables)
    assert len(frame) == len(render_as(tables, "csv").splitlines()) - 1
    assert max(frame["value"].dropna().tolist()) <= 1.0
    assert frame.loc[frame["row"] == "chance", "value"].tolist() == [0.25] * 3 + [0.5] * 3 + [0.25]


def test_reading_records_and_printing_them_loads_no_heavy_package(store: RunStore) -> None:
    code = (
        "import sys; from pathlib import Path; from ovbench.results.leaderboard import leaderboard, render_as;"
        "from ovbench.results.store import RunStore; t = leaderboard(RunStore(Path(sys.argv[1])));"
        "[render_as(t, f) for f in ('console', 'csv', 'md', 'tex', 'json', 'html')];"
        "import json; print(json.dumps([m for m in ('torch', 'numpy', 'pandas', 'pyarrow') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.root)], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []


def test_untrained_weights_are_kept_out_of_comparisons_and_said(
    store: RunStore, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    before = leaderboard(store)
    store.keep(make.record("clip/mini?weights=random:0", encoder_changes={"untrained": True}), [])
    with caplog.at_level("WARNING"):
        assert leaderboard(store) == before
    assert "not compared: 1 run(s) of untrained weights" in caplog.text


def test_nothing_but_untrained_weights_is_nothing_to_compare(tmp_path: Path, make: Any) -> None:
    store = RunStore(tmp_path)
    store.keep(make.record("clip/mini?weights=random:0", encoder_changes={"untrained": True}), [])
    with pytest.raises(RecordError, match="no finished run of trained weights"):
        leaderboard(store)


def test_a_run_of_untrained_weights_is_marked_in_its_own_table(make: Any) -> None:
    record = make.record("clip/mini?weights=random:0", encoder_changes={"untrained": True})
    (table,) = tables_of([record])
    assert "(UNTRAINED)" in render_as([table], "md")
