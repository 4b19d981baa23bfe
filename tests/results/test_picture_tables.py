"""Tables of samples and reconstructions: titles that tell them apart, sweeps of guidance, decoders, chance, notes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pytest

from ovbench.results.formats import to_console
from ovbench.results.picture_settings import guidance_of, without_guidance
from ovbench.results.record import Measurement, MetricValue, ProtocolRecord, RunRecord
from ovbench.results.table import ComparisonTable, build_tables

HEADLINE, READ_BACK = "FD-wardrobe", "class read-back"
NATIVE, OWN = "jackknife; wardrobe; decoder native", "jackknife; wardrobe; decoder rae"


def protocol(name: str = "mini", **said: Any) -> ProtocolRecord:
    recipe = {"data": {"num_classes": 8}, "sampling": {"num_samples": 2000}}
    return ProtocolRecord(name=name, version=1, content={"name": "mini", "version": 1, "generation": recipe, **said})


def distance(make: Any, value: float, *, task: str, n: int, decoder: str, half: float = 1.0) -> MetricValue:
    fields = {"task": task, "name": HEADLINE, "n": n, "half": half, "unit": "squared feature units"}
    return make.metric(value, **fields, higher_is_better=False, interval=decoder)


def samples(
    make: Any,
    spec: str = "clip/mini",
    value: float = 30.0,
    *,
    guidance: str = "none",
    n: int = 2000,
    weights: str = "aaaa1111",
    nfe: float | None = 25.0,
    half: float = 1.0,
    decoder: str = OWN,
    given: dict[str, str] | None = None,
    **changes: Any,
) -> RunRecord:
    """A record of the suite generation."""
    departures = [*([f"guidance {guidance}"] if guidance != "none" else []), *(["given dit"] if given else [])]
    said: dict[str, Any] = {
        **({"guidance": guidance} if guidance != "none" else {}),
        **({"given": given} if given else {}),
    }
    scorer = f"adm, net {weights}, resize none, euler 25 full, guidance {guidance}, labels balanced, round to 8 bits"
    task = dataclasses.replace(
        make.TASK, name="mini-images", kind="generation", scorer=scorer, headline=HEADLINE, chance=None, groups=(), n=n,
        num_total=n,
    )  # fmt: skip
    found = [
        distance(make, value, task=task.name, n=n, decoder=decoder, half=half),
        make.metric(0.75, task=task.name, name=READ_BACK, n=n),
    ]
    cost = Measurement(name="NFE", value=nfe, unit="per sample", reason=None if nfe is not None else "not known")
    fields: dict[str, Any] = {
        "suite": "generation",
        "tasks": (task,),
        "protocol": protocol(", ".join(["mini", *departures]), **said),
        "measurements": (cost,),
    }
    return make.record(spec, tuple(found), **{**fields, **changes})


def reconstructions(make: Any, spec: str, value: float, *, decoder: str = OWN, **changes: Any) -> RunRecord:
    task = dataclasses.replace(
        make.TASK, name="mini-back", kind="reconstruction", scorer="adm", headline=HEADLINE, chance=None, groups=()
    )
    found = (distance(make, value, task=task.name, n=1400, decoder=decoder),)
    return make.record(spec, found, suite="reconstruction", tasks=(task,), protocol=protocol(), **changes)


def text(tables: Sequence[ComparisonTable]) -> str:
    return to_console.render(tables, width=200, color=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n": 64}, "64 samples in place of 2,000"),
        ({"weights": "bbbb2222"}, "mini-images: net bbbb2222"),
        ({"given": {"dit": "c" * 64}}, "given dit cccccccc"),
    ],
)
def test_tables_that_may_not_be_compared_say_why_in_their_titles(make: Any, change: dict[str, Any], words: str) -> None:
    tables = build_tables([samples(make), samples(make, "vae/mini"), samples(make, "vae/mini", day=2, **change)])
    titles = [table.title for table in tables]
    assert len(set(titles)) == len(tables) == 2
    assert sum(words in title for title in titles) == 1


def test_given_weights_of_one_kind_are_told_apart_by_their_digests(make: Any) -> None:
    tables = build_tables([samples(make, given={"dit": letter * 64}, day=day) for day, letter in ((1, "c"), (2, "d"))])
    assert sorted(table.details[0] for table in tables) == ["given dit cccccccc", "given dit dddddddd"]


def test_a_guidance_of_another_encoder_is_in_the_title(make: Any) -> None:
    tables = build_tables([samples(make), samples(make, "vae/mini", guidance="cfg:1.5")])
    assert sorted(table.protocol for table in tables) == ["mini", "mini, guidance cfg:1.5"]


def test_titles_of_questions_are_told_apart_too(make: Any) -> None:
    other = dataclasses.replace(make.TASK, scorer="greedy, letter, choice-1", data_digest="e" * 64)
    tables = build_tables([make.record(), make.record("clip/mini", tasks=(other,))])
    assert {table.details[-1] for table in tables} == {
        "mini-seed: likelihood, option_text, data dddddddd",
        "mini-seed: greedy, letter, data eeeeeeee",
    }


def test_a_protocol_of_other_content_and_one_name_is_told_apart(make: Any) -> None:
    changed = ProtocolRecord(name="mini", version=1, content={"name": "mini", "version": 1, "stage": {"lr": 1.0}})
    titles = {table.title for table in build_tables([make.record(), make.record("clip/mini", protocol=changed)])}
    assert len(titles) == 2
    assert all("recipe " in title for title in titles)


def test_a_sweep_is_one_table_with_a_row_per_guidance_and_its_cost(make: Any) -> None:
    (table,) = build_tables(
        [
            samples(make, value=30.0, nfe=25.0),
            samples(make, value=20.0, guidance="cfg:1.5@0.1-0.9"),
            samples(make, value=25.0, guidance="cfg:12", nfe=None),
        ]
    )
    assert table.protocol == "mini"
    assert "sweep of guidance" in table.title
    assert [row.label for row in table.rows[:-1]] == [
        "clip/mini none", "clip/mini cfg:1.5@0.1-0.9", "clip/mini cfg:12",
    ]  # fmt: skip
    assert [row.guidance for row in table.rows[:-1]] == ["none", "cfg:1.5@0.1-0.9", "cfg:12"]
    (cost,) = (column for column in table.columns if column.metric == "NFE")
    assert [row.cell(cost).value for row in table.rows[:2]] == [25.0, 25.0]
    assert table.rows[2].cell(cost).reason == "not known"
    shown = text([table])
    assert "NFE per sample" in shown
    assert "the best of several guidances was chosen by the score itself" in shown


def test_a_sweep_takes_autoguidance_beside_none_and_tells_guides_apart(make: Any) -> None:
    dit = {"dit": "c" * 64}
    runs = [samples(make, given=dit)]
    for day, letter in ((2, "e"), (3, "f")):
        run = samples(make, guidance="auto:1.42", given={**dit, "guide": letter * 64}, day=day)
        runs.append(run)
    (table,) = build_tables(runs)
    assert [row.guidance for row in table.rows[:-1]] == [
        "none", "auto:1.42, guide eeeeeeee", "auto:1.42, guide ffffffff",
    ]  # fmt: skip
    assert table.protocol == "mini, given dit"


def test_an_encoder_with_one_guidance_stays_out_of_the_sweep_and_keeps_its_table(make: Any) -> None:
    runs = [samples(make), samples(make, guidance="cfg:1.5"), samples(make, "vae/mini", 50.0)]
    plain, sweep = sorted(build_tables(runs), key=lambda table: len(table.title))
    assert {row.label for row in plain.rows if row.kind == "encoder"} == {"clip/mini", "vae/mini"}
    assert [row.label for row in sweep.rows[:-1]] == ["clip/mini none", "clip/mini cfg:1.5"]


def test_the_plain_record_of_a_guided_one_is_that_of_an_unguided_one(make: Any) -> None:
    guided, plain = samples(make, guidance="cfg:1.5"), samples(make)
    assert guidance_of(guided) == "cfg:1.5"
    assert without_guidance(guided).protocol == without_guidance(plain).protocol == plain.protocol
    assert without_guidance(guided).tasks == without_guidance(plain).tasks


def test_seeds_of_a_deterministic_reconstruction_count_once(make: Any) -> None:
    runs = [reconstructions(make, "vae/mini", 0.9, decoder=NATIVE, seed=seed) for seed in (0, 1)]
    runs += [reconstructions(make, "clip/mini", 19.0 + seed, seed=seed) for seed in (0, 1)]
    (table,) = build_tables(runs)
    vae, clip = table.rows
    (column,) = table.columns
    assert (vae.label, vae.seeds, vae.cell(column).spread) == ("vae/mini", (0,), None)
    assert (clip.seeds, len(clip.cell(column).by_seed)) == ((0, 1), 2)
    assert "vae/mini: no seed changes its pictures, so its 2 seeds count once" in table.notes


def test_seeds_that_agree_by_chance_in_samples_are_still_two(make: Any) -> None:
    (table,) = build_tables([samples(make, seed=0), samples(make, seed=1)])
    assert table.rows[0].seeds == (0, 1)


def test_rows_of_another_decoder_are_marked_and_named_below(make: Any) -> None:
    (table,) = build_tables(
        [reconstructions(make, "vae/mini", 0.9, decoder=NATIVE), reconstructions(make, "clip/mini", 19.0)]
    )
    shown = text([table])
    assert "vae/mini (native decoder)" in shown
    assert (
        "pictures were decoded by: the encoder's own: vae/mini; RAE's, trained on the encoder's tokens: clip/mini; a "
        "difference between rows of different decoders is not of encoders alone"
    ) in shown


def test_rows_of_one_decoder_need_no_note(make: Any) -> None:
    (table,) = build_tables([reconstructions(make, "clip/mini", 19.0), reconstructions(make, "ovis3/mini", 11.0)])
    assert table.notes == ()


def test_an_interval_of_a_distance_begins_at_0_and_says_so(make: Any) -> None:
    (table,) = build_tables([samples(make, value=0.5, half=2.0)])
    cell = table.rows[0].cell(table.columns[0])
    assert (cell.low, cell.high) == (0.0, 2.5)
    assert cell.interval.endswith("cut at 0")
    assert "an interval of a distance that would reach below 0 begins at 0" in text([table])
    assert "begins at 0" not in text(build_tables([samples(make)]))


def test_chance_of_the_class_read_back_is_one_of_the_classes(make: Any) -> None:
    (table,) = build_tables([samples(make)])
    chance = table.rows[-1]
    assert chance.kind == "chance"
    assert {column.metric: cell.value for column, cell in chance.cells.items()} == {READ_BACK: 0.125}
    main, others = text([table]).split("other metrics")
    assert "chance" not in main
    assert "chance" in others
    assert "12.5" in others


def test_warnings_of_the_runs_stand_below_the_table(make: Any) -> None:
    runs = [
        samples(make, warnings=("the training is not over",)),
        samples(make, "vae/mini", 40.0, warnings=("the training is not over", "few")),
    ]
    (table,) = build_tables(runs)
    assert table.notes == ("the training is not over", "vae/mini: few")


def test_rows_of_exports_name_decoder_guidance_and_table(make: Any) -> None:
    from ovbench.results.formats.to_rows import to_rows

    tables = build_tables([samples(make), samples(make, guidance="cfg:1.5", decoder=NATIVE)])
    found = {(row["decoder"], row["guidance"], row["table"]) for row in to_rows(tables) if row["kind"] == "encoder"}
    assert found == {("rae", "none", tables[0].title), ("native", "cfg:1.5", tables[0].title)}
