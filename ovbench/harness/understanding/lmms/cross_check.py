"""`--engine lmms-eval`: the same model, questions and pictures, scored by lmms-eval and by ovbench, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.files import atomic_write_text, jsonl, make_dir, write_json
from ovbench._base.lazy import require
from ovbench.harness.metrics.base import pair
from ovbench.harness.metrics.judging import judge
from ovbench.harness.metrics.score import score_task
from ovbench.harness.understanding.lmms.answering import Answerer, Question
from ovbench.harness.understanding.lmms.layouts import Layout, counterpart
from ovbench.harness.understanding.lmms.theirs import Heard, ask_lmms_eval
from ovbench.tasks.base import Prediction, Sample, TaskData

ROWS, ANSWERS = "cross-check.json", "answers.jsonl"
_PICTURES_AT_A_TIME = 128  # that are held in memory
_CLOSE = 5e-4  # numbers closer than this are printed as equal


@dataclass(frozen=True, kw_only=True, slots=True)
class CrossRow:
    """One number of lmms-eval beside one of ours."""

    task: str  # our name
    counterpart: str  # lmms-eval's task, or its rule where it has no such task
    metric_theirs: str
    theirs: float | None  # in the unit of ours; None: see `why`
    metric_ours: str
    ours: float | None
    n: int  # questions
    num_other_prompts: int  # questions that lmms-eval words otherwise than we do
    num_other_answers: int  # questions to which the model's text was another
    why: str  # where the two are known to differ, or why a number is missing


def cross_check(
    answerer: Answerer,
    data: Sequence[TaskData],
    *,
    out: Path,
    max_new_tokens: int = 16,
    predictions: Mapping[str, Sequence[Prediction]] | None = None,
) -> list[CrossRow]:
    """Scores a model with lmms-eval and with ovbench on the same questions and pictures; needs no network.

    Tasks that lmms-eval has are asked with its own prompts and scored by its own code. The others are asked with ours
    and scored by the rule of lmms-eval that fits.

    Args:
        answerer: The model.
        data: Tasks of ours, each once.
        out: Folder for `cross-check.json`, `answers.jsonl` and the files that lmms-eval writes.
        max_new_tokens: Longest answer to our own prompts, where the task does not say.
        predictions: Our answers by task, where they are there already; None: they are asked for now.

    Returns:
        One row per pair of numbers, in the order of `data`.

    Raises:
        ConfigError: A task is given twice.
        DataError: Rows lack a column that lmms-eval's code reads, or its code fails on them.
        DependencyError: lmms-eval is not installed.
    """
    require("lmms_eval", extra="lmms", purpose="--engine lmms-eval")
    names = [item.spec.name for item in data]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"the task '{twice}' is given twice", where="--tasks")
    make_dir(out)
    found = {item.spec.name: counterpart(item.spec) for item in data}
    unfit = {item.spec.name: found[item.spec.name][1].unfit(item.samples) for item in data}
    fit = [item for item in data if not unfit[item.spec.name]]
    lengths = {item.spec.name: item.spec.max_new_tokens or max_new_tokens for item in data}
    layouts = {name: layout for name, (_, layout) in found.items()}
    theirs = ask_lmms_eval(answerer, fit, layouts, max_new_tokens=lengths, out=out)
    rows: list[CrossRow] = []
    kept: list[dict[str, Any]] = []
    for item in data:
        name = item.spec.name
        stored = (predictions or {}).get(name)
        ours = _ours(answerer, item, lengths[name]) if stored is None else stored
        ours = [prediction for _, prediction in pair(item.samples, ours)]  # refuses answers to other questions
        heard = theirs.get(name)
        if heard is not None:
            kept += _answers(item, heard, ours)
        rows += _rows(item, found[name], heard, ours, unfit[name])
    write_json(out / ROWS, [asdict(row) for row in rows])
    atomic_write_text(out / ANSWERS, jsonl(kept))
    return rows


def cross_text(rows: Sequence[CrossRow]) -> str:
    """Returns the two sets of numbers as a table of plain text, and below it why they may differ."""
    head = ("task", "lmms-eval's", "its metric", "its value", "ours", "our value", "n", "other prompts")
    lines: list[tuple[str, ...]] = [head]
    notes: dict[str, None] = {}
    for row in rows:
        equal = row.theirs is not None and row.ours is not None and abs(row.theirs - row.ours) < _CLOSE
        values = [f"{value:.4f}" if value is not None else "—" for value in (row.theirs, row.ours)]
        lines.append(
            (
                row.task, row.counterpart, row.metric_theirs, values[0], row.metric_ours,
                values[1] + ("" if equal else " *"), str(row.n), str(row.num_other_prompts),
            )
        )  # fmt: skip
        if not equal:
            notes[f"* {row.task}, {row.metric_theirs}: {row.why or 'no known reason'}"] = None
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*table, *notes])


# --- ours ------------------------------------------------------------------------------------------------------------


def _ours(answerer: Answerer, data: TaskData, max_new_tokens: int) -> list[Prediction]:
    """Asks our own prompts and reads the answers as the task does; options are not ranked."""
    from PIL import Image

    raw: dict[str, str] = {}
    for start in range(0, len(data.image_ids), _PICTURES_AT_A_TIME):
        names = data.image_ids[start : start + _PICTURES_AT_A_TIME]
        pictures = {image_id: Image.fromarray(data.image(image_id)) for image_id in names}
        asked = [sample for sample in data.samples if sample.image_id in pictures]
        questions = [
            Question(image=pictures[sample.image_id], text=sample.prompt, max_new_tokens=max_new_tokens)
            for sample in asked
        ]
        raw |= {sample.item_id: text for sample, text in zip(asked, answerer(questions), strict=True)}
    return [judge(data.spec, sample, raw[sample.item_id], ()) for sample in data.samples]


def _scores(data: TaskData, predictions: Sequence[Prediction]) -> dict[str, tuple[float | None, str]]:
    """Returns our metrics by key, each with the reason where it has no value."""
    spec = data.spec
    ranked = all(item.option_scores is not None for item in predictions)
    if spec.scoring == "likelihood" and not ranked:
        # Nothing was ranked, so what counts is what was written.
        predictions = [
            replace(item, chosen=item.parsed, correct=item.parsed == sample.answer)
            for item, sample in zip(predictions, data.samples, strict=True)
        ]
    scores = {key: (item.value, item.reason or "") for key, item in score_task(spec, data.samples, predictions).items()}
    if spec.scoring == "likelihood" and not ranked:
        scores["greedy_accuracy"] = scores["accuracy"]
    return scores


# --- side by side ----------------------------------------------------------------------------------------------------


def _rows(
    data: TaskData,
    found: tuple[str, Layout],
    heard: Heard | None,
    predictions: Sequence[Prediction],
    unfit: str,
) -> Iterator[CrossRow]:
    spec, samples = data.spec, data.samples
    scores = _scores(data, predictions)
    prompts = heard.prompts if heard is not None else ()
    answers = heard.answers if heard is not None else ()
    other_prompts = sum(sample.prompt != prompt for sample, prompt in zip(samples, prompts, strict=bool(heard)))
    other_answers = sum(item.raw != answer for item, answer in zip(predictions, answers, strict=bool(heard)))
    for two in found[1].pairs:
        key = two.ours or spec.headline
        ours, missing = scores.get(key, (None, f"our scorer has no metric '{key}'"))
        value = heard.metrics.get(two.theirs) if heard is not None else None
        reasons = [unfit and f"lmms-eval cannot score these questions: {unfit}", missing, two.why]
        if heard is not None and value is None:
            reasons.insert(0, f"lmms-eval gave no '{two.theirs}'")
        yield CrossRow(
            task=spec.name,
            counterpart=found[0],
            metric_theirs=two.theirs,
            theirs=None if value is None else float(value) / two.unit,
            metric_ours=key,
            ours=ours,
            n=len(samples),
            num_other_prompts=other_prompts,
            num_other_answers=other_answers,
            why="; ".join(reason for reason in reasons if reason),
        )


def _answers(data: TaskData, heard: Heard, predictions: Sequence[Prediction]) -> Iterator[dict[str, Any]]:
    for sample, ours, prompt, answer in zip(data.samples, predictions, heard.prompts, heard.answers, strict=True):
        yield {
            "task": data.spec.name,
            **_identity(sample),
            "prompt": sample.prompt,
            "prompt_lmms_eval": prompt,
            "raw": ours.raw,
            "raw_lmms_eval": answer,
        }


def _identity(sample: Sample) -> dict[str, str]:
    return {"item_id": sample.item_id, "image_id": sample.image_id, "answer": sample.answer}
