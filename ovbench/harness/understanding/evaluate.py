"""Asks a trained LLaVA: one greedy answer per question, and a likelihood for each option.

Answers do not depend on the batch size: what was decided by a margin within rounding error is asked again alone.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from ovbench._base.errors import ConfigError, DataError, RecordError
from ovbench._base.files import append_jsonl, atomic_write_text, read_jsonl
from ovbench._base.seeding import derive, torch_generator
from ovbench.harness.training import Progress, no_progress
from ovbench.harness.understanding.conversation import Tokenized, question_prompt, tokenize
from ovbench.harness.understanding.data import TokenSource
from ovbench.harness.understanding.decoding import greedy, option_scores, prefill
from ovbench.harness.understanding.llava import Llava

log = logging.getLogger(__name__)

Control = Literal["none", "shuffled", "blind"]
CONTROLS: tuple[Control, ...] = ("none", "shuffled", "blind")
_DIGITS = 6  # decimals of a stored log-likelihood


class Asked(Protocol):
    """What `answer` needs to know of a question; `ovbench.tasks.base.Sample` has it."""

    @property
    def item_id(self) -> str:
        """Unique within the task."""
        ...

    @property
    def image_id(self) -> str:
        """The image it is about."""
        ...

    @property
    def prompt(self) -> str:
        """The text that the user says, without the image mark."""
        ...

    @property
    def options(self) -> tuple[str, ...]:
        """Texts whose likelihoods are wanted; may be empty."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What the model said to one question; not yet parsed or scored."""

    item_id: str
    image_id: str | None  # of the image that was shown; None: none was
    raw: str  # greedy free answer
    option_scores: tuple[float, ...] | None  # mean log-likelihood of each option's tokens
    chosen: str | None  # the likeliest option
    margin: float  # gap between the two best choices of the closest decision, nats


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerConfig:
    """How answers are produced."""

    batch_size: int = 64  # questions
    max_new_tokens: int = 8  # of the free answer
    close_call: float = 1e-3  # nats; a decision closer than this is made again at batch size 1 (0: never)

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_new_tokens < 1 or self.close_call < 0:
            raise ConfigError(
                f"batch size {self.batch_size}, new tokens {self.max_new_tokens} and close call {self.close_call} "
                "must be positive",
                where="answering",
            )


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
    samples: Sequence[Asked],
    tokens: TokenSource,
    *,
    control: Control = "none",
    out: Path,
    config: AnswerConfig | None = None,
    seed: int = 0,
    progress: Progress = no_progress,
) -> list[Answer]:
    """Answers every question in float32 and appends the answers to a JSONL file, batch by batch.

    Continues behind the last whole line of `out`. Batches are always cut at the same places, so that a continued run
    writes the same bytes as one that was not interrupted.

    Args:
        model: In evaluation mode.
        samples: The questions, in the order of the file.
        tokens: Image ids → visual tokens.
        control: `shuffled` shows each question another image, `blind` none.
        out: The file; belongs to this model, task and control alone.
        config: Batch size and decoding.
        seed: Of the shuffled control.
        progress: Told after each batch.

    Raises:
        ConfigError: The control is unknown, or the model is in training mode.
        RecordError: The file holds answers to other questions.
    """
    config = config or AnswerConfig()
    if control not in CONTROLS:
        raise ConfigError(f"unknown control '{control}'", where="control", fix=f"choose one of {', '.join(CONTROLS)}")
    if model.training:
        raise ConfigError("the model is in training mode", where="answering", fix="call model.eval() first")
    shown = _shown(samples, control, seed)
    found = _kept(out, samples, shown)
    num_again = 0
    for start in range(0, len(samples), config.batch_size):
        stop = min(start + config.batch_size, len(samples))
        if stop <= len(found):
            continue
        batch = samples[start:stop]
        answers = _answer_batch(model, batch, shown[start:stop], tokens, config)
        for place, (sample, image_id) in enumerate(zip(batch, shown[start:stop], strict=True)):
            if len(batch) > 1 and answers[place].margin < config.close_call:
                num_again += 1
                answers[place] = _answer_batch(model, [sample], [image_id], tokens, config)[0]
        fresh = answers[len(found) - start :] if len(found) > start else answers
        append_jsonl(out, [asdict(item) for item in fresh])
        found += fresh
        progress(stop, len(samples))
    if num_again:
        log.info("%d of %d questions were close calls and were asked again alone", num_again, len(samples))
    return found


