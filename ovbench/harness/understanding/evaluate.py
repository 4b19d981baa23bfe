"""Asks a trained LLaVA: one greedy answer per question, and a likelihood for each option.

Answers do not depend on the batch size: what was decided by a margin within rounding error is asked again alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args

import torch

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.files import append_jsonl, atomic_write_text, cut_torn_tail, jsonl, read_jsonl, writing
from ovbench._base.seeding import derive, torch_generator
from ovbench.harness.metrics.judging import judge
from ovbench.harness.training import Progress, no_progress
from ovbench.harness.understanding.answer_requests import MAX_POSITIONS, Reply, Request
from ovbench.harness.understanding.data import TokenSource
from ovbench.harness.understanding.engine import BATCH_SIZE, AnswerEngine, Packing
from ovbench.harness.understanding.llava import Llava
from ovbench.harness.understanding.options_config import ScoringMode
from ovbench.tasks.answers import LETTERS
from ovbench.tasks.base import Prediction, Sample, TaskData, TaskSpec

log = logging.getLogger(__name__)

CONTROLS = ("none", "shuffled", "blind")
ANSWERS = "answers.jsonl"  # name of the file in a step's folder


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """A question of a task and the requests that answer it."""

    sample: Sample
    image_id: str | None  # the image that is shown
    free: int  # place of the request with the free answer
    scored: int | None  # place of the request with the options' scores


def deranged(image_ids: Sequence[str], seed: int) -> dict[str, str]:
    """Returns image → another image, each used once; fixed by the seed and the set of images.

    Raises:
        ConfigError: There are fewer than two images.
    """
    distinct = sorted(set(image_ids))
    if len(distinct) < 2:
        raise ConfigError("images cannot be shuffled: there are fewer than two", where="control 'shuffled'")
    order = torch.randperm(len(distinct), generator=torch_generator(derive(seed, "llava/shuffled"))).tolist()
    ring = [distinct[place] for place in order]
    return dict(zip(ring, [*ring[1:], ring[0]], strict=True))


def answer(
    model: Llava,
    data: TaskData,
    tokens: TokenSource,
    *,
    control: str = "none",
    batch_size: int = BATCH_SIZE,
    out: Path,
    max_new_tokens: int = 8,
    seed: int = 0,
    close_call: float | None = None,
    progress: Progress = no_progress,
    packing: Packing = "auto",
    reference: bool = False,
    scoring_mode: ScoringMode | None = None,
    trust_first_token: bool = False,
    max_positions: int = MAX_POSITIONS,
) -> list[Prediction]:
    """Answers every question and appends the answers to a JSONL file, pack by pack; at the end it is put in order.

    Goes on after a kill: whole lines count. Packs are always cut at the same places, so that a continued run writes
    the same bytes as one that was not interrupted.

    Args:
        model: In evaluation mode.
        data: The questions, in the order of the file, and how an answer is read.
        tokens: Image ids → visual tokens.
        control: `shuffled` shows each question another image, `blind` none.
        batch_size: Questions read together where nothing is shared; changes no answer.
        out: The file; belongs to this model, task, control and way of scoring alone.
        max_new_tokens: Longest free answer, where the task names none.
        seed: Of the shuffled control.
        close_call: Nats; a decision closer than this is made again at batch size 1. None: by precision. 0: never.
        progress: Told after each pack.
        packing: See `AnswerEngine`. `auto` is `batched` for the miniature tasks, whose stored answers were made so.
        reference: Every question at batch size 1, nothing shared.
        scoring_mode: None: as the task says. `ppl`: the likeliest option text after the bare question counts, which is
            how SEED-Bench's authors score. `constrained`: the likeliest of the options' letters, or of Yes and No; not
            the same metric as the free answer.
        trust_first_token: See `AnswerEngine`; not exact, and noted in every line.
        max_positions: Read together where something is shared; changes no answer.

    Raises:
        ConfigError: The control or scoring mode is unknown, a number is out of range, or the model is in training mode.
        DataError: A way of scoring needs options that a question does not have.
        RecordError: The file holds answers to other questions.
    """
    if control not in CONTROLS:
        raise ConfigError(f"unknown control '{control}'", where="control", fix=f"choose one of {', '.join(CONTROLS)}")
    if scoring_mode is not None and scoring_mode not in get_args(ScoringMode):
        raise ConfigError(
            f"unknown scoring mode '{scoring_mode}'",
            where="scoring_mode",
            fix=f"choose one of {', '.join(get_args(ScoringMode))}, or none",
        )
    if batch_size < 1 or max_new_tokens < 1:
        raise ConfigError(
            f"batch size and new tokens must be 1 or more, got {batch_size} and {max_new_tokens}", where="answering"
        )
    engine = AnswerEngine(
        model,
        tokens,
        packing="batched" if packing == "auto" and data.spec.family == "mini" else packing,
        reference=reference,
        close_call=close_call,
        trust_first_token=trust_first_token,
        max_positions=max_positions,
        batch_size=batch_size,
    )
    spec = data.spec if scoring_mode is None else replace(data.spec, scoring="likelihood")
    notes: dict[str, Any] = {} if scoring_mode is None else {"scoring_mode": scoring_mode}
    if trust_first_token:
        notes["trust_first_token"] = True
    shown = _shown(data.samples, control, seed)
    asked, requests = _requests(data, shown, scoring_mode, data.spec.max_new_tokens or max_new_tokens)
    kept = _kept(out, asked, notes)
    found = {place: _prediction(row, out) for place, row in kept.items()}
    owners: dict[int, list[int]] = {}  # place of a request → questions that wait for it
    for place, item in enumerate(asked):
        for request in {item.free, item.scored} - {None}:
            owners.setdefault(request, []).append(place)
    done = {request for request, places in owners.items() if all(place in found for place in places)}
    replies: dict[int, Reply] = {}
    for pack in engine.stream(requests, done=done):
        replies |= pack
        ready = sorted({place for request in pack for place in owners[request]} - found.keys())
        rows: list[dict[str, Any]] = []
        for place in ready:
            item = asked[place]
            if item.free not in replies or (item.scored is not None and item.scored not in replies):
                continue
            found[place], margin = _judged(spec, item, replies)
            rows.append({**asdict(found[place]), "image_id": item.image_id, "margin": margin, **notes})
        append_jsonl(out, rows)
        progress(len(found), len(asked))
    _put_in_order(out, asked)
    predictions = [found[place] for place in range(len(asked))]
    if num_empty := sum(not item.raw for item in predictions):
        log.info("%d of %d answers are empty", num_empty, len(predictions))
    return predictions


def _judged(spec: TaskSpec, item: _Asked, replies: Mapping[int, Reply]) -> tuple[Prediction, float]:
    free = replies[item.free]
    scored = free if item.scored is None else replies[item.scored]
    return judge(spec, item.sample, free.raw, scored.option_scores), min(free.margin, scored.margin)


def _requests(
    data: TaskData, shown: Sequence[str | None], mode: ScoringMode | None, limit: int
) -> tuple[list[_Asked], list[Request]]:
    """Returns the questions, and what is asked of the model for them."""
    # The published protocols parse a greedy answer and score nothing; scores would cost a pass per option.
    as_is = mode is None and not (data.spec.family == "paper" and data.spec.scoring == "greedy")
    asked: list[_Asked] = []
    requests: list[Request] = []
    for sample, image_id in zip(data.samples, shown, strict=True):
        options = sample.options if as_is else ()
        if mode is not None and len(sample.options) < 2:
            raise DataError(
                f"scoring mode '{mode}' compares options, and there are {len(sample.options)}",
                where=f"question {sample.item_id}",
                fix="score open questions by their free answer",
            )
        if mode == "constrained":
            options = _letters(data.spec, sample)
        free = len(requests)
        requests.append(
            Request(
                image_id=image_id,
                question=sample.prompt,
                options=options,
                first_token=mode == "constrained",
                max_new_tokens=limit,
            )
        )
        if mode == "ppl":
            requests.append(
                Request(image_id=image_id, question=sample.question, options=sample.options, max_new_tokens=0)
            )
        asked.append(_Asked(sample=sample, image_id=image_id, free=free, scored=free + 1 if mode == "ppl" else None))
    return asked, requests


def _letters(spec: TaskSpec, sample: Sample) -> tuple[str, ...]:
    """Returns what stands for each option in a constrained choice."""
    if spec.kind == "yesno":
        return tuple(option.capitalize() for option in sample.options)
    return tuple(LETTERS[: len(sample.options)])


def judged_again(
    spec: TaskSpec, samples: Sequence[Sample], predictions: Sequence[Prediction], *, scoring_mode: ScoringMode | None
) -> list[Prediction]:
    """Returns stored answers as today's reading and scoring take them: what was stored is what the model said.

    Args:
        spec: The task.
        samples: Its questions.
        predictions: Their answers, in the same order.
        scoring_mode: With which they were asked.
    """
    spec = spec if scoring_mode is None else replace(spec, scoring="likelihood")
    return [
        judge(spec, sample, item.raw, item.option_scores or ())
        for sample, item in zip(samples, predictions, strict=True)
    ]


def read_predictions(path: Path) -> list[Prediction]:
    """Reads what `answer` wrote.

    Args:
        path: The file, or the folder that holds it as `answers.jsonl`.

    Raises:
        DataError: The file is absent or damaged.
    """
    file = path / ANSWERS if path.is_dir() else path
    return [_prediction(row, file) for row in read_jsonl(file)]


def _shown(samples: Sequence[Sample], control: str, seed: int) -> list[str | None]:
    if control == "blind":
        return [None] * len(samples)
    if control == "shuffled":
        other = deranged([sample.image_id for sample in samples], seed)
        return [other[sample.image_id] for sample in samples]
    return [sample.image_id for sample in samples]


def _kept(out: Path, asked: Sequence[_Asked], notes: Mapping[str, Any]) -> dict[int, dict[str, Any]]:
    """Reads the answers that are there, in any order; a line torn by a crash is cut off the file."""
    if not out.is_file():
        return {}
    with writing(out):
        cut_torn_tail(out)
    places = {item.sample.item_id: place for place, item in enumerate(asked)}
    found: dict[int, dict[str, Any]] = {}
    rows = read_jsonl(out)
    if len(rows) > len(asked):
        raise RecordError(
            f"the file holds {len(rows)} answers to {len(asked)} questions", where=str(out), fix="delete the file"
        )
    for number, row in enumerate(rows, start=1):
        _prediction(row, out)
        place = places.get(row["item_id"])
        item = asked[number - 1 if place is None else place]
        said = (row["item_id"], row.get("image_id"))
        if said != (item.sample.item_id, item.image_id):
            raise RecordError(
                f"line {number} answers '{said[0]}' with image '{said[1]}', but "
                f"'{item.sample.item_id}' with '{item.image_id}' is asked",
                where=str(out),
                fix="delete the file; it belongs to another task or control",
            )
        if place in found:
            raise RecordError(f"line {number} answers '{said[0]}' again", where=str(out), fix="delete the file")
        if any(row.get(key) != notes.get(key) for key in ("scoring_mode", "trust_first_token")):
            raise RecordError(
                f"line {number} was scored in another way", where=str(out), fix="delete the file, or score as before"
            )
        assert place is not None
        found[place] = row
    return found


def _put_in_order(out: Path, asked: Sequence[_Asked]) -> None:
    """Rewrites a complete file in the order of the questions, whole or not at all; untouched where it is in order."""
    rows = read_jsonl(out) if asked else []
    wanted = [item.sample.item_id for item in asked]
    if [row["item_id"] for row in rows] != wanted:
        by_id = {row["item_id"]: row for row in rows}
        atomic_write_text(out, jsonl(by_id[item_id] for item_id in wanted))


def _prediction(row: Mapping[str, Any], path: Path) -> Prediction:
    try:
        # Answers of earlier versions have no score.
        values = {field.name: row[field.name] for field in fields(Prediction) if field.name != "score"}
        values["score"] = row.get("score")
        scores = values["option_scores"]
        return Prediction(**{**values, "option_scores": None if scores is None else tuple(scores)})
    except (KeyError, TypeError) as error:
        raise DataError(f"a line is not an answer: {error}", where=str(path), fix="delete the file") from error
