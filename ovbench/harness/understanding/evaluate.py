"""Asks a trained LLaVA: one greedy answer per question, and a likelihood for each option.

Answers do not depend on the batch size: what was decided by a margin within rounding error is asked again alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.files import append_jsonl, cut_torn_tail, read_jsonl, writing
from ovbench._base.seeding import derive, torch_generator
from ovbench.harness.metrics.judging import judge
from ovbench.harness.training import Progress, no_progress
from ovbench.harness.understanding.conversation import Tokenized, question_prompt, tokenize
from ovbench.harness.understanding.data import TokenSource
from ovbench.harness.understanding.decoding import greedy, option_scores, prefill
from ovbench.harness.understanding.llava import Llava
from ovbench.tasks.base import Prediction, Sample, TaskData

log = logging.getLogger(__name__)

CONTROLS = ("none", "shuffled", "blind")
ANSWERS = "answers.jsonl"  # name of the file in a step's folder
CLOSE_CALL = 1e-3  # nats; float32 sums in another order differ by about a hundredth of this
_DIGITS = 6  # decimals of a stored log-likelihood


@dataclass(frozen=True, kw_only=True, slots=True)
class _Heard:
    """What the model said to one question."""

    raw: str  # greedy free answer
    scores: tuple[float, ...]  # mean log-likelihood of each option's tokens
    margin: float  # gap between the two best choices of the closest decision, nats


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
    batch_size: int = 64,
    out: Path,
    max_new_tokens: int = 8,
    seed: int = 0,
    close_call: float = CLOSE_CALL,
    progress: Progress = no_progress,
) -> list[Prediction]:
    """Answers every question in float32 and appends the answers to a JSONL file, batch by batch.

    Continues behind the last whole line of `out`. Batches are always cut at the same places, so that a continued run
    writes the same bytes as one that was not interrupted.

    Args:
        model: In evaluation mode.
        data: The questions, in the order of the file, and how an answer is read.
        tokens: Image ids → visual tokens.
        control: `shuffled` shows each question another image, `blind` none.
        batch_size: Questions read together; changes no answer.
        out: The file; belongs to this model, task and control alone.
        max_new_tokens: Longest free answer.
        seed: Of the shuffled control.
        close_call: Nats; a decision closer than this is made again at batch size 1. 0: never.
        progress: Told after each batch.

    Raises:
        ConfigError: The control is unknown, a number is out of range, or the model is in training mode.
        RecordError: The file holds answers to other questions.
    """
    if control not in CONTROLS:
        raise ConfigError(f"unknown control '{control}'", where="control", fix=f"choose one of {', '.join(CONTROLS)}")
    if batch_size < 1 or max_new_tokens < 1:
        raise ConfigError(
            f"batch size and new tokens must be 1 or more, got {batch_size} and {max_new_tokens}", where="answering"
        )
    if model.training:
        raise ConfigError("the model is in training mode", where="answering", fix="call model.eval() first")
    samples = data.samples
    shown = _shown(samples, control, seed)
    found = _kept(out, samples, shown)
    num_again = 0
    for start in range(0, len(samples), batch_size):
        stop = min(start + batch_size, len(samples))
        if stop <= len(found):
            continue
        batch, images = samples[start:stop], shown[start:stop]
        heard = _ask(model, batch, images, tokens, max_new_tokens)
        for place, (sample, image_id) in enumerate(zip(batch, images, strict=True)):
            if len(batch) > 1 and heard[place].margin < close_call:
                num_again += 1
                heard[place] = _ask(model, [sample], [image_id], tokens, max_new_tokens)[0]
        rows = [
            (judge(data.spec, sample, item.raw, item.scores), {"image_id": image_id, "margin": item.margin})
            for sample, image_id, item in zip(batch, images, heard, strict=True)
        ][max(0, len(found) - start) :]
        append_jsonl(out, [{**asdict(prediction), **more} for prediction, more in rows])
        found += [prediction for prediction, _ in rows]
        progress(stop, len(samples))
    if num_again:
        log.info("%d of %d questions were close calls and were asked again alone", num_again, len(samples))
    return found


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


def _kept(out: Path, samples: Sequence[Sample], shown: Sequence[str | None]) -> list[Prediction]:
    """Reads the answers that are there; a line torn by a crash is cut off the file."""
    if not out.is_file():
        return []
    with writing(out):
        cut_torn_tail(out)
    rows = read_jsonl(out)
    if len(rows) > len(samples):
        raise RecordError(
            f"the file holds {len(rows)} answers to {len(samples)} questions", where=str(out), fix="delete the file"
        )
    kept = [_prediction(row, out) for row in rows]
    for number, (row, sample, image_id) in enumerate(zip(rows, samples, shown, strict=False), start=1):
        if (row["item_id"], row.get("image_id")) != (sample.item_id, image_id):
            raise RecordError(
                f"line {number} answers '{row['item_id']}' with image '{row.get('image_id')}', but "
                f"'{sample.item_id}' with '{image_id}' is asked",
                where=str(out),
                fix="delete the file; it belongs to another task or control",
            )
    return kept


def _prediction(row: Mapping[str, Any], path: Path) -> Prediction:
    try:
        values = {field.name: row[field.name] for field in fields(Prediction)}
        scores = values["option_scores"]
        return Prediction(**{**values, "option_scores": None if scores is None else tuple(scores)})
    except (KeyError, TypeError) as error:
        raise DataError(f"a line is not an answer: {error}", where=str(path), fix="delete the file") from error


@torch.inference_mode()
def _ask(
    model: Llava, samples: Sequence[Sample], shown: Sequence[str | None], tokens: TokenSource, max_new_tokens: int
) -> list[_Heard]:
    prompts = [_prompt(model, sample.prompt, image_id) for sample, image_id in zip(samples, shown, strict=True)]
    wanted = [image_id for image_id in shown if image_id is not None]
    visual: torch.Tensor | None = None
    if wanted:
        distinct = {image_id: place for place, image_id in enumerate(dict.fromkeys(wanted))}
        visual = tokens(list(distinct))[torch.tensor([distinct[image_id] for image_id in wanted])].float()
    state = prefill(model, [item for _, item in prompts], visual)
    options = [_options(model, text, item, sample) for (text, item), sample in zip(prompts, samples, strict=True)]
    scores = option_scores(model, state, options, visual)
    texts, gaps = greedy(model, state, max_new_tokens=max_new_tokens)
    heard: list[_Heard] = []
    for raw, gap, values in zip(texts, gaps, scores, strict=True):
        ranked = sorted(values, reverse=True)
        margin = min(gap, ranked[0] - ranked[1]) if len(ranked) > 1 else gap
        rounded = tuple(round(value, _DIGITS) for value in values)
        heard.append(_Heard(raw=raw, scores=rounded, margin=round(margin, _DIGITS)))
    return heard


def _prompt(model: Llava, question: str, image_id: str | None) -> tuple[str, Tokenized]:
    has_image = image_id is not None
    text = question_prompt(model.form, question, has_image=has_image)
    return text, tokenize(model.tokenizer, text, has_image=has_image)


def _options(model: Llava, text: str, prompt: Tokenized, sample: Sample) -> list[tuple[int, ...]]:
    """Returns the ids of each option as the continuation of the prompt.

    Raises:
        DataError: An option has no token of its own.
    """
    found: list[tuple[int, ...]] = []
    for option in sample.options:
        full = f"{text} {option}"
        whole = tokenize(model.tokenizer, full, [(len(text), len(full))], has_image=prompt.image_at is not None)
        start = next((place for place, label in enumerate(whole.labels) if label >= 0), len(whole.ids))
        if whole.ids[:start] != prompt.ids or start == len(whole.ids):
            raise DataError(
                f"option '{option}' does not continue the prompt in this tokenizer",
                where=f"question {sample.item_id}",
                fix="give options that begin with a letter or digit",
            )
        found.append(whole.ids[start:])
    return found
