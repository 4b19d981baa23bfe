from __future__ import annotations

from types import SimpleNamespace

import pytest

from ovbench.results.report.gather import Gathered, gather
from ovbench.results.report.versus import A_RIGHT, B_RIGHT, Flip, VersusTask, VersusView, build_versus


@pytest.fixture
def gathered(shared_world: SimpleNamespace) -> Gathered:
    return gather([shared_world.store.root])


def _view(gathered: Gathered, suite: str, flips: list[Flip] | None = None) -> VersusView:
    ids = {run.record.encoder.spec: run.record.run_id for run in gathered.runs if run.record.suite == suite}
    return VersusView(
        about=f"{suite} · protocol mini v1 · seed 0",
        first="ovis3/mini",
        second="clip/mini",
        first_ids=(ids["ovis3/mini"],),
        second_ids=(ids["clip/mini"],),
        warnings=("one seed <i>only</i>",),
        settings=[{"setting": "encoder spec", "A": "ovis3/mini", "B": "clip/mini"}],
        tasks=[
            VersusTask(title="mini-seed: 24 questions", rows=[{"score": "accuracy", "A": "62.35"}], notes=["a note"])
        ],
        flips=flips or [],
    )


def _flips(gathered: Gathered) -> list[Flip]:
    view = _view(gathered, "understanding")
    pair = (view.first_ids[0], view.second_ids[0])
    found: list[Flip] = []
    for index in range(24):
        one, two = index % 6 != 5, index % 3 != 2
        if one != two:
            outcome = A_RIGHT if one else B_RIGHT
            group = ("identity", "location")[index % 2]
            found.append(Flip(task="mini-seed", item_id=f"q{index}", group=group, outcome=outcome, runs=pair))
    return found


def test_flipped_answers_stand_with_both_answers_and_their_pictures(
    shared_world: SimpleNamespace, gathered: Gathered
) -> None:
    flips = _flips(gathered)
    page = build_versus([_view(gathered, "understanding", flips)], gathered, draw=shared_world.draw)
    assert page.count('<details class="question"') == len(flips) == 4
    assert "4 A right, 0 B right; 4 shown" in page
    assert page.count('<img data-picture="q') == 4
    assert 'data-outcome="A right"' in page


def test_no_more_flipped_answers_are_shown_than_asked_for(shared_world: SimpleNamespace, gathered: Gathered) -> None:
    page = build_versus([_view(gathered, "understanding", _flips(gathered))], gathered, draw=shared_world.draw, count=2)
    assert page.count('<details class="question"') == 2
    assert "4 A right, 0 B right; 2 shown" in page


def test_sheets_stand_side_by_side(gathered: Gathered) -> None:
    page = build_versus([_view(gathered, "generation")], gathered)
    assert page.count('<div class="pair">') == 1
    pair = page.partition('<div class="pair">')[2]
    assert pair.index("<strong>ovis3/mini</strong>") < pair.index("<strong>clip/mini</strong>")
    assert page.count("data:image/") == 2


def test_numbers_and_warnings_are_shown_as_given_and_escaped(gathered: Gathered) -> None:
    page = build_versus([_view(gathered, "understanding")], gathered)
    assert "<td>62.35</td>" in page
    assert "one seed &lt;i&gt;only&lt;/i&gt;" in page


def test_two_builds_are_the_same_to_the_byte(shared_world: SimpleNamespace, gathered: Gathered) -> None:
    views = [_view(gathered, "understanding", _flips(gathered)), _view(gathered, "generation")]
    pages = {build_versus(views, gathered, draw=shared_world.draw) for _ in range(2)}
    assert len(pages) == 1
