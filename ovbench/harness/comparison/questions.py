"""The questions that runs have in common: stored answers read back, and aligned by item."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ovbench.harness.comparison.runs import Run
from ovbench.harness.metrics.answer_ratios import Answers
from ovbench.results.record import MAIN

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, kw_only=True, slots=True)
class Common:
    """The questions that the runs of both sides share, aligned: one pair of answers per seed."""

    pairs: tuple[tuple[Answers, Answers], ...]
    whole: tuple[tuple[Answers, Answers], ...]  # before questions were left out
    only_first: tuple[str, ...]
    only_second: tuple[str, ...]
    changed: tuple[str, ...]


def read_answers(run: Run, task: str) -> Answers:
    """Returns the answers of a run to the questions of a task, the real images shown.

    Raises:
        RecordError: The file of answers is missing or damaged.
    """
    return answers_of(run.store.samples(run.folder.name), task)


def answers_of(frame: pandas.DataFrame, task: str) -> Answers:
    """Returns the answers of one task, the real images shown, from the rows of `samples.parquet`."""
    chosen = frame[(frame["task"] == task) & (frame["control"] == MAIN)]
    rows = cast(list[dict[str, Any]], cast(Any, chosen).to_dict("records"))
    correct = np.array([bool(row["correct"]) for row in rows], dtype=bool)
    partly = [_or_none(row.get("score")) for row in rows]  # files of before have no such column
    scores = [float(right) if part is None else part for right, part in zip(correct, partly, strict=True)]
    return Answers(
        item_ids=tuple(str(row["item_id"]) for row in rows),
        images=tuple(str(row["image_id"]) for row in rows),
        groups=tuple(str(row["group"] or "") for row in rows),
        questions=tuple(str(row["question"]) for row in rows),
        answers=tuple(str(row["answer"]) for row in rows),
        raw=tuple(str(row["raw"]) for row in rows),
        parsed=tuple(_or_none(row["parsed"]) for row in rows),
        chosen=tuple(_or_none(row["chosen"]) for row in rows),
        correct=correct,
        scores=np.array(scores, dtype=np.float64),
        extra=tuple(_extra(row.get("extra")) for row in rows),
    )


def _or_none(value: Any) -> Any:
    return None if value is None or (isinstance(value, float) and math.isnan(value)) else value


def _extra(value: Any) -> Mapping[str, str]:
    value = _or_none(value)  # files of before have no such column
    return {} if value is None else {str(key): str(part) for key, part in value.items()}


def align(runs: Sequence[tuple[Answers, Answers]]) -> Common:
    """Returns the questions that all runs share, in the order of the first; one whose text or image differs is out."""
    tables = [_by_id(answers) for pair in runs for answers in pair]
    first, second = tables[0], tables[1]
    shared = [item for item in first if all(item in table for table in tables)]
    changed = [item for item in shared if len({table[item][1] for table in tables}) > 1]
    kept = [item for item in shared if item not in set(changed)]
    pairs = [
        (one.take([a[item][0] for item in kept]), two.take([b[item][0] for item in kept]))
        for (one, two), a, b in zip(runs, tables[::2], tables[1::2], strict=True)
    ]
    return Common(
        pairs=tuple(pairs),
        whole=tuple(runs),
        only_first=tuple(item for item in first if item not in second),
        only_second=tuple(item for item in second if item not in first),
        changed=tuple(changed),
    )


def _by_id(answers: Answers) -> dict[str, tuple[int, tuple[str, ...]]]:
    """Returns place and content of each question by its id."""
    content = zip(answers.images, answers.groups, answers.questions, answers.answers, strict=True)
    return {item: (place, about) for place, (item, about) in enumerate(zip(answers.item_ids, content, strict=True))}
