"""Runs → the page of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ovbench import __version__
from ovbench._base.errors import ConfigError
from ovbench._base.files import atomic_write_text
from ovbench.results.record import TaskRecord
from ovbench.results.report.charts import NUM_COLOURS
from ovbench.results.report.curves import by_training, losses
from ovbench.results.report.gather import Gathered
from ovbench.results.report.origins import origins
from ovbench.results.report.page import render
from ovbench.results.report.pictures import QUESTION_BYTES, Album, album, sheets
from ovbench.results.report.questions import OUTCOMES, QuestionSet, question_sets
from ovbench.results.report.scores import table_views
from ovbench.results.report.tradeoff import tradeoffs
from ovbench.results.table import ComparisonTable, build_tables

DEFAULT_QUESTIONS = 60
DEFAULT_NAME = "report.html"
_ORDER = ("understanding", "generation", "reconstruction")  # of tables on the page


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawn:
    """The pictures of a task's questions: files by image id, and why there are none."""

    files: Mapping[str, bytes]  # PNG
    reason: str = ""


# Draws pictures of a task as a run asked it: task, limit of the run, image ids. `results` itself knows no task.
Draw = Callable[[TaskRecord, int | None, Sequence[str]], Drawn]


def build_report(
    gathered: Gathered, *, draw: Draw | None = None, cache: Path | None = None, count: int = DEFAULT_QUESTIONS
) -> str:
    """Returns the page; the same records, answers, sheets, logs and pictures give the same bytes.

    Args:
        gathered: The runs.
        draw: Where the pictures of questions are from; None: questions stand without pictures.
        cache: Folder of finished steps, for the logs of training; None: no loss curves.
        count: Questions to look at, per task.

    Raises:
        DependencyError: jinja2 is not installed.
    """
    tables = sorted(build_tables(run.record for run in gathered.compared), key=_rank)
    colours = _colours(tables)
    charts, tradeoff_note = tradeoffs(tables, colours)
    loss_charts, log_faults = losses(gathered.compared, cache, colours)
    sets, questions = with_pictures(question_sets(gathered, tables, count), draw)
    left_out = len(gathered.runs) - len(gathered.compared)
    newest = gathered.runs[-1].record.finished_utc
    return render(
        "report.html.j2",
        {
            "title": "ovbench report",
            "summary": f"{len(gathered.runs)} runs, the newest finished {newest}; written by ovbench {__version__}",
            "left_out": left_out,
            "faults": (*gathered.faults, *log_faults),
            "tables": table_views(tables),
            "tradeoffs": charts,
            "tradeoff_note": tradeoff_note,
            "curves": by_training(tables, colours),
            "losses": loss_charts,
            "sheets": sheets(gathered.runs),
            "sets": sets,
            "outcomes": OUTCOMES,
            "num_questions": sum(len(entry.questions) for entry in sets),
            "origins": origins(gathered.runs),
            "data": _data(tables),
            "pictures": {key: picture.uri for key, picture in questions.pictures.items()},
        },
    )


def write_report(page: str, target: Path, *, name: str = DEFAULT_NAME, where: str = "--out") -> Path:
    """Writes the page whole or not at all and returns its path.

    Args:
        page: The HTML.
        target: A file that ends in .html, or a folder.
        name: Of the file in a folder.
        where: The flag that held the target, for messages.

    Raises:
        ConfigError: It cannot be written there.
    """
    path = target if target.suffix.lower() in (".html", ".htm") and not target.is_dir() else target / name
    if target.is_file() and path != target:
        raise ConfigError(
            f"'{target.name}' is a file and does not end in .html",
            where=f"{where} {target}",
            fix="name a file that ends in .html, or a folder",
        )
    try:
        atomic_write_text(path, page)
    except ConfigError as error:
        raise ConfigError(error.what, where=f"{where} {target}", fix="choose a folder that you may write to") from error
    return path


def _rank(table: ComparisonTable) -> int:
    return _ORDER.index(table.suite) if table.suite in _ORDER else len(_ORDER)


def _colours(tables: Sequence[ComparisonTable]) -> dict[str, int]:
    """Returns one colour per encoder for the whole page, in the order in which they stand in the tables."""
    labels = dict.fromkeys(row.label for table in tables for row in table.rows if row.encoder is not None)
    return {label: place % (2 * NUM_COLOURS) for place, label in enumerate(labels)}


def with_pictures(sets: Sequence[QuestionSet], draw: Draw | None) -> tuple[list[QuestionSet], Album]:
    """Returns the questions with the ids of their pictures, and the pictures; equal pictures are held once."""
    files: dict[str, bytes] = {}
    reasons: dict[str, str] = {}
    for entry in sets:
        names = list(dict.fromkeys(question.image_id for question in entry.questions))
        drawn = draw(entry.task, entry.limit, names) if draw and names else Drawn(files={}, reason="not asked for")
        files |= {f"{entry.name}/{name}": data for name, data in drawn.files.items()}
        reasons[entry.name] = drawn.reason
    made = album(files, QUESTION_BYTES, "q")

    def with_picture(entry: QuestionSet) -> QuestionSet:
        found = []
        for question in entry.questions:
            key = f"{entry.name}/{question.image_id}"
            why = made.faults.get(key) or reasons[entry.name] or "the picture is not there"
            picture = made.ids.get(key, "")
            found.append(replace(question, picture=picture, no_picture="" if picture else why))
        return replace(entry, questions=tuple(found))

    return [with_picture(entry) for entry in sets], made


def _data(tables: Sequence[ComparisonTable]) -> dict[str, Any]:
    """Returns every value at full precision, in the stored unit: fractions stay fractions."""
    fields = ("task", "metric", "group", "control", "unit", "n")
    return {
        "format": 1,
        "tables": [
            {
                "title": table.title,
                "columns": [{name: getattr(column, name) for name in fields} for column in table.columns],
                "rows": [
                    {
                        "row": row.label,
                        "kind": row.kind,
                        "seeds": list(row.seeds),
                        "run_ids": list(row.run_ids),
                        "cells": [
                            None if cell.value is None else [cell.value, cell.low, cell.high, cell.spread]
                            for cell in map(row.cell, table.columns)
                        ],
                    }
                    for row in table.rows
                ],
            }
            for table in tables
        ],
    }
