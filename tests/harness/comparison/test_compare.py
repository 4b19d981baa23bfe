from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench.harness.compare import compare_runs
from ovbench.harness.comparison.answers import Options
from ovbench.harness.comparison.result import Comparison, MetricDifference
from ovbench.results.store import RunStore
from tests.harness.comparison.made_runs import clustered, keep_run, questions

QUICK = Options(num_draws=999)


def _one(found: list[Comparison], metric: str = "accuracy", group: str | None = None) -> MetricDifference:
    (comparison,) = found
    entries = [entry for task in comparison.tasks for entry in task.differences]
    return next(entry for entry in entries if (entry.metric, entry.group) == (metric, group))


def _two(store: RunStore, first: list[bool], second: list[bool], per_image: int = 5) -> tuple[str, str]:
    samples = questions(len(first) // per_image, per_image)
    one = keep_run(store, "clip/mini", {"mini-seed": (samples, first)})
    two = keep_run(store, "siglip/mini", {"mini-seed": (samples, second)})
    return one.run_id, two.run_id


def _worse(right: list[bool], seed: int, share: float) -> list[bool]:
    """The same answers with some of the right ones lost."""
    lost = np.random.default_rng(seed).random(len(right)) < share
    return [good and not gone for good, gone in zip(right, lost, strict=True)]


def test_a_real_difference_is_found_with_its_interval(store: RunStore) -> None:
    best = clustered(0, 60, 5, 0.8)
    names = _two(store, best, _worse(best, 1, 0.1))
    entry = _one(compare_runs(*names, out=store.root, options=QUICK))
    assert entry.difference == pytest.approx(np.mean(best) - np.mean(_worse(best, 1, 0.1)))
    assert entry.p is not None
    assert entry.p < 0.01
    assert entry.verdict == "better"
    assert entry.interval.low is not None
    assert entry.interval.low > 0
    assert (entry.n, entry.num_images) == (300, 60)


def test_the_two_sides_swapped_say_the_opposite(store: RunStore) -> None:
    best = clustered(0, 60, 5, 0.8)
    one, two = _two(store, best, _worse(best, 1, 0.1))
    there, back = (_one(compare_runs(*names, out=store.root, options=QUICK)) for names in ((one, two), (two, one)))
    assert there.difference == -(back.difference or 0)
    assert there.p == back.p
    assert (there.verdict, back.verdict) == ("better", "worse")


def test_runs_that_answer_alike_are_not_separated_and_have_no_interval(store: RunStore) -> None:
    same = clustered(0, 20, 5, 0.8)
    entry = _one(compare_runs(*_two(store, same, same), out=store.root))
    assert (entry.p, entry.verdict, entry.interval.low) == (1.0, "not separated", None)
    assert "no answer differs" in entry.interval.method


def test_flips_are_counted_both_ways_and_listed(store: RunStore) -> None:
    names = _two(store, [True, True, False, True], [True, False, True, False], per_image=2)
    (found,) = compare_runs(*names, out=store.root, options=Options(num_flips=2))
    flips = found.tasks[0].flips
    assert flips is not None
    assert (flips.first_only, flips.second_only, flips.changed) == (2, 1, 0)
    assert [(entry.item_id, entry.first, entry.second, entry.right) for entry in found.flipped] == [
        ("q1", "red", "blue", "first"),
        ("q2", "blue", "red", "second"),
    ]


def test_every_score_of_a_yes_no_task_is_recomputed_and_tested(store: RunStore) -> None:
    samples = questions(30, 6, kind="yesno")
    for seed, name in ((0, "clip/mini"), (1, "siglip/mini")):
        keep_run(store, name, {"mini-pope": (samples, clustered(seed, 30, 6, 0.75))})
    (found,) = compare_runs("clip/mini", "siglip/mini", out=store.root, options=Options(num_draws=199, everything=True))
    entries = found.tasks[0].differences
    assert {entry.metric for entry in entries} >= {"f1", "precision", "recall", "pope_f1_mean", "accuracy_mean"}
    assert [entry.reason for entry in entries if entry.reason] == []
    assert "bootstrap" in _one([found], "f1").interval.method
    assert "CR1" in _one([found], "accuracy", "location").interval.method


def test_holm_covers_the_headlines_together_and_other_scores_apart(store: RunStore) -> None:
    choice, yes_no = questions(40, 4), questions(40, 4, kind="yesno")
    best = clustered(0, 40, 4, 0.8)
    for name, right in (("clip/mini", best), ("siglip/mini", _worse(best, 1, 0.15))):
        keep_run(store, name, {"mini-seed": (choice, right), "mini-pope": (yes_no, right)})
    (found,) = compare_runs("clip/mini", "siglip/mini", out=store.root, options=QUICK)
    heads = [entry for task in found.tasks for entry in task.differences if entry.headline]
    assert [entry.family for entry in heads] == ["headlines", "headlines"]
    assert min(entry.p_holm or 0 for entry in heads) == pytest.approx(2 * min(entry.p or 0 for entry in heads))
    assert all((entry.p_holm or 0) >= (entry.p or 0) for task in found.tasks for entry in task.differences)


def test_several_seeds_keep_seed_spread_apart_from_question_error(store: RunStore) -> None:
    samples = questions(50, 4)
    for seed in (0, 1, 2):
        best = clustered(seed, 50, 4, 0.8)
        keep_run(store, "clip/mini", {"mini-seed": (samples, best)}, seed=seed)
        keep_run(store, "siglip/mini", {"mini-seed": (samples, _worse(best, seed, 0.1))}, seed=seed)
    (found,) = compare_runs("clip/mini", "siglip/mini", out=store.root, options=QUICK)
    entry = _one([found])
    assert found.first.seeds == (0, 1, 2)
    assert entry.seeds is not None
    assert entry.seeds.spread == pytest.approx(np.std(entry.seeds.by_seed, ddof=1))
    assert entry.seeds.interval_seeds.method == "paired t over 3 seeds, the questions as they are"
    assert entry.seeds.interval_questions.method == "over the questions, these trainings as they are"
    assert "3 seeds and their questions" in entry.interval.method
    assert "one seed" not in " ".join(found.warnings)


def test_one_seed_is_warned_about(store: RunStore) -> None:
    names = _two(store, clustered(0, 20, 5, 0.8), clustered(1, 20, 5, 0.8))
    (found,) = compare_runs(*names, out=store.root)
    assert "one seed: no interval here covers what another training would give" in found.warnings


def test_power_says_how_many_images_would_tell_them_apart(store: RunStore) -> None:
    names = _two(store, clustered(0, 40, 5, 0.8), clustered(1, 40, 5, 0.6))
    entry = _one(compare_runs(*names, out=store.root, options=Options(num_draws=199, power=True)))
    assert entry.power is not None
    few, many = entry.power.images["80%"], entry.power.images["90%"]
    assert few is not None
    assert many is not None
    assert 2 < few < many
    assert entry.power.per_image == pytest.approx(5)
    assert entry.power.correlation is not None


def test_questions_of_one_run_alone_are_counted_and_named_under_force(store: RunStore) -> None:
    one = keep_run(store, "clip/mini", {"mini-seed": (questions(10, 2), [True] * 19 + [False])})
    two = keep_run(store, "siglip/mini", {"mini-seed": (questions(9, 2, start=4), [True, False] * 9)}, limit=18)
    (found,) = compare_runs(one.run_id, two.run_id, out=store.root, force=True)
    task = found.tasks[0]
    assert task.only_first == ("q0", "q1", "q2", "q3")
    assert task.only_second == ("q20", "q21")
    assert (task.n_common, found.forced) == (16, True)
    assert any(text.startswith("forced: the two differ in") for text in found.warnings)
    assert _one([found]).n == 16


def test_a_question_that_changed_under_its_id_is_left_out_and_named(store: RunStore) -> None:
    samples = questions(6, 2)
    changed = [*samples[:-1], questions(1, 1, start=99)[0]]
    changed[-1] = type(samples[0])(**{**_fields(samples[-1]), "question": "another one"})
    one = keep_run(store, "clip/mini", {"mini-seed": (samples, [True, False] * 6)})
    two = keep_run(store, "siglip/mini", {"mini-seed": (changed, [True] * 12)})
    (found,) = compare_runs(one.run_id, two.run_id, out=store.root)
    assert found.tasks[0].changed == ("q11",)
    assert found.tasks[0].n_common == 11


def _fields(sample: object) -> dict[str, object]:
    return {name: getattr(sample, name) for name in type(sample).__slots__}  # type: ignore[attr-defined]


def test_repeated_questions_count_once_as_distinct(store: RunStore) -> None:
    samples = questions(8, 2)
    twins = [type(entry)(**{**_fields(entry), "item_id": f"again {entry.item_id}"}) for entry in samples]
    right, worse = [True, False] * 8, [True] * 8 + [False] * 8
    one = keep_run(store, "clip/mini", {"mini-seed": ([*samples, *twins], right * 2)})
    two = keep_run(store, "siglip/mini", {"mini-seed": ([*samples, *twins], worse * 2)})
    single = _two(RunStore(store.root.parent / "single"), right, worse, per_image=2)
    (twice,) = compare_runs(one.run_id, two.run_id, out=store.root)
    (once,) = compare_runs(*single, out=store.root.parent / "single")
    assert (twice.tasks[0].n_common, twice.tasks[0].n_distinct) == (32, 16)
    assert _one([twice]).interval == _one([once]).interval
    assert _one([twice]).p == _one([once]).p


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"limit": 5}, "limit: — and 5"),
        ({"task_changes": {"data_digest": "e" * 64}}, "mini-seed data_digest: dddddddddddd and eeeeeeeeeeee"),
        ({"task_changes": {"scorer": "greedy, other, choice-2"}}, "mini-seed scorer"),
        ({"task_changes": {"version": 2}}, "mini-seed version: 1 and 2"),
    ],
)
def test_runs_that_cannot_be_compared_are_refused_with_the_reason(
    store: RunStore, changes: dict[str, Any], text: str
) -> None:
    samples = questions(4, 2)
    one = keep_run(store, "clip/mini", {"mini-seed": (samples, [True] * 8)})
    two = keep_run(store, "siglip/mini", {"mini-seed": (samples, [True, False] * 4)}, **changes)
    with pytest.raises(ConfigError, match="scores of the two cannot be compared") as caught:
        compare_runs(one.run_id, two.run_id, out=store.root)
    assert text in caught.value.what
    assert "--force" in caught.value.fix
    assert compare_runs(one.run_id, two.run_id, out=store.root, force=True)[0].forced


