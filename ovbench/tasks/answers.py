"""Model text → answer, by named parsers. The name is part of a task, because two parsers give two scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from ovbench.tasks import reading_letters, reading_text, reading_yesno
from ovbench.tasks.reading_letters import LETTERS, first_letter
from ovbench.tasks.reading_yesno import YES_NO

__all__ = ["LETTERS", "PARSERS", "YES_NO", "Kind", "Parser", "first_letter", "option_at", "parse_answer"]
Kind = Literal["choice", "yesno", "open"]


def option_at(letter: str | None, options: tuple[str, ...]) -> str | None:
    """Returns the option of a letter in any case; None where it names none."""
    place = LETTERS.find(letter.upper() if letter else "?")
    return options[place] if 0 <= place < len(options) else None


def _letter(raw: str, options: tuple[str, ...]) -> str | None:
    return option_at(first_letter(raw), options)


def _normal(text: str) -> str:
    text = text.strip().lower()
    return text[:-1].rstrip() if text.endswith(".") else text


def _option_text(raw: str, options: tuple[str, ...]) -> str | None:
    wanted = _normal(raw)
    return next((option for option in options if _normal(option) == wanted), None)


def _yesno_strict(raw: str, options: tuple[str, ...]) -> str | None:
    del options
    return text if (text := _normal(raw)) in YES_NO else None


def _scienceqa(raw: str, options: tuple[str, ...]) -> str | None:
    return option_at(reading_letters.labelled_letter(raw, len(options)), options)


def _bare(read: Callable[[str], str | None]) -> Callable[[str, tuple[str, ...]], str | None]:
    """Returns a reader that asks for no options and takes an empty answer for none."""
    return lambda raw, options: read(raw) or None


@dataclass(frozen=True, kw_only=True, slots=True)
class Parser:
    """One way to read an answer."""

    kind: Kind  # the kind of task it reads
    description: str
    read: Callable[
        [str, tuple[str, ...]], str | None
    ]  # (model text, options) → option text, yes or no, the normalised text of an open answer; None: no answer


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
        read=_bare(reading_yesno.pope_official),
    ),
    "mme_official": Parser(
        kind="yesno",
        description="MME's calculation.py: yes or no within the first four characters, any case; else nothing",
        read=_bare(reading_yesno.mme_official),
    ),
    "scienceqa": Parser(
        kind="choice",
        description="LLaVA's eval_science_qa.py: the bare letter, `B. …`, or exactly one `The answer is B.`",
        read=_scienceqa,
    ),
    "gqa": Parser(
        kind="open",
        description="LLaVA's convert_gqa_for_eval.py: lower case without final dots, then equality as in GQA's eval.py",
        read=_bare(reading_text.without_final_dots),
    ),
    "vqa": Parser(
        kind="open",
        description="EvalAI's normaliser: case, punctuation, digits, articles, contractions (TextVQA, VizWiz)",
        read=_bare(reading_text.vqa_normal),
    ),
    "chartqa": Parser(
        kind="open",
        description="the stripped text, in lower case: a number within 5%, else equality (ChartQA)",
        read=_bare(reading_text.lowered),
    ),
    "ocrbench": Parser(
        kind="open",
        description="lower case, line breaks as blanks; right where a reference is part of it (OCRBench)",
        read=_bare(reading_text.ocr_normal),
    ),
}


def parse_answer(parser: str, raw: str, options: tuple[str, ...] = ()) -> str | None:
    """Returns what the text answers: an option's text, `yes` or `no`, a normalised text; None where it answers nothing.

    Args:
        parser: A name of PARSERS.
        raw: The model's text as it came.
        options: The options of the question, in the order of their letters.
    """
    return PARSERS[parser].read(raw, options)
