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