def _shown(samples: Sequence[Asked], control: Control, seed: int) -> list[str | None]:
    if control == "blind":
        return [None] * len(samples)
    if control == "shuffled":
        other = deranged([sample.image_id for sample in samples], seed)
        return [other[sample.image_id] for sample in samples]
    return [sample.image_id for sample in samples]


def _kept(out: Path, samples: Sequence[Asked], shown: Sequence[str | None]) -> list[Answer]:
    """Reads the answers that are there; a line torn by a crash is cut off the file."""
    if not out.is_file():
        return []
    rows = read_jsonl(out, drop_torn_tail=True)
    text = out.read_text(encoding="utf-8")
    if not text.endswith("\n"):
        atomic_write_text(out, text[: text.rfind("\n") + 1])
    if len(rows) > len(samples):
        raise RecordError(
            f"the file holds {len(rows)} answers to {len(samples)} questions", where=str(out), fix="delete the file"
        )
    answers = [_from_row(row, out) for row in rows]
    for number, (item, sample, image_id) in enumerate(zip(answers, samples, shown, strict=False), start=1):
        if (item.item_id, item.image_id) != (sample.item_id, image_id):
            raise RecordError(
                f"line {number} answers '{item.item_id}' with image '{item.image_id}', but '{sample.item_id}' with "
                f"'{image_id}' is asked",
                where=str(out),
                fix="delete the file; it belongs to another task or control",
            )
    return answers


def _from_row(row: Mapping[str, Any], path: Path) -> Answer:
    try:
        scores = row["option_scores"]
        return Answer(**{**row, "option_scores": None if scores is None else tuple(scores)})
    except (KeyError, TypeError) as error:
        raise DataError(f"a line is not an answer: {error}", where=str(path), fix="delete the file") from error


@torch.inference_mode()
def _answer_batch(
    model: Llava, samples: Sequence[Asked], shown: Sequence[str | None], tokens: TokenSource, config: AnswerConfig
) -> list[Answer]:
    prompts = [_prompt(model, sample.prompt, image_id) for sample, image_id in zip(samples, shown, strict=True)]
    wanted = [image_id for image_id in shown if image_id is not None]
    visual: torch.Tensor | None = None
    if wanted:
        distinct = list(dict.fromkeys(wanted))
        visual = tokens(distinct)[torch.tensor([distinct.index(image_id) for image_id in wanted])].float()
    state = prefill(model, [item for _, item in prompts], visual)
    options = [_options(model, text, item, sample) for (text, item), sample in zip(prompts, samples, strict=True)]
    scores = option_scores(model, state, options, visual)
    texts, margins = greedy(model, state, max_new_tokens=config.max_new_tokens)
    answers: list[Answer] = []
    for number, sample in enumerate(samples):
        values = [round(value, _DIGITS) for value in scores[number]]
        ranked = sorted(values, reverse=True)
        margin = min(margins[number], ranked[0] - ranked[1]) if len(ranked) > 1 else margins[number]
        answers.append(
            Answer(
                item_id=sample.item_id,
                image_id=shown[number],
                raw=texts[number],
                option_scores=tuple(values) or None,
                chosen=sample.options[values.index(ranked[0])] if values else None,
                margin=round(margin, _DIGITS) if math.isfinite(margin) else 0.0,
            )
        )
    return answers


def _prompt(model: Llava, question: str, image_id: str | None) -> tuple[str, Tokenized]:
    has_image = image_id is not None
    text = question_prompt(model.form, question, has_image=has_image)
    return text, tokenize(model.tokenizer, text, has_image=has_image)


def _options(model: Llava, text: str, prompt: Tokenized, sample: Asked) -> list[tuple[int, ...]]:
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
