"""Parsers against what the reference scorers gave for made-up answers (tests/golden/*_scoring.json)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ovbench.tasks.answers import LETTERS, PARSERS, first_letter, parse_answer

GOLDEN = Path(__file__).parent.parent / "golden"
POPE = json.loads((GOLDEN / "pope_scoring.json").read_text(encoding="utf-8"))["cases"]
SEED = json.loads((GOLDEN / "seed_scoring.json").read_text(encoding="utf-8"))["cases"]
OPTIONS = ("Red", "Green", "Blue", "Black")


@pytest.mark.parametrize("case", POPE, ids=lambda case: repr(case["answer"]))
def test_pope_official_reads_as_the_official_script(case: dict) -> None:
    assert parse_answer("pope_official", case["answer"]) == case["official"]["pred"]


@pytest.mark.parametrize("case", SEED, ids=lambda case: repr(case["response"]))
def test_first_letter_reads_as_lmms_eval(case: dict) -> None:
    assert first_letter(case["response"]) == case["lmms_eval"]["pred"]


@pytest.mark.parametrize("case", SEED, ids=lambda case: repr(case["response"]))
def test_letter_is_right_where_lmms_eval_says_so(case: dict) -> None:
    options = tuple(case[f"choice_{letter}"] for letter in "abcd")
    gold = options[LETTERS.index(case["answer"])]
    assert (parse_answer("letter", case["response"], options) == gold) is case["lmms_eval"]["correct"]


@pytest.mark.parametrize(
    ("raw", "answer"),
    [("B", "Green"), (" d.", "Black"), ("E", None), ("", None), ("(B)", None), ("2", None), ("Certainly", "Blue")],
)
def test_letter_gives_the_option_or_nothing(raw: str, answer: str | None) -> None:
    assert parse_answer("letter", raw, OPTIONS) == answer


@pytest.mark.parametrize(
    ("raw", "answer"),
    [("red", "Red"), (" BLUE. ", "Blue"), ("Blue .", "Blue"), ("Blue..", None), ("a red one", None), ("", None)],
)
def test_option_text_takes_the_whole_text_alone(raw: str, answer: str | None) -> None:
    assert parse_answer("option_text", raw, OPTIONS) == answer


def test_option_text_gives_the_option_as_it_was_written() -> None:
    assert parse_answer("option_text", "u.s.", ("U.S.", "UK")) == "U.S."


@pytest.mark.parametrize(
    ("raw", "answer"),
    [("yes", "yes"), ("No.", "no"), (" YES\n", "yes"), ("yes, there is", None), ("nope", None), ("", None)],
)
def test_yesno_strict_reads_the_bare_word_alone(raw: str, answer: str | None) -> None:
    assert parse_answer("yesno_strict", raw) == answer


@pytest.mark.parametrize("name", PARSERS)
def test_every_parser_survives_odd_text(name: str) -> None:
    for raw in ("", " ", "\n", ".", "…", "é", "ß", "a" * 10_000):
        read = parse_answer(name, raw, OPTIONS)
        assert read in (None, "yes", "no", *OPTIONS) or PARSERS[name].kind == "open"
