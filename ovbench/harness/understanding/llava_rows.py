"""One row of LLaVA's JSON lists: what is wrong with it, what is odd, and the conversation that it holds.

Source of the form: docs/Finetune_Custom_Data.md of haotian-liu/LLaVA. A fault means that the row cannot be trained on;
an oddity is trained on as it is and reported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal, cast

from ovbench.harness.understanding.conversation import IMAGE_MARK, Conversation, Message

ROLES = ("human", "gpt")
MANY_WORDS = 1500  # of a row: far above what 2,048 positions hold beside an image, so that the end is cut off


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Something about a row."""

    kind: str  # a few words that rows are counted by
    detail: str = ""
    fault: bool = True  # False: odd, but it can be trained on


def examine(row: Any, stage: Literal[1, 2] | int) -> Iterator[Finding]:
    """Yields everything that is wrong or odd with a row; what cannot be read after a fault is not looked at.

    Args:
        row: As JSON has it.
        stage: In stage 1 a row is one human and one assistant utterance about an image.
    """
    if not isinstance(row, Mapping):
        yield Finding(kind="not an object", detail=f"found {type(row).__name__}")
        return
    turns = row.get("conversations")
    if not isinstance(turns, list) or not turns:
        yield Finding(kind="no conversations")
        return
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, Mapping) or not isinstance(turn.get("value"), str):
            yield Finding(kind="utterance without a text", detail=f"utterance {number}")
            return
        if turn.get("from") not in ROLES:
            yield Finding(kind="unknown role", detail=f"utterance {number} is by {turn.get('from')!r}")
            return
        if any("\ud800" <= mark <= "\udfff" for mark in turn["value"]):
            yield Finding(kind="half a character", detail=f"utterance {number}")
            return
    roles = [turn["from"] for turn in turns]
    # The reference drops an answer that nobody asked for.
    asked = roles[1:] if roles[0] == "gpt" else roles
    if asked != [ROLES[number % 2] for number in range(len(asked))]:
        yield Finding(kind="speakers do not alternate", detail=", ".join(roles[:6]))
    if "gpt" not in asked:
        yield Finding(kind="no answer")
    elif roles[0] == "gpt":
        yield Finding(kind="begins with an answer", fault=False)
    for number, turn in enumerate(turns, start=1):
        if not turn["value"].strip():
            yield Finding(kind="empty text", detail=f"utterance {number}", fault=False)
    yield from _examine_image(row, stage)
    if stage == 1 and (roles != list(ROLES)):
        yield Finding(kind="stage 1 takes one question and one answer", detail=f"{len(roles)} utterances")
    if (num_words := words_of(row)) > MANY_WORDS:
        yield Finding(kind="very long", detail=f"{num_words} words", fault=False)


def _examine_image(row: Mapping[str, Any], stage: int) -> Iterator[Finding]:
    marked = [IMAGE_MARK in turn["value"] for turn in row["conversations"]]
    image = row.get("image")
    if image is None:
        if stage == 1:
            yield Finding(kind="no image")
        elif any(marked):  # the reference reads it as text, and so does the tokenizer's rule here
            yield Finding(kind="an image mark without an image", fault=False)
        return
    if isinstance(image, list):
        yield Finding(kind="several images", detail=f"{len(image)} images")
        return
    if not isinstance(image, str) or not image:
        yield Finding(kind="image is no path", detail=repr(image)[:60])
        return
    path = PurePosixPath(image)
    if path.is_absolute() or ".." in path.parts or "\0" in image:
        yield Finding(kind="outside the image folder", detail=image)
    if not any(marked):
        yield Finding(kind="no image mark")
    elif sum(marked) > 1:
        yield Finding(kind="several image marks", detail=f"in {sum(marked)} utterances")
    elif row["conversations"][0]["from"] == "gpt" and marked[0]:
        yield Finding(kind="the image mark is in a dropped answer")
    elif any(turn["value"].count(IMAGE_MARK) > 1 for turn in row["conversations"]):
        yield Finding(kind="the image mark is repeated", fault=False)  # the image rule makes one of it


def words_of(row: Mapping[str, Any]) -> int:
    """Returns the words of all utterances, as the reference counts a row's length."""
    return sum(len(turn["value"].split()) for turn in row["conversations"])


def conversation_of(row: Mapping[str, Any], image_id: str | None) -> Conversation:
    """Returns the conversation of a row without faults."""
    messages = [
        Message(role=cast(Literal["human", "gpt"], turn["from"]), text=turn["value"]) for turn in row["conversations"]
    ]
    return Conversation(messages=tuple(messages), image_id=image_id)