def test_no_common_question_is_an_error(store: RunStore) -> None:
    one = keep_run(store, "clip/mini", {"mini-seed": (questions(4, 2), [True] * 8)})
    two = keep_run(store, "siglip/mini", {"mini-seed": (questions(4, 2, start=50), [True, False] * 4)})
    with pytest.raises(DataError, match="the runs have no question of 'mini-seed' in common"):
        compare_runs(one.run_id, two.run_id, out=store.root, force=True)


def test_no_common_task_is_an_error(store: RunStore) -> None:
    one = keep_run(store, "clip/mini", {"mini-seed": (questions(4, 2), [True] * 8)})
    two = keep_run(store, "siglip/mini", {"mini-pope": (questions(4, 2, kind="yesno"), [True, False] * 4)})
    with pytest.raises(RecordError, match="the runs have no task in common: mini-seed; mini-pope"):
        compare_runs(one.run_id, two.run_id, out=store.root)


def test_a_record_that_its_answers_contradict_is_not_tested(store: RunStore) -> None:
    names = _two(store, clustered(0, 10, 2, 0.8), clustered(1, 10, 2, 0.7), per_image=2)
    path = store.root / names[0] / "record.json"
    document = json.loads(path.read_text())
    for metric in document["metrics"]:
        if (metric["name"], metric["group"]) == ("accuracy", None):
            metric.update(value=0.99, low=0.98, high=1.0)
    path.write_text(json.dumps(document))
    entry = _one(compare_runs(*names, out=store.root))
    assert entry.verdict == "not tested"
    assert entry.p is None
    assert entry.reason is not None
    assert entry.reason.startswith(f"the stored answers of {names[0]} give 0.")


