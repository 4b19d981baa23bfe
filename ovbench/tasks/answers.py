"""Model text → answer, by named parsers. The name is part of a task, because two parsers give two scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
Kind = Literal["choice", "yesno", "open"]
YES_NO = ("yes", "no")


def first_letter(raw: str) -> str:
    """Returns the stripped text, or its first character where it is longer: lmms-eval's reading of SEED-Bench.

    The case is kept. `(B)` gives `(` and `Certainly` gives `C`, as they do there
    (https://github.com/EvolvingLMMs-Lab/lmms-eval, tasks/seedbench/utils.py).
    """
    text = raw.strip()
    return text[0] if len(text) > 1 else text


def _letter(raw: str, options: tuple[str, ...]) -> str | None:
    place = LETTERS.find(first_letter(raw).upper() or "?")
    return options[place] if 0 <= place < len(options) else None


def _normal(text: str) -> str:
    text = text.strip().lower()
    return text[:-1].rstrip() if text.endswith(".") else text


def _option_text(raw: str, options: tuple[str, ...]) -> str | None:
    wanted = _normal(raw)
    return next((option for option in options if _normal(option) == wanted), None)


def _yesno_strict(raw: str, options: tuple[str, ...]) -> str | None:
    del options
    return text if (text := _normal(raw)) in YES_NO else None


def _pope_official(raw: str, options: tuple[str, ...]) -> str | None:
    del options
    words = raw.split(".")[0].replace(",", "").split(" ")  # Contract: on the blank alone, `\nno` is not a `no`
    return "no" if {"No", "no", "not"} & set(words) else "yes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Parser:
    """One way to read an answer."""

    kind: Kind  # the kind of task it reads
    description: str
    read: Callable[
        [str, tuple[str, ...]], str | None
    ]  # (model text, options) → option text, yes or no; None: no answer


PARSERS: Mapping[str, Parser] = {
    "letter": Parser(
        kind="choice",
        description="first character as the option's letter, any case (lmms-eval, SEED-Bench)",
        read=_letter,
    ),
    "option_text": Parser(
        kind="choice",
        description="the whole text equals an option; case, outer blanks and one final dot aside",
        read=_option_text,
    ),
    "yesno_strict": Parser(
        kind="yesno",
        description="yes or no alone; case, outer blanks and one final dot aside",
        read=_yesno_strict,
    ),
    "pope_official": Parser(
        kind="yesno",
        description="POPE's evaluate.py: no if a word of the first sentence is No, no or not; else yes, empty text too",
        read=_pope_official,
    ),
}


def parse_answer(parser: str, raw: str, options: tuple[str, ...] = ()) -> str | None:
    """Returns what the text answers: an option's text, `yes` or `no`, or None where it answers nothing.

    Args:
        parser: A name of PARSERS.
        raw: The model's text as it came.
        options: The options of the question, in the order of their letters.
    """
    return PARSERS[parser].read(raw, options)
