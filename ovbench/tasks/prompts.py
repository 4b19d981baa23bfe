"""Question and options → the text that a model is asked."""

from __future__ import annotations

from collections.abc import Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def option_lines(options: Sequence[str]) -> str:
    """Returns `A. first` … one a line, as LLaVA-1.5 asks multiple-choice questions (docs/Evaluation.md)."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))


def build_prompt(template: str, question: str, options: Sequence[str]) -> str:
    """Returns the template with `{question}` and `{options}` filled in; other braces stay as they are."""
    return template.replace("{options}", option_lines(options)).replace("{question}", question)
