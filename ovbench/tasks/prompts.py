"""Question and options → the text that a model is asked, without the image mark and the chat template."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping
from typing import Any

from ovbench._base.errors import ConfigError
from ovbench._base.names import unknown
from ovbench.tasks.answers import LETTERS

# The instruction lines of LLaVA-1.5 (https://github.com/haotian-liu/LLaVA, docs/Evaluation.md), letter by letter.
SUFFIXES = {
    "letter_instruction": "Answer with the option's letter from the given choices directly.",
    "short_instruction": "Answer the question using a single word or phrase.",
}
FIELDS = ("question", "options", *SUFFIXES)
_OPTIONAL = re.compile(r"\[\[(.*?)\]\]", flags=re.DOTALL)  # a part that is left out where its column is empty


def option_lines(options: tuple[str, ...]) -> str:
    """Returns the options as lines `A. …`, without a final newline."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def extra_names(source: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the further columns that a task's source declares: each is a placeholder of the prompt."""
    return tuple(source.get("extra", ()))


def check_prompt(template: str, *, where: str, extra: Iterable[str] = ()) -> None:
    """Checks a prompt template.

    Args:
        template: See `render_prompt`.
        where: The file and key, for messages.
        extra: The further columns that the source declares.

    Raises:
        ConfigError: It has an unknown or malformed placeholder or optional part, or none for the question.
    """
    extra = tuple(extra)
    known = (*FIELDS, *extra)
    for part in _OPTIONAL.findall(template):
        names = _placeholders(part, known, where)
        if not names or not set(names) <= set(extra):
            raise ConfigError(
                f"the optional part '[[{part}]]' must hold columns of source.extra, and nothing else in braces",
                where=where,
                fix="e.g. extra: [hint] in the source, and [[Context: {hint}]] in the prompt",
            )
    if any(mark in _OPTIONAL.sub("", template) for mark in ("[[", "]]")):
        raise ConfigError("the prompt has a '[[' or ']]' without its partner", where=where, fix="write [[…{column}…]]")
    if "question" not in _placeholders(_OPTIONAL.sub("", template), known, where):
        raise ConfigError("the prompt does not hold the question", where=where, fix="write {question} where it belongs")


def _placeholders(template: str, known: tuple[str, ...], where: str) -> list[str]:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise ConfigError(f"the prompt is malformed: {error}", where=where, fix="write a brace as {{ or }}") from None
    names = [name for _, name, _, _ in parts if name is not None]
    for name in names:
        if name not in known:
            raise unknown("placeholder", f"{{{name}}}", [f"{{{field}}}" for field in known], where=where)
    if any(form or conversion for _, _, form, conversion in parts):
        raise ConfigError("the prompt has a placeholder with a format", where=where, fix="write it as {question}")
    return names


def render_prompt(
    template: str, question: str, options: tuple[str, ...] = (), extra: Mapping[str, str] | None = None
) -> str:
    """Returns the prompt of one question.

    Args:
        template: Text with `{question}` and, as wanted, `{options}` (lines `A. …`), `{letter_instruction}` and
            `{short_instruction}` (SUFFIXES), and the columns of `extra`. A part in double square brackets,
            `[[Context: {hint}]]`, is left out where a column in it is empty. Braces and brackets in the question stay
            as they are.
        question: The question.
        options: The options in the order of their letters.
        extra: Further columns of the row.
    """
    values = {**(extra or {}), "question": question, "options": option_lines(options), **SUFFIXES}

    def part(match: re.Match[str]) -> str:
        names = [name for _, name, _, _ in string.Formatter().parse(match[1]) if name]
        return match[1] if all(values[name] for name in names) else ""

    return _OPTIONAL.sub(part, template).format(**values)
