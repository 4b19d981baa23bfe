from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ovbench._base.errors import ConfigError, RecordError
from ovbench.harness.comparison.runs import Matched, Wanted, find_runs
from ovbench.results.record import ProtocolRecord
from ovbench.results.store import RunStore
from tests.results.conftest import record

ANY = Wanted()
OTHER = ProtocolRecord(name="mini-smoke", version=1, content={"name": "mini-smoke", "version": 1})


def _keep(store: RunStore, spec: str, score: float = 0.6, **changes: Any) -> str:
    return store.keep(record(spec, score, **changes), []).run_id


def _ids(found: list[Matched]) -> list[tuple[list[str], list[str]]]:
    return [([run.record.run_id for run in m.first], [run.record.run_id for run in m.second]) for m in found]


def test_run_ids_mean_exactly_these_runs(store: RunStore) -> None:
    old, new, other = _keep(store, "clip/mini", 0.5), _keep(store, "clip/mini", day=2), _keep(store, "siglip/mini")
    assert _ids(find_runs(old, other, store, ANY)) == [([old], [other])]
    assert new not in (old, other)


def test_a_folder_outside_the_store_is_a_run(store: RunStore, tmp_path: Path) -> None:
    one = _keep(store, "clip/mini")
    elsewhere = RunStore(tmp_path / "elsewhere")
    two = _keep(elsewhere, "siglip/mini")
    (found,) = find_runs(one, str(elsewhere.root / two), store, ANY)
    assert found.second[0].store.root == elsewhere.root
    assert found.second[0].record.run_id == two


def test_an_encoder_means_its_newest_run(store: RunStore) -> None:
    _keep(store, "clip/mini", 0.5)
    new, other = _keep(store, "clip/mini", day=2), _keep(store, "siglip/mini")
    assert _ids(find_runs("clip/mini", "siglip/mini", store, ANY)) == [([new], [other])]


@pytest.mark.parametrize(
    ("variants", "first", "second"),
    [("mini", "clip/mini", "ovis3/mini"), ("released", "clip/l14-336", "ovis3/base-256")],
)
def test_a_family_means_the_protocols_default_variant(store: RunStore, variants: str, first: str, second: str) -> None:
    protocol = ProtocolRecord(name="my-recipe", version=1, content={"name": "my-recipe", "variants": variants})
    one, two = (_keep(store, spec, protocol=protocol) for spec in (first, second))
    assert _ids(find_runs("clip", "openvision3", store, ANY)) == [([one], [two])]


def test_common_seeds_are_paired_and_others_named(store: RunStore) -> None:
    ones = [_keep(store, "clip/mini", 0.5 + seed / 10, seed=seed) for seed in (0, 1, 2)]
    twos = [_keep(store, "siglip/mini", 0.5 + seed / 10, seed=seed) for seed in (1, 2)]
    (found,) = find_runs("clip/mini", "siglip/mini", store, ANY)
    assert _ids([found]) == [(ones[1:], twos)]
    assert "'clip/mini' also has the seeds 0: left out" in found.warnings


def test_a_run_id_picks_the_rivals_run_of_its_seed(store: RunStore) -> None:
    one = _keep(store, "clip/mini", seed=1)
    twos = [_keep(store, "siglip/mini", 0.5 + seed / 10, seed=seed) for seed in (0, 1)]
    assert _ids(find_runs(one, "siglip/mini", store, ANY)) == [([one], [twos[1]])]


def test_two_single_runs_of_different_seeds_are_compared_with_a_warning(store: RunStore) -> None:
    _keep(store, "clip/mini", seed=0)
    _keep(store, "siglip/mini", seed=3)
    (found,) = find_runs("clip/mini", "siglip/mini", store, ANY)
    assert "the seeds differ (0 and 3): the difference holds what the seeds of training do" in found.warnings


def test_every_common_suite_is_compared(store: RunStore) -> None:
    for spec in ("clip/mini", "siglip/mini"):
        _keep(store, spec)
        _keep(store, spec, suite="other", day=2)
    found = find_runs("clip/mini", "siglip/mini", store, ANY)
    assert [entry.first[0].record.suite for entry in found] == ["understanding", "other"]


def test_two_common_protocols_are_an_error_that_lists_them(store: RunStore) -> None:
    for spec in ("clip/mini", "siglip/mini"):
        _keep(store, spec)
        _keep(store, spec, protocol=OTHER)
    with pytest.raises(ConfigError, match="were both run on understanding in 2 ways") as caught:
        find_runs("clip/mini", "siglip/mini", store, ANY)
    assert "--protocol mini (float32); --protocol mini-smoke (float32)" in caught.value.fix
    (found,) = find_runs("clip/mini", "siglip/mini", store, Wanted(protocol="mini-smoke"))
    assert found.first[0].record.protocol.name == "mini-smoke"


def test_no_common_protocol_is_an_error_that_lists_the_runs(store: RunStore) -> None:
    _keep(store, "clip/mini")
    _keep(store, "siglip/mini", protocol=OTHER)
    with pytest.raises(RecordError, match="have no run of understanding under one protocol") as caught:
        find_runs("clip/mini", "siglip/mini", store, ANY)
    assert "--suite understanding --protocol mini-smoke --seed 0" in caught.value.fix


def test_an_unknown_name_gets_the_nearest_one(store: RunStore) -> None:
    _keep(store, "clip/mini")
    with pytest.raises(RecordError, match="'clyp' is no run, no run folder and no encoder that was run") as caught:
        find_runs("clyp", "clip/mini", store, ANY)
    assert "did you mean 'clip'?" in caught.value.fix


def test_an_encoder_without_a_run_is_unknown_and_the_others_are_listed(store: RunStore) -> None:
    _keep(store, "clip/mini")
    with pytest.raises(RecordError, match="'siglip' is no run") as caught:
        find_runs("siglip", "clip/mini", store, ANY)
    assert "encoders with runs: clip/mini" in caught.value.fix.lower()


def test_an_empty_folder_says_so(store: RunStore) -> None:
    with pytest.raises(RecordError, match="'clip' is no run") as caught:
        find_runs("clip", "siglip", store, ANY)
    assert caught.value.fix == "there is no run"


def test_a_wish_that_no_run_fulfils_lists_what_there_is(store: RunStore) -> None:
    one = _keep(store, "clip/mini")
    _keep(store, "siglip/mini")
    with pytest.raises(
        RecordError, match="no finished run of 'clip/mini' has --protocol mini-smoke --seed 4"
    ) as caught:
        find_runs("clip/mini", "siglip/mini", store, Wanted(protocol="mini-smoke", seeds=(4,)))
    assert one in caught.value.fix


def test_runs_of_pictures_and_of_answers_are_refused(store: RunStore) -> None:
    one, two = _keep(store, "clip/mini"), _keep(store, "siglip/mini", suite="generation")
    with pytest.raises(ConfigError, match="a run of the suite 'understanding' and one of 'generation'"):
        find_runs(one, two, store, ANY)
    with pytest.raises(ConfigError, match="'siglip/mini' was run on generation"):
        find_runs(one, "siglip/mini", store, ANY)
    with pytest.raises(RecordError, match="no suite in common"):
        find_runs("clip/mini", "siglip/mini", store, ANY)


def test_one_run_twice_is_warned_about(store: RunStore) -> None:
    one = _keep(store, "clip/mini")
    (found,) = find_runs(one, one, store, ANY)
    assert "both sides are the same run" in found.warnings
