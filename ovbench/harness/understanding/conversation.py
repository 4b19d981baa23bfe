"""Conversations as LLaVA-1.5 writes them: templates, the image rule, and which tokens are learnt.

The strings follow `llava/conversation.py` and the masks `llava/train/train.py` of haotian-liu/LLaVA; masks are made
from character offsets instead of counting the tokens of prefixes, which is exact for every tokenizer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from ovbench._base.errors import ConfigError, DataError
from ovbench._base.names import lookup

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
class Template:
    """How a conversation becomes one string."""

    name: str
    system: str = ""
    user: str = "USER"
    assistant: str = "ASSISTANT"
    stop: str = "</s>"  # ends an answer; the language model's own end mark
    bare: bool = False  # `plain`: image mark, caption, stop; no roles, and what the human says is thrown away


_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
TEMPLATES = {
    "plain": Template(name="plain", stop="\n", bare=True),
    "v1": Template(name="v1", system=_SYSTEM),
    "v1_short": Template(name="v1_short"),
}


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


def template(name: str, *, stop: str | None = None) -> Template:
    """Returns a template; `stop` replaces the end mark of answers (not that of `plain`) by the model's own.

    Raises:
        ConfigError: There is no such template.
    """
    found = lookup(TEMPLATES, name, kind="template", where="template")
    return found if stop is None or found.bare else replace(found, stop=stop)


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


def render(form: Template, messages: Sequence[Message], *, strict_reference: bool = True) -> Rendered:
    """Returns the training text and its learnt spans.

    A span runs from the blank before the answer, which belongs to the answer's first piece in SentencePiece, through
    the stop mark. Leading answers are dropped. In `plain` everything after the image is learnt.

    Args:
        form: The template.
        messages: After the image rule, where there is an image.
        strict_reference: Mask whole samples as the reference does: a text holds the template's own separators, or an
            answer is empty. Otherwise the spans stay exact and an empty answer has none.

    Raises:
        DataError: Human and assistant do not alternate.
    """
    if form.bare:
        return _render_bare(form, messages)
    turns = list(messages)
    if turns and turns[0].role == "gpt":
        turns = turns[1:]
    text = f"{form.system} " if form.system else ""
    split = f" {form.assistant}: "
    spans: list[tuple[int, int]] = []
    masked = ""
    for number, message in enumerate(turns):
        if message.role != ("human", "gpt")[number % 2]:
            raise DataError(
                f"utterance {number + 1} is by '{message.role}'", where="conversation", fix="let the two speak in turn"
            )
        if message.role == "human":
            head = f"{form.user}: {message.text} "
            text += head
            continue
        start = len(text) + len(form.assistant) + 1
        if not message.text:
            masked = masked or "an answer is empty"
            text += f"{form.assistant}:"
            continue
        text += f"{form.assistant}: {message.text}{form.stop}"
        spans.append((start, len(text)))
        body = f"{turns[number - 1].text} {form.assistant}: {message.text}"
        if form.stop in body:
            masked = masked or f"a text holds '{form.stop}'"
        elif body.count(split) != 1:
            masked = masked or f"a text holds '{split}'"
    if len(turns) % 2:
        text += f"{form.assistant}:"
    return Rendered(text=text, spans=() if strict_reference and masked else tuple(spans), masked=masked)


def _render_bare(form: Template, messages: Sequence[Message]) -> Rendered:
    if len(messages) != 2 or messages[0].role != "human" or messages[1].role != "gpt":
        raise DataError(
            f"template '{form.name}' takes one human and one assistant utterance, got {len(messages)} utterances",
            where="conversation",
        )
    if IMAGE_MARK not in messages[0].text:
        raise DataError(f"template '{form.name}' needs an image", where="conversation")
    text = f"{IMAGE_MARK}{messages[1].text}{form.stop}"
    return Rendered(text=text, spans=((len(IMAGE_MARK), len(text)),))


def question_prompt(form: Template, question: str, *, has_image: bool) -> str:
    """Returns the text after which the assistant answers; the image mark heads the question."""
    asked = f"{IMAGE_MARK}\n{question}" if has_image else question
    return render(form, [Message(role="human", text=asked)]).text


def tokenize(tokenizer: Any, text: str, spans: Sequence[tuple[int, int]] = (), *, has_image: bool) -> Tokenized:
    """Returns ids and labels; the pieces beside the image mark are tokenized alone, as the reference does.

    The begin mark is put once at the front when the tokenizer has one. A token is learnt when it starts inside a span.

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
    ids: list[int] = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    labels = [IGNORED] * len(ids)
    image_at: int | None = None
    offset = 0
    for number, piece in enumerate(pieces):
        if number:
            image_at = len(ids)
            offset += len(IMAGE_MARK)
        found = tokenizer(piece, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, _) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            first = offset + start
            # Trap: some tokenizers leave a token's blank out of its offsets, so the test is on the start alone.
            learnt = any(low <= first < high for low, high in spans)
            ids.append(token)
            labels.append(token if learnt else IGNORED)
        offset += len(piece)
    return Tokenized(ids=tuple(ids), labels=tuple(labels), image_at=image_at)
