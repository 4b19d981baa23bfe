"""Question and options → prompt."""

from __future__ import annotations

import pytest

from ovbench._base.errors import ConfigError
from ovbench.tasks.prompts import check_prompt, render_prompt


def test_letter_prompt_is_llava_s() -> None:
    prompt = render_prompt("{question}\n{options}\n{letter_instruction}", "What is it?", ("cup", "plate"))
    assert prompt == ("What is it?\nA. cup\nB. plate\nAnswer with the option's letter from the given choices directly.")


def test_short_prompt_is_llava_s() -> None:
    prompt = render_prompt("{question}\n{short_instruction}", "Is it red?")
    assert prompt == "Is it red?\nAnswer the question using a single word or phrase."


def test_braces_in_a_question_stay() -> None:
    assert render_prompt("{question}", "What is {options} in f{x}?", ("a", "b")) == "What is {options} in f{x}?"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{options}", "does not hold the question"),
        ("{qestion}", "did you mean '{question}'"),
        ("{question", "malformed"),
        ("{question!r}", "with a format"),
        ("{question.__class__}", "unknown placeholder"),
    ],
)
def test_bad_template_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_prompt(template, where="prompt")
    assert message in str(caught.value)


HINTED = "[[Context: {hint}\n]]{question}"


def test_further_column_is_a_placeholder() -> None:
    assert render_prompt("{question} ({source})", "Why?", extra={"source": "book"}) == "Why? (book)"


def test_optional_part_is_left_out_where_its_column_is_empty() -> None:
    assert render_prompt(HINTED, "Why?", extra={"hint": "Look."}) == "Context: Look.\nWhy?"
    assert render_prompt(HINTED, "Why?", extra={"hint": ""}) == "Why?"


def test_optional_part_needs_all_of_its_columns() -> None:
    template = "[[{a}, {b}: ]]{question}"
    assert render_prompt(template, "Why?", extra={"a": "x", "b": ""}) == "Why?"
    assert render_prompt(template, "Why?", extra={"a": "x", "b": "y"}) == "x, y: Why?"


def test_brackets_and_braces_in_the_texts_stay() -> None:
    assert (
        render_prompt(HINTED, "Is [[{hint}]] one?", extra={"hint": "f{x}]]"}) == "Context: f{x}]]\nIs [[{hint}]] one?"
    )


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("[[Context: {hint}\n]]{hint}", "does not hold the question"),
        ("[[{question}]]", "must hold columns of source.extra"),
        ("[[Context\n]]{question}", "must hold columns of source.extra"),
        ("[[{hont}]]{question}", "did you mean '{hint}'"),
        ("[[{hint}]{question}", "without its partner"),
        ("{hint}]]{question}", "without its partner"),
        ("[[{hint!r}]]{question}", "with a format"),
    ],
)
def test_bad_optional_part_is_refused(template: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_prompt(template, where="prompt", extra=("hint",))
    assert message in str(caught.value)


def test_column_that_is_not_declared_is_no_placeholder() -> None:
    with pytest.raises(ConfigError, match="unknown placeholder"):
        check_prompt("{hint}{question}", where="prompt")
