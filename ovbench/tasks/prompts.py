"""Question and options → the text that a model is asked, without the image mark and the chat template."""

from __future__ import annotations

import string

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.tasks.answers import LETTERS

# The instruction lines of LLaVA-1.5 (https://github.com/haotian-liu/LLaVA, docs/Evaluation.md), letter by letter.
SUFFIXES = {
    "letter_instruction": "Answer with the option's letter from the given choices directly.",
    "short_instruction": "Answer the question using a single word or phrase.",
}
FIELDS = ("question", "options", *SUFFIXES)


def option_lines(options: tuple[str, ...]) -> str:
    """Returns the options as lines `A. …`, without a final newline."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def check_prompt(template: str, *, where: str) -> None:
    """Checks a prompt template.

    Raises:
        ConfigError: It has an unknown or malformed placeholder, or none for the question.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"the prompt is malformed: {error}", where=where, fix="write a brace as {{ or }}") from None
    names = [name for _, name, _, _ in parts if name is not None]
    for name in names:
        if name not in FIELDS:
            raise unknown("placeholder", f"{{{name}}}", [f"{{{field}}}" for field in FIELDS], where=where)
    if any(form or conversion for _, _, form, conversion in parts):
        raise ConfigError("the prompt has a placeholder with a format", where=where, fix="write it as {question}")
    if "question" not in names:
        raise ConfigError("the prompt does not hold the question", where=where, fix="write {question} where it belongs")


def render_prompt(template: str, question: str, options: tuple[str, ...] = ()) -> str:
    """Returns the prompt of one question.

    Args:
        template: Text with `{question}` and, as wanted, `{options}` (lines `A. …`), `{letter_instruction}` and
            `{short_instruction}` (SUFFIXES). Braces in the question stay as they are.
        question: The question.
        options: The options in the order of their letters.
    """
    return template.format(question=question, options=option_lines(options), **SUFFIXES)