def test_answers_that_are_gone_are_an_error_that_names_the_file(store: RunStore) -> None:
    names = _two(store, [True] * 4, [True, False] * 2, per_image=2)
    (store.root / names[1] / "samples.parquet").unlink()
    with pytest.raises(RecordError, match=r"'samples.parquet' cannot be read"):
        compare_runs(*names, out=store.root)


def test_partly_right_answers_count_by_their_score(store: RunStore) -> None:
    names = _two(store, [True] * 8, [True, False] * 4, per_image=2)
    for name in names:
        path = store.root / name / "samples.parquet"
        frame = pandas.read_parquet(path)
        frame["score"] = [0.3 if name == names[0] else 0.1] * len(frame)
        frame.to_parquet(path)
        document = json.loads((path.parent / "record.json").read_text())
        for metric in document["metrics"]:
            if metric["name"] == "accuracy":
                metric.update(value=0.3 if name == names[0] else 0.1, low=None, high=None)
        (path.parent / "record.json").write_text(json.dumps(document))
    entry = _one(compare_runs(*names, out=store.root))
    assert entry.difference == pytest.approx(0.2)
    assert entry.exact_p is None


def test_one_question_an_image_gets_mcnemars_p(store: RunStore) -> None:
    names = _two(store, [True] * 30 + [False] * 10, [True] * 15 + [False] * 15 + [True] * 5 + [False] * 5, per_image=1)
    entry = _one(compare_runs(*names, out=store.root))
    assert entry.p == pytest.approx(0.0266039, abs=1e-6)  # 15 against 5
    assert entry.exact_p == pytest.approx(0.0413895, abs=1e-6)
    assert entry.p_method == "McNemar's mid-p, one question an image"


