"""Two encoders or runs beside each other → a page: differences, flipped answers with pictures, sheets side by side.

The statistics are made elsewhere; this module shows the words and numbers that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ovbench.results.report.build import DEFAULT_QUESTIONS, Draw, with_pictures
from ovbench.results.report.gather import Gathered, Run
from ovbench.results.report.page import render
from ovbench.results.report.pictures import Sheet, sheets
from ovbench.results.report.questions import Question, QuestionSet, in_turn, read_questions

A_RIGHT, B_RIGHT = "A right", "B right"


@dataclass(frozen=True, kw_only=True, slots=True)
class VersusTask:
    """One task's differences as the console prints them."""

    title: str
    rows: Sequence[Mapping[str, str]]
    notes: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Flip:
    """A question that one of two runs has right and the other wrong."""

    task: str
    item_id: str
    group: str
    outcome: str  # A_RIGHT or B_RIGHT
    runs: tuple[str, str]  # ids


@dataclass(frozen=True, kw_only=True, slots=True)
class VersusView:
    """One comparison: one suite under one protocol."""

    about: str
    first: str
    second: str
    first_ids: tuple[str, ...]  # by seed
    second_ids: tuple[str, ...]
    warnings: Sequence[str]
    settings: Sequence[Mapping[str, str]]
    tasks: Sequence[VersusTask]
    flips: Sequence[Flip]  # all of them


def build_versus(
    views: Sequence[VersusView], gathered: Gathered, *, draw: Draw | None = None, count: int = DEFAULT_QUESTIONS
) -> str:
    """Returns the page; the same input gives the same bytes.

    Args:
        views: What is compared.
        gathered: Holds the runs that are compared.
        draw: Where the pictures of questions are from; None: questions stand without pictures.
        count: Flipped answers that are shown, per task and pair of runs.
    """
    runs = {run.record.run_id: run for run in gathered.runs}
    sets = [entry for place, view in enumerate(views, 1) for entry in _sets(view, runs, place, count)]
    sets, made = with_pictures(sets, draw)
    names = list(dict.fromkeys((view.first, view.second) for view in views))
    return render(
        "compare.html.j2",
        {
            "title": "; ".join(f"{first} against {second}" for first, second in names),
            "views": views,
            "pairs": _pairs(views, runs),
            "sets": sets,
            "outcomes": (A_RIGHT, B_RIGHT),
            "num_questions": sum(len(entry.questions) for entry in sets),
            "pictures": {key: picture.uri for key, picture in made.pictures.items()},
        },
    )


def _sets(view: VersusView, runs: Mapping[str, Run], place: int, count: int) -> list[QuestionSet]:
    by_pair: dict[tuple[str, tuple[str, str]], list[Flip]] = {}
    for flip in view.flips:
        by_pair.setdefault((flip.task, flip.runs), []).append(flip)
    found: list[QuestionSet] = []
    for number, ((task, pair), flips) in enumerate(by_pair.items(), 1):
        own = [runs[name] for name in pair if name in runs]
        about = own[0].record.task(task) if own else None
        if len(own) < 2 or about is None:
            continue
        faults: list[str] = []
        by_item = {flip.item_id: flip for flip in flips}
        chosen = in_turn(list(by_item), lambda item, known=by_item: (known[item].group, known[item].outcome), count)
        labels = (f"A  {view.first}", f"B  {view.second}")
        questions: list[Question] = read_questions(
            task, [(by_item[item].outcome, item) for item in chosen], list(zip(labels, own, strict=True)), faults
        )
        counts = {name: sum(flip.outcome == name for flip in flips) for name in (A_RIGHT, B_RIGHT)}
        found.append(
            QuestionSet(
                name=f"flips-{place}-{number}",
                table=f"{view.about}; {' and '.join(pair)}",
                task=about,
                limit=own[0].record.limit,
                counts=counts,
                judged="",
                questions=tuple(questions),
                faults=tuple(faults),
            )
        )
    return found


def _pairs(views: Sequence[VersusView], runs: Mapping[str, Run]) -> list[tuple[Sheet, Sheet]]:
    """Returns the sheets of both sides, seed by seed."""
    both = [pair for view in views for pair in zip(view.first_ids, view.second_ids, strict=True)]
    wanted = dict.fromkeys(name for pair in both for name in pair if name in runs)
    by_run: dict[str, list[Sheet]] = {}
    for sheet in sheets([runs[name] for name in wanted]):  # together, so that they share one budget of bytes
        by_run.setdefault(sheet.run_id, []).append(sheet)
    return [pair for one, two in both for pair in zip(by_run.get(one, []), by_run.get(two, []), strict=False)]
