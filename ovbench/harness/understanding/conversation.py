"""Conversations as LLaVA-1.5 writes them: templates, the image rule, and which tokens are learnt.

The strings follow `llava/conversation.py` and the masks `llava/train/train.py` of haotian-liu/LLaVA; masks are made
from character offsets instead of counting the tokens of prefixes, which is exact for every tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ovbench._base.errors import ConfigError, DataError
from ovbench.harness.understanding.templates import TEMPLATES, Template, template

__all__ = [
    "IGNORED", "IMAGE_MARK", "TEMPLATES", "Conversation", "Message", "Rendered", "Template", "Tokenized",
    "apply_image_rule", "question_prompt", "render", "template", "tokenize",
]  # fmt: skip

IMAGE_MARK = "<image>"
IGNORED = -100  # label of a token that is not learnt


@dataclass(frozen=True, kw_only=True, slots=True)
class Message:
    """One utterance."""

    role: Literal["human", "gpt"]
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """Utterances about at most one image."""

    messages: tuple[Message, ...]
    image_id: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rendered:
    """A conversation as text."""

    text: str
    spans: tuple[tuple[int, int], ...]  # character ranges [start, end) that are learnt
    masked: str = ""  # why the reference masks the whole sample; empty when it does not


@dataclass(frozen=True, kw_only=True, slots=True)
class Tokenized:
    """A conversation as ids; the image rows go in front of position `image_at`."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]  # the id where it is learnt, IGNORED elsewhere
    image_at: int | None  # None: no image