def test_the_comparison_is_plain_json(store: RunStore, tmp_path: Path) -> None:
    names = _two(store, clustered(0, 20, 5, 0.8), clustered(1, 20, 5, 0.8))
    (found,) = compare_runs(*names, out=store.root, options=Options(num_flips=3, power=True, num_draws=199))
    document = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert document["format"] == "ovbench-comparison-1"
    assert document["tasks"][0]["differences"][0]["metric"] == "accuracy"
    assert len(document["flipped"]) == 3


def test_the_draws_do_not_change_between_calls(store: RunStore) -> None:
    names = _two(store, clustered(0, 40, 5, 0.8), clustered(1, 40, 5, 0.75))
    once, again = (compare_runs(*names, out=store.root, options=QUICK) for _ in range(2))
    assert once == again


def test_settings_that_differ_are_listed_and_equal_ones_are_not(store: RunStore) -> None:
    names = _two(store, [True] * 4, [True, False] * 2, per_image=2)
    (found,) = compare_runs(*names, out=store.root)
    listed = {entry.name: (entry.first, entry.second, entry.breaks) for entry in found.settings}
    assert listed["encoder spec"] == ("clip/mini", "siglip/mini", False)
    assert "seed" not in listed
    assert not any(entry.breaks for entry in found.settings)


def test_a_difference_of_fractions_stays_between_minus_1_and_1(store: RunStore) -> None:
    samples = questions(6, 2)
    for seed, rights in ((0, ([True] * 12, [False] * 12)), (1, ([False] * 12, [True] * 12))):
        for name, right in zip(("clip/mini", "siglip/mini"), rights, strict=True):
            keep_run(store, name, {"mini-seed": (samples, right)}, seed=seed)
    entry = _one(compare_runs("clip/mini", "siglip/mini", out=store.root))
    assert (entry.interval.low, entry.interval.high) == (-1.0, 1.0)


def test_a_score_that_one_run_has_no_value_of_stands_with_the_reason(store: RunStore) -> None:
    samples = questions(10, 4, kind="yesno")
    always_no = [sample.answer == "no" for sample in samples]
    keep_run(store, "clip/mini", {"mini-pope": (samples, clustered(0, 10, 4, 0.8))})
    mute = keep_run(store, "siglip/mini", {"mini-pope": (samples, always_no)})
    entry = _one(compare_runs("clip/mini", "siglip/mini", out=store.root), "precision")
    assert (entry.p, entry.difference, entry.verdict) == (None, None, "not tested")
    assert entry.reason == f"no value in {mute.run_id}: no question was answered yes"
