"""Questions to look at: a balanced selection, with what each encoder answered, read from the stored answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ovbench.results.record import CONTROLS, MAIN, TaskRecord
from ovbench.results.report.gather import Gathered, Run
from ovbench.results.store import SAMPLES
from ovbench.results.table import PICTURE_KINDS, ComparisonTable, Row

Outcome = Literal["split", "all wrong", "all right"]
OUTCOMES: tuple[Outcome, ...] = ("split", "all wrong", "all right")
MAX_ENCODERS = 12
_SHARE: Mapping[Outcome, float] = {
    "split": 0.8,
    "all wrong": 0.1,
    "all right": 0.1,
}  # of the questions shown, where there are enough
_OF_ITEM = ("item_id", "image_id", "group", "question", "answer", "options", "answers")
_OF_ANSWER = ("item_id", "control", "raw", "parsed", "chosen", "correct")


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one encoder's model answered."""

    label: str
    raw: str
    chosen: str  # the answer that counts; empty: nothing could be read
    correct: bool
    unread: bool
    controls: tuple[tuple[str, str, bool], ...]  # control, answer, right


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """One question and every answer to it."""

    task: str
    item_id: str
    image_id: str
    group: str
    question: str
    options: tuple[str, ...]
    answer: str
    answers: tuple[str, ...]  # all reference answers of an open question
    outcome: str  # an `Outcome`, or who is right where two are compared
    said: tuple[Said, ...]
    picture: str = ""  # its id on the page; empty: there is none
    no_picture: str = ""  # why


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionSet:
    """The chosen questions of one task of one table."""

    name: str  # an id on the page
    table: str
    task: TaskRecord
    limit: int | None
    counts: Mapping[Any, int]  # outcome → how many of all questions that every encoder was asked
    judged: str  # whose answers decide whether a question splits
    questions: tuple[Question, ...]
    faults: tuple[str, ...] = field(default=())


def question_sets(gathered: Gathered, tables: Sequence[ComparisonTable], count: int) -> list[QuestionSet]:
    """Returns at most `count` questions of each task of each table of questions.

    Args:
        gathered: Where the answers are.
        tables: Made of these runs.
        count: Per task; 0: none.
    """
    runs = {run.record.run_id: run for run in gathered.runs}
    found: list[QuestionSet] = []
    for number, table in enumerate(tables, 1):
        for place, task in enumerate(table.tasks, 1):
            if task.kind not in PICTURE_KINDS and count > 0:
                chosen = _set(f"questions-{number}-{place}", table, task, runs, count)
                found += [chosen] if chosen is not None else []
    return found


def _set(
    name: str, table: ComparisonTable, task: TaskRecord, runs: Mapping[str, Run], count: int
) -> QuestionSet | None:
    asked = [(row, run) for row in table.rows if (run := _run_of(row, task, runs)) is not None]
    if not asked:
        return None
    faults: list[str] = []
    if len(asked) > MAX_ENCODERS:
        faults.append(f"the first {MAX_ENCODERS} of {len(asked)} encoders are shown")
    kept: list[tuple[Row, Run, dict[str, tuple[bool, str]]]] = []
    for row, run in asked[:MAX_ENCODERS]:
        try:
            kept.append((row, run, _outcomes(run.folder / SAMPLES, task.name)))
        except (OSError, ValueError, KeyError) as error:  # pyarrow's errors are ValueErrors or KeyErrors
            faults.append(f"{row.label}: the answers of {run.record.run_id} cannot be read: {_why(error, run)}")
    own = [entry for entry in kept if entry[0].kind == "encoder"]
    judging = own if len(own) > 1 else kept  # one encoder alone splits nothing: then the controls count
    items = [item for item in (kept[0][2] if kept else {}) if all(item in entry[2] for entry in kept)]
    by_outcome: dict[Outcome, list[str]] = {outcome: [] for outcome in OUTCOMES}
    for item in items:
        right = [entry[2][item][0] for entry in judging]
        by_outcome["all right" if all(right) else "split" if any(right) else "all wrong"].append(item)

    def kind_of(item: str) -> tuple[str, tuple[bool, ...]]:
        return kept[0][2][item][1], tuple(entry[2][item][0] for entry in judging)

    chosen: list[tuple[Outcome, str]] = [
        (outcome, item)
        for outcome, quota in _quotas({key: len(value) for key, value in by_outcome.items()}, count).items()
        for item in in_turn(by_outcome[outcome], kind_of, quota)
    ]
    questions = read_questions(task.name, chosen, [(row.label, run) for row, run, _ in kept], faults)
    return QuestionSet(
        name=name,
        table=table.title,
        task=task,
        limit=table.limit,
        counts={outcome: len(by_outcome[outcome]) for outcome in OUTCOMES},
        judged=", ".join(entry[0].label for entry in judging),
        questions=tuple(questions),
        faults=tuple(faults),
    )


