"""Named ways to read a greedy answer. Each returns one of the options (or yes / no), or None."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ovbench.tasks.prompts import LETTERS

Parser = Callable[[str, Sequence[str]], str | None]


def letter(raw: str, options: Sequence[str]) -> str | None:
    """Reads the option's letter: the first character, any case (lmms-eval tasks/seedbench/utils.py)."""
    text = raw.strip()
    index = LETTERS.find(text[:1].upper()) if text else -1
    return options[index] if 0 <= index < len(options) else None


def option_text(raw: str, options: Sequence[str]) -> str | None:
    """Reads the option's own text, any case, with or without a final dot."""
    text = raw.strip().rstrip(".").strip().lower()
    return next((option for option in options if option.lower() == text), None)


def pope_official(raw: str, options: Sequence[str]) -> str | None:
    """Reads yes or no as POPE does (evaluate.py): first sentence, no commas; `no` if a word is No, not or no, else yes."""
    del options
    words = raw.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def yesno_strict(raw: str, options: Sequence[str]) -> str | None:
    """Reads exactly `yes` or `no`, any case, with or without a final dot; anything else is unread."""
    del options
    text = raw.strip().rstrip(".").lower()
    return text if text in ("yes", "no") else None


PARSERS: dict[str, Parser] = {
    "letter": letter,
    "option_text": option_text,
    "pope_official": pope_official,
    "yesno_strict": yesno_strict,
}


def parse(name: str, raw: str, options: Sequence[str]) -> str | None:
    """Reads an answer with the parser of that name."""
    return PARSERS[name](raw, options)