def apply_image_rule(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Returns the messages with one `<image>` line at the head of each that holds a mark.

    Only for conversations that have an image. Source: `preprocess_multimodal`, llava/train/train.py.
    """
    return tuple(
        replace(message, text=f"{IMAGE_MARK}\n{message.text.replace(IMAGE_MARK, '').strip()}".strip())
        if IMAGE_MARK in message.text
        else message
        for message in messages
    )


def render(
    form: Template, messages: Sequence[Message], *, strict_reference: bool = True, opens: bool = True
) -> Rendered:
    """Returns the training text and its learnt spans.

    A span runs from the answer (in the `v1` forms from the blank before it, which belongs to its first piece in
    SentencePiece) through the stop mark. Leading answers are dropped. In `plain` everything after the image is learnt.

    Args:
        form: The template.
        messages: After the image rule, where there is an image.
        strict_reference: Learn what the reference learns of a `v1` form, which cuts the text at its separators: where
            a text holds them, or an answer is missing, that is most often nothing of the whole sample. Otherwise the
            spans are those of the answers, and an empty answer has none.
        opens: Where the human speaks last, end with what stands in front of the answer, as a question does.

    Raises:
        DataError: Human and assistant do not alternate, or the template cannot hold the conversation.
    """
    if form.bare:
        return _render_bare(form, messages)
    turns = list(messages)
    if turns and turns[0].role == "gpt":
        turns = turns[1:]
    for number, message in enumerate(turns):
        if message.role != ("human", "gpt")[number % 2]:
            raise DataError(
                f"utterance {number + 1} is by '{message.role}'", where="conversation", fix="let the two speak in turn"
            )
    is_open = opens and len(turns) % 2 == 1
    if form.chat is not None:
        text, found = form.chat.render([(turn.role, turn.text) for turn in turns], opens=is_open)
        return Rendered(text=text, spans=found)
    text = form.system
    spans: list[tuple[int, int]] = []
    for message in turns:
        said = message.text.strip() if form.trims else message.text
        if message.role == "human":
            empty = form.form == "rounds" and not said
            text += form.user.rstrip() if empty else f"{form.user}{said}{form.user_end}"
        elif not said:
            text += form.assistant if form.form == "rounds" else f"{form.assistant}{form.stop}{form.after}"
        else:
            start = len(text) + len(form.assistant)
            text += f"{form.assistant}{form.lead}{said}{form.stop}"
            spans.append((start, len(text)))
            text += form.after
    learnt, masked = _cut_at_separators(form, text) if form.form == "rounds" else (tuple(spans), "")
    if is_open:
        text += form.assistant
    return Rendered(text=text, spans=learnt if strict_reference else tuple(spans), masked=masked)


def _cut_at_separators(form: Template, text: str) -> tuple[tuple[tuple[int, int], ...], str]:
    """Returns the spans that `preprocess_v1` of llava/train/train.py keeps, or none and why.

    It cuts the finished text at the stop marks into rounds, and each round at the one separator between question and
    answer. At a round that has none, or more, it stops, finds that its count of tokens is too small, and masks all.
    """
    spans: list[tuple[int, int]] = []
    start = 0
    for round_ in text.split(form.stop):
        if not round_:
            break
        question, *answers = round_.split(form.separator)
        if len(answers) != 1:
            return (), f"a round holds '{form.separator}' {len(answers)} times, not once"
        end = start + len(round_) + len(form.stop)
        spans.append((start + len(question) + len(form.separator) - len(form.lead), end))
        start = end
    if start != len(text):  # the last round has no stop mark, or two marks stand side by side
        return (), f"the text does not end with one '{form.stop}' behind each round"
    return tuple(spans), ""


def _render_bare(form: Template, messages: Sequence[Message]) -> Rendered:
    if len(messages) != 2 or messages[0].role != "human" or messages[1].role != "gpt":
        raise DataError(
            f"template '{form.name}' takes one human and one assistant utterance, got {len(messages)} utterances",
            where="conversation",
            fix="a model that only describes images (stage 1) cannot be asked: choose another template",
        )
    if IMAGE_MARK not in messages[0].text:
        raise DataError(f"template '{form.name}' needs an image", where="conversation")
    text = f"{IMAGE_MARK}{messages[1].text}{form.stop}"
    return Rendered(text=text, spans=((len(IMAGE_MARK), len(text)),))


def question_prompt(form: Template, question: str, *, has_image: bool) -> str:
    """Returns the text after which the assistant answers; the image mark heads the question.

    A model of stage 1 (`plain`) is asked nothing: it describes the image.

    Raises:
        DataError: A question to `plain`, which would throw it away.
    """
    if form.bare and has_image and not question:
        return IMAGE_MARK
    asked = f"{IMAGE_MARK}\n{question}" if has_image else question
    return render(form, [Message(role="human", text=asked)]).text


def tokenize(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]] = (), *, has_image: bool) -> Tokenized:
    """Returns ids and labels; the pieces beside the image mark are tokenized alone, as the reference does.

    The begin mark stands once at the front where the tokenizer itself puts one, or where the text begins with it (as a
    chat template's may). A token is learnt when it starts inside a span.

    Args:
        tokenizer: A fast transformers tokenizer.
        text: May hold the image mark once, when `has_image`.
        spans: Learnt character ranges.
        has_image: Whether the mark stands for image rows; without an image it is plain text.

    Raises:
        ConfigError: The tokenizer gives no character offsets.
        DataError: The number of image marks is not one although there is an image.
    """
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigError(
            "the tokenizer gives no character offsets",
            where="language_model",
            fix="use a folder with a tokenizer.json (fast tokenizer)",
        )
    pieces = text.split(IMAGE_MARK) if has_image else [text]
    if has_image and len(pieces) != 2:
        raise DataError(f"a text with one image holds {len(pieces) - 1} image marks", where="conversation")
    ids = _begin(tokenizer)
    labels = [IGNORED] * len(ids)
    image_at: int | None = None
    offset = 0
    for number, piece in enumerate(pieces):
        if number:
            image_at = len(ids)
            offset += len(IMAGE_MARK)
        found = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        if number == 0 and ids and found["input_ids"][:1] == ids:
            ids, labels = [], []  # the text brings its begin mark
        for token, (start, _) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            first = offset + start
            # Trap: some tokenizers leave a token's blank out of its offsets, so the test is on the start alone.
            learnt = any(low <= first < high for low, high in spans)
            ids.append(token)
            labels.append(token if learnt else IGNORED)
        offset += len(piece)
    return Tokenized(ids=tuple(ids), labels=tuple(labels), image_at=image_at)


def _begin(tokenizer: Any) -> list[int]:
    """Returns the begin mark, where the tokenizer itself puts one in front of a text; GPT-2's has one and does not."""
    mark = tokenizer.bos_token_id
    return [] if mark is None or tokenizer("a")["input_ids"][:1] != [mark] else [mark]