def _why(error: Exception, run: Run) -> str:
    if not (run.folder / SAMPLES).is_file():
        return f"{SAMPLES} is missing"
    return f"{SAMPLES} is damaged ({type(error).__name__})"


def _run_of(row: Row, task: TaskRecord, runs: Mapping[str, Run]) -> Run | None:
    """Returns the run of a row that asked a task: the lowest seed, the newest of these."""
    own = [runs[name] for name in row.run_ids if name in runs and runs[name].record.task(task.name) is not None]
    if not own:
        return None
    lowest = min(run.record.seed for run in own)
    return max((run for run in own if run.record.seed == lowest), key=lambda run: run.record.finished_utc)


def _outcomes(path: Path, task: str) -> dict[str, tuple[bool, str]]:
    """Returns item → right, group; the real images shown."""
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(
        path, columns=["item_id", "correct", "group"], filters=[("task", "=", task), ("control", "=", MAIN)]
    )
    columns = [table.column(name).to_pylist() for name in ("item_id", "correct", "group")]
    return {item: (bool(right), group or "") for item, right, group in zip(*columns, strict=True)}


def _quotas(counts: Mapping[Outcome, int], count: int) -> dict[Outcome, int]:
    """Returns how many questions of each outcome are shown: those that split first, and some of the others."""
    quotas: dict[Outcome, int] = {
        outcome: min(counts[outcome], math.floor(_SHARE[outcome] * count)) for outcome in OUTCOMES
    }
    for outcome in OUTCOMES:
        quotas[outcome] += min(counts[outcome] - quotas[outcome], count - sum(quotas.values()))
    return quotas


def in_turn(items: Sequence[str], kind_of: Callable[[str], Any], count: int) -> list[str]:
    """Returns the first items of each kind in turn until there are `count`, so that no kind crowds out the others."""
    seen: dict[Any, int] = {}
    turns: list[tuple[int, int]] = []
    for place, item in enumerate(items):
        kind = kind_of(item)
        turns.append((seen.get(kind, 0), place))
        seen[kind] = seen.get(kind, 0) + 1
    return [items[place] for _, place in sorted(turns)[:count]]


def read_questions(
    task: str, chosen: Sequence[tuple[str, str]], runs: Sequence[tuple[str, Run]], faults: list[str]
) -> list[Question]:
    """Returns questions with what each run answered.

    Args:
        task: Their task.
        chosen: Outcome and item id of each.
        runs: Label and run of each encoder, in the order in which they are shown.
        faults: Answers that cannot be read are added to it.
    """
    if not chosen:
        return []
    wanted = [item for _, item in chosen]
    said: dict[str, list[Said]] = {item: [] for item in wanted}
    about: dict[str, dict[str, Any]] = {}
    for label, run in runs:
        try:
            lines = _lines(run.folder / SAMPLES, task, wanted)
        except (OSError, ValueError, KeyError) as error:
            faults.append(f"{label}: the answers of {run.record.run_id} cannot be read: {_why(error, run)}")
            continue
        by_item: dict[str, dict[str, dict[str, Any]]] = {}
        for line in lines:
            by_item.setdefault(line["item_id"], {})[line["control"]] = line
        for item, answers in by_item.items():
            if MAIN in answers:
                about.setdefault(item, answers[MAIN])
                said[item].append(_said(label, answers))
    return [_question(task, outcome, about[item], said[item]) for outcome, item in chosen if item in about]


def _lines(path: Path, task: str, items: Sequence[str]) -> list[dict[str, Any]]:
    import pyarrow.parquet

    names = set(pyarrow.parquet.read_schema(path).names)
    columns = [name for name in dict.fromkeys((*_OF_ITEM, *_OF_ANSWER)) if name in names]  # older files lack some
    filters = [("task", "=", task), ("item_id", "in", list(items))]
    return pyarrow.parquet.read_table(path, columns=columns, filters=filters).to_pylist()


def _said(label: str, answers: Mapping[str, Mapping[str, Any]]) -> Said:
    own = answers[MAIN]
    controls = tuple(
        (name, answers[name]["chosen"] or answers[name]["raw"] or "", bool(answers[name]["correct"]))
        for name in CONTROLS
        if name != MAIN and name in answers
    )
    return Said(
        label=label,
        raw=own["raw"] or "",
        chosen=own["chosen"] or "",
        correct=bool(own["correct"]),
        unread=own["parsed"] is None,
        controls=controls,
    )


def _question(task: str, outcome: str, line: Mapping[str, Any], said: Sequence[Said]) -> Question:
    return Question(
        task=task,
        item_id=line["item_id"],
        image_id=line["image_id"],
        group=line["group"] or "",
        question=line["question"] or "",
        options=tuple(line["options"] or ()),
        answer=line["answer"] or "",
        answers=tuple(line.get("answers") or ()),
        outcome=outcome,
        said=tuple(said),
    )
